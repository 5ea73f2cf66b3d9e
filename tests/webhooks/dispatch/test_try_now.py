"""The ways out of an open breaker: a person who tries now, and a test request that succeeds."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.utils import timezone

from projects.models import User
from tests.webhooks.history import trigger
from webhooks import service
from webhooks.dispatch.engine import run_until_idle
from webhooks.dispatch.health import HealthEffect, record
from webhooks.errors import WebhookNotSendingError
from webhooks.models import Delivery, Webhook
from webhooks.workbench.receiver import Behaviour, HttpReceiver

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def webhook(make_webhook: Callable[..., Webhook], receiver: HttpReceiver, user: User) -> Webhook:
    """Its breaker is open, and deliveries wait."""
    webhook = make_webhook(url=receiver.url, events=["project.deleted"])
    receiver.behaviour = Behaviour(status=500)
    trigger(user, 40)
    run_until_idle()
    webhook.refresh_from_db()
    assert webhook.breaker_state == "open"
    return webhook


def test_try_now_sends_the_next_delivery_and_a_success_lets_the_others_follow(
    webhook: Webhook, receiver: HttpReceiver
) -> None:
    receiver.behaviour = Behaviour()
    never_sent = Delivery.objects.filter(attempt_count=0).count()

    service.try_now(webhook)
    run_until_idle()

    webhook.refresh_from_db()
    assert (webhook.breaker_state, webhook.failing_since) == ("closed", None)
    assert Delivery.objects.filter(status="SUCCESS").count() == never_sent


def test_try_now_opens_the_breaker_again_after_one_failure(webhook: Webhook) -> None:
    service.try_now(webhook)
    failure = HealthEffect(webhook.url)
    failure.add_failure(0.0, False)

    record({webhook.id: failure})

    # Not after the ten that open a closed one.
    webhook.refresh_from_db()
    assert webhook.breaker_state == "open"


def test_try_now_makes_a_retry_due_that_waits_for_its_time(
    webhook: Webhook, receiver: HttpReceiver
) -> None:
    Delivery.objects.filter(attempt_count=0).delete()
    later = timezone.now() + timedelta(hours=5)
    Delivery.objects.update(next_attempt_at=later)
    Webhook.objects.update(held_until=later)
    receiver.behaviour = Behaviour()
    sent = len(receiver.requests)

    service.try_now(webhook)
    run_until_idle()

    assert len(receiver.requests) - sent == 1
    webhook.refresh_from_db()
    assert (webhook.breaker_state, webhook.held_until) == ("closed", None)


def test_try_now_refuses_where_nothing_can_be_sent(webhook: Webhook) -> None:
    service.disable(webhook)
    with pytest.raises(WebhookNotSendingError, match="enable it first"):
        service.try_now(webhook)

    service.enable(webhook, send="none")
    with pytest.raises(WebhookNotSendingError, match="send a test"):
        service.try_now(webhook)


def test_try_now_does_not_slow_a_webhook_that_sends(
    make_webhook: Callable[..., Webhook], user: User
) -> None:
    healthy = make_webhook(events=["project.deleted"])
    trigger(user, 1)

    service.try_now(healthy)

    healthy.refresh_from_db()
    assert healthy.breaker_changed_at is None


def test_a_test_request_that_succeeds_closes_the_breaker(
    webhook: Webhook, receiver: HttpReceiver
) -> None:
    assert not service.test_webhook(webhook).succeeded
    webhook.refresh_from_db()
    assert webhook.breaker_state == "open"
    receiver.behaviour = Behaviour()
    never_sent = Delivery.objects.filter(attempt_count=0).count()

    assert service.test_webhook(webhook).succeeded

    assert (webhook.breaker_state, webhook.failing_since) == ("closed", None)
    run_until_idle()
    assert Delivery.objects.filter(status="SUCCESS").count() == never_sent
