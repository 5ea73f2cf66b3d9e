"""The audit finds each planted fault with its id, and none in a healthy system."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from projects.models import User
from tests.webhooks.history import finish, trigger
from webhooks import service
from webhooks.dispatch.engine import run_until_idle
from webhooks.ids import new_id
from webhooks.models import Attempt, Delivery, Event, Webhook, WorkerHeartbeat
from webhooks.repair import integrity, redelivery_batches

Plant = Callable[[Delivery], str]


@pytest.fixture
def webhook(make_webhook: Callable[..., Webhook]) -> Webhook:
    return make_webhook(events=["project.*"])


@pytest.fixture
def history(user: User, webhook: Webhook) -> list[Delivery]:
    """Six deliveries: two succeeded, two failed, two pending; tests spoil the third."""
    trigger(user, 2)
    finish()
    trigger(user, 2)
    finish("FAILED")
    trigger(user, 2)
    return list(Delivery.objects.order_by("id"))


def change(delivery: Delivery, **fields: Any) -> str:
    Delivery.objects.filter(id=delivery.id).update(**fields)
    return delivery.public_id


def lose_delivery(delivery: Delivery) -> str:
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM webhooks_attempt WHERE delivery_id = %s", [delivery.id])
        cursor.execute("DELETE FROM webhooks_delivery WHERE id = %s", [delivery.id])
    return f"evt_{delivery.event_id.hex}"


def lose_event(delivery: Delivery) -> str:
    Event.objects.filter(id=delivery.event_id)._raw_delete("default")
    return delivery.public_id


def orphan_attempt(delivery: Delivery) -> str:
    attempt = Attempt.objects.create(
        delivery_id=new_id(), number=1, started_at=timezone.now(), duration_ms=1
    )
    return attempt.public_id


def lose_first_attempt(delivery: Delivery) -> str:
    Attempt.objects.filter(delivery=delivery).update(number=3)
    Attempt.objects.create(
        delivery_id=delivery.id, number=2, started_at=timezone.now(), duration_ms=1
    )
    return change(delivery, attempt_count=3, attempts_before_round=3)


def claim_by_nobody(delivery: Delivery) -> str:
    return change(delivery, status="SENDING", claimed_by=new_id())


def claim_by_silent(delivery: Delivery) -> str:
    dead = WorkerHeartbeat.objects.create(
        host="a", pid=1, beat_at=timezone.now() - timedelta(minutes=1)
    )
    return change(delivery, status="SENDING", claimed_by=dead.id)


PENDING, FAILED = 5, 2

PLANTS: dict[str, tuple[str, int, Plant]] = {
    "never due": ("lost", PENDING, lambda d: change(d, next_attempt_at=None)),
    "marked finished": ("lost", PENDING, lambda d: change(d, finished_at=timezone.now())),
    "sending by nobody": ("lost", PENDING, lambda d: change(d, status="SENDING")),
    "claimed by nobody": ("stuck", PENDING, claim_by_nobody),
    "claimed by a silent worker": ("stuck", PENDING, claim_by_silent),
    "delivery gone": ("missing", FAILED, lose_delivery),
    "last attempt gone": ("miscounted", FAILED, lambda d: change(d, attempt_count=2)),
    "first attempt gone": ("miscounted", FAILED, lose_first_attempt),
    "not finished": ("disagreeing", FAILED, lambda d: change(d, finished_at=None)),
    "event gone": ("eventless", FAILED, lose_event),
    "orphan attempt": ("orphaned", FAILED, orphan_attempt),
}


def test_healthy_history_has_no_fault(history: list[Delivery]) -> None:
    assert list(integrity.find_faults()) == []


@pytest.mark.django_db(transaction=True)
def test_real_deliveries_have_no_fault(user: User, webhook: Webhook) -> None:
    trigger(user, 20)
    run_until_idle()

    assert Attempt.objects.exists()
    assert list(integrity.find_faults()) == []


@pytest.mark.parametrize("plant", PLANTS)
@pytest.mark.parametrize("page", [1, 4, 20_000])
def test_every_fault_is_found_with_its_id(
    history: list[Delivery], monkeypatch: pytest.MonkeyPatch, plant: str, page: int
) -> None:
    monkeypatch.setattr(integrity, "PAGE", page)
    question, which, spoil = PLANTS[plant]
    wrong_id = spoil(history[which])

    found = list(integrity.find_faults())

    assert [(fault.rule.name, fault.id) for fault in found] == [(question, wrong_id)]
    assert found[0].detail


def test_live_claim_is_no_fault(history: list[Delivery]) -> None:
    worker = WorkerHeartbeat.objects.create(host="a", pid=1)
    change(history[PENDING], status="SENDING", claimed_by=worker.id)

    assert list(integrity.find_faults()) == []


@pytest.mark.parametrize("plant", [key for key, value in PLANTS.items() if value[0] != "missing"])
def test_faults_with_an_obvious_remedy_are_repaired(history: list[Delivery], plant: str) -> None:
    question, which, spoil = PLANTS[plant]
    spoil(history[which])

    mended = integrity.mend()

    if question == "disagreeing":
        assert not any(mended.values())
        assert len(list(integrity.find_faults())) == 1
    else:
        assert mended[question] == 1
        assert list(integrity.find_faults()) == []


def test_attempts_are_renumbered_in_their_order(history: list[Delivery]) -> None:
    lose_first_attempt(history[FAILED])
    before = list(history[FAILED].attempts.order_by("number").values_list("id", flat=True))

    integrity.mend()

    delivery = Delivery.objects.get(id=history[FAILED].id)
    assert list(delivery.attempts.order_by("number").values_list("id", "number")) == [
        (before[0], 1), (before[1], 2)
    ]  # fmt: skip
    assert (delivery.attempt_count, delivery.attempts_before_round) == (2, 2)


def test_missing_delivery_is_repaired_by_a_replay(
    user: User, webhook: Webhook, history: list[Delivery]
) -> None:
    lose_delivery(history[FAILED])

    asked = service.replay(webhook, None, event_id=history[FAILED].event_id)
    redelivery_batches.run(asked.id)

    assert list(integrity.find_faults()) == []


def test_replayed_deliveries_are_counted_with_their_event(
    user: User, history: list[Delivery], make_webhook: Callable[..., Webhook]
) -> None:
    late = make_webhook(events=["project.*"])

    redelivery_batches.run(service.replay(late, timezone.now() - timedelta(hours=1)).id)

    assert Delivery.objects.filter(webhook=late).count() == 6
    assert list(integrity.find_faults()) == []


def test_statements_grow_with_pages_only(
    history: list[Delivery], django_assert_num_queries: Any
) -> None:
    # Three tables, each one page and one empty page.
    with django_assert_num_queries(6):
        list(integrity.find_faults())
