"""What Postgres compares with its own clock is not set by another one (DESIGN.md, rule 10)."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db.models.functions import Now
from django.utils import timezone

from projects.models import User
from tests.webhooks.history import trigger
from webhooks import service
from webhooks.choices import DeliveryStatus
from webhooks.models import Delivery, Webhook

MOMENT = timedelta(seconds=10)

pytestmark = pytest.mark.django_db


@pytest.fixture(params=[timedelta(days=-4), timedelta(days=4)], ids=["behind", "ahead"])
def foreign_clock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    distance: timedelta = request.param

    def now() -> datetime:
        return real() + distance

    real = timezone.now
    monkeypatch.setattr(timezone, "now", now)


def is_now(webhook: Webhook, column: str) -> bool:
    span = (Now() - MOMENT, Now() + MOMENT)
    return bool(Webhook.objects.filter(pk=webhook.pk, **{f"{column}__range": span}).exists())


def test_webhook_is_disabled_and_enabled_now(
    make_webhook: Callable[..., Webhook], foreign_clock: None
) -> None:
    webhook = make_webhook()
    service.disable(webhook)
    assert is_now(webhook, "disabled_at")

    service.enable(webhook)

    assert is_now(webhook, "breaker_changed_at")


def test_webhooks_of_revived_owner_ramp_up_from_now_on(
    user: User, make_webhook: Callable[..., Webhook], foreign_clock: None
) -> None:
    webhook = make_webhook()
    user.is_active = False
    user.save()

    user.is_active = True
    user.save()

    assert is_now(webhook, "breaker_changed_at")


def test_challenge_is_due_now(
    make_webhook: Callable[..., Webhook], settings: Any, foreign_clock: None
) -> None:
    settings.WEBHOOKS_ENDPOINT_PROOF = "advise"

    assert is_now(make_webhook(), "proof_due_at")


def test_enabling_cancels_what_is_old_by_the_clock_of_the_database(
    user: User, make_webhook: Callable[..., Webhook], foreign_clock: None
) -> None:
    webhook = make_webhook()
    (event,) = trigger(user)
    service.disable(webhook)

    service.enable(webhook, send="recent")

    assert Delivery.objects.get(event=event.id).status == DeliveryStatus.PENDING
