"""Operators with exactly the permissions a test names, and one object of every kind."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Group, Permission
from django.core.cache import cache
from django.db.models import Model
from django.test import Client
from django.utils import timezone

from projects.models import Project, User
from sessions_app.models import Agent, Recording, Session, SessionMessage
from tests.webhooks.api.conftest import _fresh_counters  # noqa: F401
from webhooks import service
from webhooks.choices import DeliveryStatus
from webhooks.models import ApiToken, Attempt, Delivery, Event, Redelivery, Webhook, WorkerHeartbeat
from webhooks.repair import audit_log

PAYMENT = {
    "id": "pay_1", "subscriptionId": "sub_1", "amount": 2900, "currency": "EUR",
    "reason": "card_declined", "failedAt": "2026-11-23T10:30:00.123Z",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _fresh_figures() -> None:
    cache.clear()


@pytest.fixture
def staff(db: None) -> Callable[..., Client]:
    """Sign in a member of staff who has these permissions and no others."""

    def sign_in(*permissions: str) -> Client:
        user, _ = User.objects.get_or_create(
            username="staff", defaults={"email": "staff@example.com", "is_staff": True}
        )
        names = [permission.split(".") for permission in permissions]
        user.user_permissions.set(
            [Permission.objects.get(content_type__app_label=a, codename=c) for a, c in names]
        )
        client = Client(headers={"x-request-id": "req-1"}, REMOTE_ADDR="192.0.2.7")
        client.force_login(user)
        return client

    return sign_in


@pytest.fixture
def operator(staff: Callable[..., Client]) -> Client:
    """A superuser."""
    client = staff()
    User.objects.filter(username="staff").update(is_superuser=True)
    return client


@pytest.fixture
def password(monkeypatch: pytest.MonkeyPatch) -> str:
    """Everybody's password, without the time that hashing one takes."""
    monkeypatch.setattr(User, "check_password", lambda user, raw: raw == "pass")
    return "pass"


@pytest.fixture
def webhook(make_webhook: Callable[..., Webhook]) -> Webhook:
    return make_webhook(url="https://receiver.example/hook", headers={"X-Api-Key": "custom-value"})


@pytest.fixture
def event(user: User, webhook: Webhook) -> Event:
    return service.trigger_event("payment.failed", user, PAYMENT)


@pytest.fixture
def delivery(event: Event) -> Delivery:
    """Failed for good, after one attempt."""
    delivery: Delivery = event.deliveries.get()
    return fail(delivery)


def issue_token(user: User, name: str = "CI") -> ApiToken:
    token, _ = ApiToken.objects.issue(user, name=name, scopes=["read"], lifetime=timedelta(days=30))
    return token


def fail(delivery: Delivery) -> Delivery:
    now = timezone.now()
    Delivery.objects.filter(pk=delivery.pk).update(
        status=DeliveryStatus.FAILED, attempt_count=1, response_code=500, next_attempt_at=None,
        failure_kind="http_status", error="The receiver answered 500.", finished_at=now,
    )  # fmt: skip
    Attempt.objects.create(
        delivery=delivery, number=1, started_at=now - timedelta(seconds=1), duration_ms=83,
        url="https://receiver.example/hook",
        request_head="X-Api-Key:\nContent-Type: application/json\nwebhook-id: evt_1",
        response_code=500, response_head=b"HTTP/1.1 500 Oops\r\nServer: nginx\r\n\r\n",
        response_body=b"<h1>it broke</h1>", failure_kind="http_status",
        error="The receiver answered 500.",
    )  # fmt: skip
    delivery.refresh_from_db()
    return delivery


@pytest.fixture
def samples(user: User, project: Project, webhook: Webhook, delivery: Delivery) -> dict[str, Model]:
    """An object of every model that has pages, by `app_model`."""
    session = Session.objects.create(project=project, owner=user, title="Fix the login")
    finished = service.redeliver(service.Scope(webhook_id=webhook.pk))
    Redelivery.objects.filter(pk=finished.pk).update(status=Redelivery.Status.DONE)
    objects: list[Any] = [
        user, project, webhook, delivery, delivery.event, session, finished,
        SessionMessage.objects.create(session=session, sender="ada", content="hello"),
        Recording.objects.create(session=session, title="Screen"),
        Agent.objects.create(owner=user, name="desk", platform="linux", version="1.2"),
        Group.objects.create(name="Night shift"),
        WorkerHeartbeat.objects.create(host="worker-1", pid=7),
        issue_token(user),
        audit_log.record("webhook.disable", webhook, actor=user, changes={"active": [True, False]}),
    ]  # fmt: skip
    return {f"{one._meta.app_label}_{one._meta.model_name}": one for one in objects}
