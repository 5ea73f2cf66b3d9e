"""An owner with one of everything, and visitors of every kind."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from projects.models import User
from tests.webhooks.api.conftest import _fresh_counters  # noqa: F401
from webhooks import service
from webhooks.models import Delivery, Event, PortalLink, Redelivery, Webhook
from webhooks.portal.urls import PAGES

DATA = {
    "id": "01935710-5a3c-7d2e-9f10-3b6c8e2a4d71",
    "name": "Payroll 2027",
    "deletedAt": "2026-11-23T10:30:00.123Z",
}
Open = Callable[..., str]


@dataclass
class Things:
    """One of everything of an owner."""

    webhook: Webhook
    event: Event
    delivery: Delivery
    redelivery: Redelivery

    def arguments(self, where: str) -> list[str]:
        """Return the arguments of a page's URL."""
        values = {
            "webhook_id": self.webhook.public_id,
            "event_id": self.event.public_id,
            "delivery_id": self.delivery.public_id,
            "redelivery_id": self.redelivery.public_id,
            "name": "project.created",
            "request_id": "00000000-0000-0000-0000-000000000000",
            "token_id": "tok_" + "0" * 32,
            "link_id": "lnk_" + "0" * 32,
        }
        return [values[one] for one in re.findall(r":(\w+)>", where)]


def make_things(owner: User, name: str = "Orders") -> Things:
    """Give an owner a webhook with a delivery that failed."""
    webhook = service.create_webhook(
        owner, name=name, url="http://127.0.0.1:9/hook", events=["project.*"]
    )
    event = service.trigger_event("project.deleted", owner, DATA)
    delivery = Delivery.objects.get(event=event, webhook=webhook)
    now = timezone.now()
    Delivery.objects.filter(id=delivery.id).update(
        status="FAILED", finished_at=now, next_attempt_at=None, attempt_count=1,
        response_code=500, failure_kind="http_status", error="The receiver answered 500.",
    )  # fmt: skip
    delivery.attempts.create(
        number=1, started_at=now, duration_ms=5, url=webhook.url, response_code=500,
        request_head=f"webhook-id: {event.public_id}\nwebhook-timestamp: 1\nX-Secret-Free: yes",
        response_head=b"HTTP/1.1 500 Oh\r\nServer: x\r\n\r\n", response_body=b"out of disk",
        failure_kind="http_status", error="The receiver answered 500.",
    )  # fmt: skip
    redelivery = service.redeliver(service.Scope(webhook_id=webhook.id), requested_by=owner)
    Redelivery.objects.filter(id=redelivery.id).update(status="done", finished_at=now)
    return Things(webhook, event, Delivery.objects.get(id=delivery.id), redelivery)


@pytest.fixture
def things(user: User) -> Things:
    return make_things(user)


@pytest.fixture
def owner_client(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def open_session(client: Client) -> Open:
    """Return a function that opens a link and returns the path of its start page."""

    def open_link(owner: User, *capabilities: str, **options: Any) -> str:
        link = service.create_portal_link(owner, capabilities=capabilities, **options)
        answer = Client().post(reverse("portal-open", args=[link.key]))
        assert answer.status_code == 302, answer.content
        return str(answer["Location"])

    return open_link


def every_page(things: Things) -> dict[str, str]:
    """Return the path of every page below a start page, by its name."""
    return {
        name: reverse(f"portal:{name}", args=things.arguments(where)).removeprefix("/portal/")
        for where, _, name in PAGES
    }


def end(link: PortalLink) -> None:
    PortalLink.objects.filter(id=link.id).update(
        session_ends_at=timezone.now() - timedelta(seconds=1)
    )
