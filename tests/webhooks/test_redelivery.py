"""Redeliver, replay and cancel: what goes again, once each, also after a crash."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.utils import timezone

from projects.models import User
from tests.webhooks.history import trigger
from webhooks import lifecycle, redelivery, service
from webhooks.errors import RedeliveryScopeError
from webhooks.ids import new_id
from webhooks.models import Delivery, Event, Redelivery, Webhook
from webhooks.redelivery import Scope


@pytest.fixture
def webhook(make_webhook: Callable[..., Webhook]) -> Webhook:
    return make_webhook(events=["project.*"])


def fail(**conditions: Any) -> None:
    Delivery.objects.filter(**conditions).update(
        status="FAILED", attempt_count=11, finished_at=timezone.now(), next_attempt_at=None
    )


def test_failed_deliveries_go_again_with_a_new_budget(user: User, webhook: Webhook) -> None:
    trigger(user, 3)
    fail()

    asked = service.redeliver(Scope(webhook_id=webhook.id), requested_by=user)
    redelivery.run(asked.id)

    asked.refresh_from_db()
    assert (asked.status, asked.matched_count, asked.queued_count) == ("done", 3, 3)
    for delivery in Delivery.objects.all():
        assert (delivery.status, delivery.round, delivery.attempt_count) == ("PENDING", 2, 11)
        assert delivery.attempts_before_round == 11
        assert delivery.next_attempt_at is not None
        assert delivery.finished_at is None


def test_only_what_the_scope_names_goes_again(
    user: User, other_user: User, webhook: Webhook, make_webhook: Callable[..., Webhook]
) -> None:
    other = make_webhook(owner=other_user, events=["project.*"])
    trigger(user, 4)
    trigger(other_user, 4)
    fail()
    first, second, third, fourth = Delivery.objects.filter(webhook=webhook).order_by("id")
    Delivery.objects.filter(id=first.id).update(status="SUCCESS")
    Delivery.objects.filter(id=second.id).update(created_at=timezone.now() - timedelta(days=2))
    Delivery.objects.filter(id=third.id).update(status="SENDING", finished_at=None)

    asked = service.redeliver(
        Scope(webhook_id=webhook.id, since=timezone.now() - timedelta(days=1))
    )
    redelivery.run(asked.id)

    assert set(Delivery.objects.filter(round=2)) == {fourth}
    assert Delivery.objects.filter(webhook=other, status="FAILED").count() == 4


@pytest.mark.parametrize(
    ("status", "goes"),
    [
        ("PENDING", True),
        ("RETRYING", True),
        ("SUCCESS", True),
        ("FAILED", True),
        ("CANCELLED", True),
        ("SENDING", False),
    ],
)
def test_one_delivery_goes_again_whatever_became_of_it_unless_in_flight(
    user: User, webhook: Webhook, status: str, goes: bool
) -> None:
    trigger(user, 1)
    Delivery.objects.update(status=status)
    delivery = Delivery.objects.get()

    if goes:
        asked = service.redeliver_one(delivery, requested_by=user)
        assert asked.queued_count == 1
    else:
        with pytest.raises(RedeliveryScopeError, match="in flight"):
            service.redeliver_one(delivery)

    delivery.refresh_from_db()
    assert (delivery.status, delivery.round) == (("PENDING", 2) if goes else (status, 1))


def test_deleted_webhook_gets_nothing_again(user: User, webhook: Webhook) -> None:
    trigger(user, 1)
    fail()
    service.delete_webhook(webhook)

    with pytest.raises(RedeliveryScopeError, match="webhook was deleted"):
        service.redeliver_one(Delivery.objects.get())


@pytest.mark.parametrize(
    ("scope", "message"),
    [
        (Scope(), "Say which deliveries"),
        (Scope(event_type="project.deleted"), "Say which deliveries"),
        (Scope(webhook_id=new_id(), statuses=("SENDING",)), "Not a status"),
        (Scope(webhook_id=new_id(), statuses=("failed",)), "Not a status"),
        (
            Scope(
                webhook_id=new_id(),
                since=timezone.now(),
                until=timezone.now() - timedelta(seconds=1),
            ),
            "ends before it starts",
        ),
    ],
)
def test_unclear_scope_is_refused_and_nothing_stored(db: None, scope: Scope, message: str) -> None:
    with pytest.raises(RedeliveryScopeError, match=message):
        service.redeliver(scope)

    assert not Redelivery.objects.exists()


def test_goes_on_after_a_crash_where_it_stopped(
    user: User, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redelivery, "BATCH", 10)
    trigger(user, 35)
    fail()
    asked = service.redeliver(Scope(webhook_id=webhook.id))

    assert redelivery.advance(asked.id)
    assert redelivery.advance(asked.id)
    # The first ones fail again before it goes on: they do not go a third time.
    fail(status="PENDING")
    assert redelivery.advance_all()
    assert not redelivery.advance_all()

    asked.refresh_from_db()
    assert (asked.status, asked.queued_count) == ("done", 35)
    assert set(Delivery.objects.values_list("round", flat=True)) == {2}


def test_batches_take_a_constant_number_of_statements(
    user: User, webhook: Webhook, django_assert_max_num_queries: Any
) -> None:
    trigger(user, 3000)
    fail()
    asked = service.redeliver(Scope(webhook_id=webhook.id))

    with django_assert_max_num_queries(12):
        redelivery.run(asked.id)

    assert Delivery.objects.filter(round=2).count() == 3000


def test_rate_spreads_the_redelivery(
    user: User, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redelivery, "BATCH", 10)
    trigger(user, 20)
    fail()

    redelivery.run(service.redeliver(Scope(webhook_id=webhook.id), rate_limit=2.0).id)

    times = [
        delivery.next_attempt_at.timestamp()
        for delivery in Delivery.objects.order_by("id")
        if delivery.next_attempt_at
    ]
    assert times[-1] - times[0] == pytest.approx(9.5, abs=0.5)
    assert times == sorted(times)


def test_cancelled_redelivery_stops(
    user: User, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redelivery, "BATCH", 10)
    trigger(user, 30)
    fail()
    asked = service.redeliver(Scope(webhook_id=webhook.id))
    redelivery.advance(asked.id)

    assert redelivery.cancel(asked)
    assert not redelivery.advance(asked.id)
    assert not redelivery.cancel(asked)

    assert Delivery.objects.filter(round=2).count() == 10


def test_progress_counts_what_became_of_them(user: User, webhook: Webhook) -> None:
    trigger(user, 4)
    fail()
    asked = service.redeliver(Scope(webhook_id=webhook.id))
    redelivery.run(asked.id)
    ids = list(Delivery.objects.order_by("id").values_list("id", flat=True))
    Delivery.objects.filter(id__in=ids[:2]).update(status="SUCCESS")
    fail(id=ids[2])
    asked.refresh_from_db()

    now = redelivery.progress(asked)

    assert (now.matched, now.queued, now.succeeded, now.failed) == (4, 4, 2, 1)
    assert not now.is_over


def test_replay_creates_exactly_what_never_existed(
    user: User, other_user: User, make_webhook: Callable[..., Webhook]
) -> None:
    since = timezone.now()
    trigger(user, 5)
    trigger(other_user, 5)
    webhook = make_webhook(events=["project.deleted"])
    trigger(user, 2)

    asked = service.replay(webhook, since)
    redelivery.run(asked.id)
    again = service.replay(webhook, since)
    redelivery.run(again.id)

    asked.refresh_from_db()
    assert (asked.matched_count, asked.queued_count, again.matched_count) == (5, 5, 0)
    assert Delivery.objects.filter(webhook=webhook).count() == 7
    events = Event.objects.filter(owner_id=user.id, type="project.deleted")
    assert set(Delivery.objects.values_list("event_id", flat=True)) == set(
        events.values_list("id", flat=True)
    )


def test_replay_keeps_to_the_event_filter(user: User, make_webhook: Callable[..., Webhook]) -> None:
    since = timezone.now()
    trigger(user, 2)
    webhook = make_webhook(events=["session.*"])

    assert service.replay(webhook, since).matched_count == 0


def test_scope_survives_its_storage() -> None:
    scope = Scope(
        delivery_ids=(new_id(), new_id()),
        webhook_id=new_id(),
        event_type="project.created",
        statuses=("FAILED", "CANCELLED"),
        since=timezone.now(),
    )

    assert Scope.from_json(scope.to_json()) == scope


def test_waiting_delivery_is_cancelled_once(user: User, webhook: Webhook) -> None:
    trigger(user, 1)
    delivery = Delivery.objects.get()

    assert service.cancel(delivery)
    assert not service.cancel(delivery)

    delivery.refresh_from_db()
    assert (delivery.status, delivery.error) == ("CANCELLED", "Cancelled by hand.")
    assert delivery.finished_at is not None


@pytest.mark.parametrize(
    ("send", "waiting"), [("recent", {"young"}), ("all", {"old", "young"}), ("none", set())]
)
def test_enabling_sends_what_the_caller_chooses(
    user: User, webhook: Webhook, send: Any, waiting: set[str]
) -> None:
    trigger(user, 2)
    names: dict[UUID, str] = dict(
        zip(
            Delivery.objects.order_by("id").values_list("id", flat=True),
            ["old", "young"],
            strict=True,
        )
    )
    old = next(key for key, name in names.items() if name == "old")
    Delivery.objects.filter(id=old).update(created_at=timezone.now() - timedelta(days=4))
    service.disable(webhook, "Maintenance")
    assert Delivery.objects.filter(status="PENDING").count() == 2

    assert service.enable(webhook, send=send) == len(waiting)

    left = Delivery.objects.filter(status="PENDING").values_list("id", flat=True)
    assert {names[key] for key in left} == waiting
    assert Delivery.objects.filter(status="CANCELLED").count() == 2 - len(waiting)
    webhook.refresh_from_db()
    assert (webhook.active, webhook.disabled_reason, webhook.disabled_at) == (True, "", None)


def test_enabling_changes_nothing_that_others_changed_meanwhile(webhook: Webhook) -> None:
    stale = Webhook.objects.get(id=webhook.id)
    service.update_webhook(webhook, url="https://new.example/", headers={"X-Key": "new"})
    service.delete_webhook(webhook)

    service.enable(stale)

    now = Webhook.objects.get(id=webhook.id)
    assert (now.url, now.headers) == ("https://new.example/", {"X-Key": "new"})
    assert now.deleted_at is not None


def test_disabling_keeps_the_reason(webhook: Webhook) -> None:
    lifecycle.disable(webhook, "Maintenance")

    webhook.refresh_from_db()
    assert (webhook.active, webhook.disabled_reason) == (False, "Maintenance")
    assert webhook.disabled_at is not None
