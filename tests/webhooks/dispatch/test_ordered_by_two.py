"""Two workers share an ordered webhook: neither passes the other, and neither waits for a survey."""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from projects.models import User
from tests.concurrency import another_connection, calls_of
from tests.webhooks.dispatch.test_one_tenant import end_surveys, locked, running_engine, statuses
from tests.webhooks.history import trigger
from tests.workers import wait_until
from webhooks.dispatch import desks
from webhooks.ids import new_id
from webhooks.models import Delivery, Webhook
from webhooks.registry.switch import pause_sending, resume_sending
from webhooks.workbench.receiver import Behaviour, HttpReceiver

pytestmark = pytest.mark.django_db(transaction=True)

MakeWebhook = Callable[..., Webhook]


@pytest.fixture
def ordered(make_webhook: MakeWebhook, receiver: HttpReceiver) -> Webhook:
    fields: dict[str, Any] = {"events": ["project.deleted"], "ordered": True}
    return make_webhook(url=receiver.url, retry_delay_seconds=1, **fields)


def test_order_holds_between_two_workers_while_some_fail(
    user: User, ordered: Webhook, receiver: HttpReceiver
) -> None:
    behaviours = ([Behaviour()] * 37 + [Behaviour(status=500)]) * 8
    receiver.script(*behaviours)
    events: list[str] = []
    with running_engine() as one, running_engine() as other:
        end_surveys(one)
        end_surveys(other)
        for _ in range(50):
            events += [event.public_id for event in trigger(user, 5)]
            time.sleep(0.01)
        wait_until(lambda: statuses(user) == {"SUCCESS"}, 60)
    good = [
        request.event_id
        for request, behaviour in zip(
            receiver.requests, behaviours + [Behaviour()] * 500, strict=False
        )
        if behaviour.status == 200
    ]
    assert good == events
    tried = [request.event_id for request in receiver.requests]
    assert list(dict.fromkeys(tried)) == events


def test_row_locked_by_a_stranger_holds_its_webhook_up_no_longer_than_that(
    user: User, ordered: Webhook, receiver: HttpReceiver
) -> None:
    pause_sending()
    trigger(user, 100)
    with running_engine() as engine:
        end_surveys(engine)
        # Out of the reach of looks.
        time.sleep(2.5)
        first = Delivery.objects.order_by("id").values_list("id", flat=True)[0]
        with locked("webhooks_delivery", f"id = '{first}'"):
            resume_sending()
            time.sleep(2)
            assert receiver.requests == []
        wait_until(lambda: statuses(user) == {"SUCCESS"}, 10)


def test_rows_behind_one_that_somebody_else_has_go_when_it_is_done(
    user: User, ordered: Webhook, receiver: HttpReceiver
) -> None:
    """Nothing of what is behind it becomes due then: it has been for long."""
    trigger(user, 10)
    Delivery.objects.update(next_attempt_at=timezone.now() - timedelta(hours=1))
    head = Delivery.objects.filter(id=Delivery.objects.order_by("id")[0].id)
    head.update(status="SENDING", claimed_by=new_id())
    with running_engine() as engine:
        end_surveys(engine)
        time.sleep(0.5)
        assert receiver.requests == []
        head.update(status="SUCCESS", claimed_by=None, finished_at=timezone.now())
        receiver.wait_for(9)


def test_order_that_is_switched_off_and_on_again_leaves_nothing_behind(
    user: User, ordered: Webhook, receiver: HttpReceiver
) -> None:
    receiver.behaviour = Behaviour(delay_seconds=0.005)
    with running_engine() as one, running_engine() as other:
        end_surveys(one)
        end_surveys(other)
        for is_ordered in (True, False, True, False, True, True):
            Webhook.objects.filter(id=ordered.id).update(order="all" if is_ordered else "none")
            trigger(user, 150)
            time.sleep(0.4)
        wait_until(lambda: statuses(user) == {"SUCCESS"}, 60)
    assert len(receiver.requests) == 900


def test_webhook_that_waits_for_a_long_transaction_is_seldom_looked_at(
    user: User, ordered: Webhook, receiver: HttpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = calls_of(desks, "claim_due", monkeypatch)
    with another_connection() as other:
        other.execute("SELECT pg_current_xact_id()")
        trigger(user, 1)
        with running_engine():
            time.sleep(4)
            before = len(claims)
            time.sleep(3)
            made = len(claims) - before
            other.rollback()
            receiver.wait_for(1)
    # One look each second, and about one to see whether it has ended; it was twenty.
    assert made <= 12
