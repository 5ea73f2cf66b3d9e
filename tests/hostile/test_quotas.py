"""What one owner can cause in an hour is bounded, with however many tokens and batches."""

from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from pytest_django import Settings
from rest_framework.test import APIClient

from projects.models import User
from tests.webhooks.api.conftest import MakeClient
from tests.webhooks.api.matrix import NEW_EVENT
from webhooks.doors import allowances
from webhooks.models import Delivery, Event, Redelivery, Webhook

QUOTAS = {"events": 30, "deliveries": 40, "redeliveries": 10}


@pytest.fixture(autouse=True)
def _small_quotas(settings: Settings) -> None:
    settings.WEBHOOKS_QUOTAS_PER_HOUR = QUOTAS


def batch(count: int) -> dict[str, Any]:
    return {"events": [NEW_EVENT] * count}


def test_a_batch_counts_as_its_events(client: APIClient) -> None:
    assert client.post("/api/v1/events/batch", batch(20)).status_code == 200
    assert client.post("/api/v1/events", NEW_EVENT).status_code == 201

    refused = client.post("/api/v1/events/batch", batch(10))

    assert refused.status_code == 429
    assert "30 events of this hour" in refused.json()["detail"]
    assert 1 <= int(refused["Retry-After"]) <= 3600
    assert Event.objects.filter(type=NEW_EVENT["type"]).count() == 21


def test_deliveries_count_by_webhook(
    client: APIClient, make_webhook: Callable[..., Webhook]
) -> None:
    for number in range(5):
        make_webhook(name=str(number))
    codes = [client.post("/api/v1/events", NEW_EVENT).status_code for _ in range(12)]

    assert codes == [201] * 9 + [429] * 3
    assert Delivery.objects.count() == 45


def test_many_tokens_do_not_multiply(
    user: User, make_client: MakeClient, settings: Settings
) -> None:
    settings.WEBHOOKS_API_REQUESTS_PER_MINUTE = settings.WEBHOOKS_API_REQUESTS_PER_MINUTE | {
        "token": 10,
        "user": 25,
    }
    codes = [make_client(user).get("/api/v1/webhooks").status_code for _ in range(50)]
    assert codes == [200] * 25 + [429] * 25
    events = [make_client(user).post("/api/v1/events", NEW_EVENT).status_code for _ in range(5)]
    assert events == [429] * 5


def test_redeliveries_are_counted_before_they_begin(
    client: APIClient, user: User, make_webhook: Callable[..., Webhook]
) -> None:
    webhook = make_webhook()
    client.post("/api/v1/events/batch", batch(8))
    Delivery.objects.update(status="FAILED", next_attempt_at=None)
    wish = {"webhookId": webhook.public_id}

    with CaptureQueriesContext(connection) as queries:
        assert client.post("/api/v1/redeliveries", wish).status_code == 202
    # Once, for the quota and for what is stored.
    assert sum("COUNT(" in one["sql"] for one in queries if "delivery" in one["sql"]) == 1
    assert Redelivery.objects.get().matched_count == 8
    refused = client.post("/api/v1/redeliveries", wish)

    assert refused.status_code == 429
    assert Redelivery.objects.count() == 1
    replay = wish | {"since": "2020-01-01T00:00:00Z", "replay": True}
    Delivery.objects.all().delete()
    assert client.post("/api/v1/redeliveries", replay).status_code == 429


def test_owners_may_have_quotas_of_their_own(
    client: APIClient, user: User, other_user: User, make_client: MakeClient, settings: Settings
) -> None:
    settings.WEBHOOKS_QUOTAS_OF_OWNERS = {str(user.pk): {"events": 5}}

    assert client.post("/api/v1/events/batch", batch(6)).status_code == 429
    assert make_client(other_user).post("/api/v1/events/batch", batch(6)).status_code == 200


def test_counting_a_large_quota_asks_valkey_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    counter, other = allowances.Counter(), allowances.Counter()
    total, asked = 0, 0

    def add(key: str, step: int, last: int, seconds: int) -> int:
        nonlocal total, asked
        total, asked = total + step, asked + 1
        return total

    monkeypatch.setattr(counter, "_add", add)
    monkeypatch.setattr(other, "_add", add)
    granted = sum(
        amount
        for _ in range(2_000)
        for one, amount in ((counter, 1), (counter, 7), (other, 3), (counter, 0))
        if one.add("key", amount, 10_000, 3600) <= 10_000
    )

    assert 9_500 < granted <= 10_000
    assert asked < 400


def test_what_the_product_reports_is_not_limited(
    user: User, staff: User, make_client: MakeClient
) -> None:
    client = make_client(staff, is_service=True)
    wish = {"events": [NEW_EVENT | {"userId": str(user.pk)}] * 100}

    assert client.post("/api/v1/events/batch", wish).json()["accepted"] == 100
