"""What was given for one server does not follow a webhook to another."""

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone
from rest_framework.test import APIClient

from projects.models import User
from webhooks.models import Event, Webhook
from webhooks.registry.switch import disable_automatically

HEADERS = {"Authorization": "Bearer of-the-old-server"}
OLD = "http://127.0.0.1:9/hook"
ELSEWHERE = [
    "http://127.0.0.2:9/hook", "http://127.0.0.1:10/hook", "https://127.0.0.1:9/hook",
    "http://localhost:9/hook", "http://127.0.0.1/hook", "https://127.0.0.1/hook",
]  # fmt: skip
THERE = ["http://127.0.0.1:9/", "HTTP://127.0.0.1:9/other?a=b", "http://127.0.0.1:9/hook"]


@pytest.mark.parametrize("url", ELSEWHERE)
def test_headers_are_asked_for_again(
    client: APIClient, make_webhook: Callable[..., Webhook], url: str
) -> None:
    webhook = make_webhook(url=OLD, headers=HEADERS)
    path = f"/api/v1/webhooks/{webhook.public_id}"

    refused = client.patch(path, {"url": url, "name": "mine"})

    assert refused.status_code == 400
    assert refused.json()["errors"][0]["pointer"] == "/headers"
    assert client.get(path).json()["url"] == OLD
    assert client.patch(path, {"url": url, "headers": {}}).json()["headerNames"] == []


@pytest.mark.parametrize("url", THERE)
def test_headers_stay_with_their_server(
    client: APIClient, make_webhook: Callable[..., Webhook], url: str
) -> None:
    webhook = make_webhook(url=OLD, headers=HEADERS)

    answer = client.patch(f"/api/v1/webhooks/{webhook.public_id}", {"url": url})

    assert answer.json()["headerNames"] == ["Authorization"]


def test_admin_asks_for_them_again(make_webhook: Callable[..., Webhook]) -> None:
    webhook = make_webhook(url=OLD, headers=HEADERS)
    admin = User.objects.create(username="root", is_staff=True, is_superuser=True)
    client = Client()
    client.force_login(admin)
    form: dict[str, Any] = {
        "name": "a", "url": ELSEWHERE[0], "events": "*", "timeout_seconds": 5, "max_retries": 3,
        "form": "standard", "order": "none", "batch_events": 1, "batch_bytes": 1_000_000, "batch_milliseconds": 0, "retry_delay_seconds": 5,
    }  # fmt: skip
    page = f"/admin/webhooks/webhook/{webhook.pk}/settings/"

    refused = client.post(page, form)

    assert refused.status_code == 200
    assert b"give the custom headers again" in refused.content
    webhook.refresh_from_db()
    assert webhook.url == OLD
    assert client.post(page, form | {"remove_headers": "on"}).status_code == 302
    webhook.refresh_from_db()
    assert (webhook.url, webhook.headers) == (ELSEWHERE[0], {})


def test_disabled_event_names_the_server_only(make_webhook: Callable[..., Webhook]) -> None:
    webhook = make_webhook(url="http://127.0.0.1:9/s3cret-path?key=s3cret-key")

    disable_automatically([webhook.id], "It failed.", timezone.now())

    payload = bytes(Event.objects.get(type="webhook.disabled").payload)
    assert b'"url":"http://127.0.0.1:9"' in payload
    assert b"s3cret" not in payload
