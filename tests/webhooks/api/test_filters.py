"""`filter` of a webhook, and its preview, by the API."""

from collections.abc import Callable
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from rest_framework.test import APIClient

from projects.models import User
from tests.webhooks.api.conftest import MakeClient
from webhooks import service
from webhooks.models import Webhook

NEW = {"name": "Dear ones", "url": "http://127.0.0.1:9/hook", "events": ["payment.*"]}
FILTER = {
    "amount": {"gte": 10_000},
    "currency": {"in": ["EUR", "USD"]},
    "$or": [{"subscriptionId": {"startsWith": "sub_"}}, {"reason": {"exists": True}}],
}


def payment(amount: int) -> dict[str, Any]:
    return {
        "id": "pay_1", "subscriptionId": "sub_1", "amount": amount, "currency": "EUR",
        "paidAt": "2026-11-23T10:30:00.123Z",
    }  # fmt: skip


def test_a_filter_is_set_shown_changed_and_removed(client: APIClient) -> None:
    created = client.post("/api/v1/webhooks", NEW | {"filter": FILTER}).json()
    path = f"/api/v1/webhooks/{created['id']}"
    shown = client.get(path).json()
    changed = client.patch(path, {"filter": {"subscriptionId": None}}).json()
    renamed = client.patch(path, {"name": "Others"}).json()
    removed = client.patch(path, {"filter": None}).json()
    plain = client.post("/api/v1/webhooks", NEW).json()

    assert created["filter"] == shown["filter"] == FILTER
    assert changed["filter"] == renamed["filter"] == {"subscriptionId": None}
    assert removed["filter"] is plain["filter"] is None


@pytest.mark.parametrize(
    ("filter_", "message"),
    [
        ({"amuont": 5}, "amuont: payment.failed, payment.succeeded has no such field."),
        ({"amount": {"gt": "5"}}, 'amount: gt "5" compares with a string'),
        ({"amount": {"like_regex": "^5"}}, "amount: there is no operator like_regex"),
        ({"amount": {"in": list(range(101))}}, "makes 101 comparisons"),
        ([], "A filter is an object"),
        ("amount > 5", "A filter is an object"),
        ({}, "at least one condition"),
    ],
)
def test_a_wrong_filter_is_named_at_every_door(
    client: APIClient, make_webhook: Callable[..., Webhook], filter_: Any, message: str
) -> None:
    webhook = make_webhook(events=["payment.*"])
    path = f"/api/v1/webhooks/{webhook.public_id}"
    count = Webhook.objects.count()

    answers = [
        client.post("/api/v1/webhooks", NEW | {"filter": filter_}),
        client.patch(path, {"filter": filter_}),
        client.post(f"{path}/filter-preview", {"filter": filter_}),
    ]

    for answer in answers:
        assert answer.status_code == 400
        (error,) = answer.json()["errors"]
        assert error["pointer"] == "/filter"
        assert message in error["message"]
    assert Webhook.objects.count() == count


def test_only_events_that_fit_are_sent_and_explain_says_why(client: APIClient) -> None:
    webhook = client.post("/api/v1/webhooks", NEW | {"filter": FILTER}).json()
    cheap, dear = (
        client.post("/api/v1/events", {"type": "payment.succeeded", "data": payment(amount)}).json()
        for amount in (500, 10_000)
    )

    deliveries = client.get(f"/api/v1/webhooks/{webhook['id']}/deliveries").json()["results"]
    explained = client.get(f"/api/v1/events/{cheap['id']}?explain=true").json()["explanation"]
    feed = client.get("/api/v1/events?type=payment.succeeded").json()["results"]

    assert [one["eventId"] for one in deliveries] == [dear["id"]]
    assert [(one["matches"], one["reason"]) for one in explained] == [
        (False, "It is filtered: amount is 500.")
    ]
    assert [one["id"] for one in feed] == [dear["id"], cheap["id"]]


def test_preview_counts_and_names_what_is_left_out(
    client: APIClient, user: User, make_webhook: Callable[..., Webhook]
) -> None:
    webhook = make_webhook(events=["payment.*"], filter={"amount": {"gte": 3}})
    events = [
        service.trigger_event("payment.succeeded", user, payment(amount)) for amount in range(5)
    ]
    path = f"/api/v1/webhooks/{webhook.public_id}/filter-preview"

    own = client.post(path).json()
    other = client.post(path, {"filter": {"amount": {"lt": 4}}}).json()

    assert (own["considered"], own["matched"], len(own["leftOut"])) == (5, 2, 3)
    assert (other["considered"], other["matched"]) == (5, 4)
    assert other["leftOut"] == [
        {
            "eventId": events[4].public_id,
            "eventType": "payment.succeeded",
            "createdAt": other["leftOut"][0]["createdAt"],
            "reason": "It is filtered: amount is 4.",
        }
    ]


def test_nobody_previews_with_the_webhook_of_another(
    other_user: User, make_client: MakeClient, make_webhook: Callable[..., Webhook]
) -> None:
    webhook = make_webhook(events=["payment.*"])
    path = f"/api/v1/webhooks/{webhook.public_id}/filter-preview"

    assert make_client(other_user).post(path).status_code == 404


def test_a_filter_is_put_by_uid(client: APIClient) -> None:
    path = "/api/v1/webhooks/by-uid/dear"
    plain = NEW | {"events": ["session.ended"]}
    wish = plain | {
        "filter": {"$or": [{"projectName": "Website"}, {"projectId": {"exists": True}}]}
    }

    def put(body: dict[str, Any]) -> tuple[Any, Any, str]:
        answer = client.put(path, body)
        return answer.status_code, answer.json()["filter"], answer["ETag"]

    made, again, removed = put(wish), put(wish), put(plain)
    stored = Webhook.objects.get(uid="dear")

    assert made == (201, wish["filter"], made[2])
    assert again == (200, wish["filter"], made[2])
    assert removed == (200, None, removed[2])
    assert removed[2] != made[2]
    assert (stored.filter, stored.filter_path) == (None, None)


def test_true_is_not_1_when_a_filter_is_put_again(user: User) -> None:
    wish: dict[str, Any] = NEW | {"uid": "dear"}
    service.put_webhook(user, **wish, filter={"amount": {"exists": True}})

    with pytest.raises(ValidationError, match="exists takes true or false"):
        service.put_webhook(user, **wish, filter={"amount": {"exists": 1}})
