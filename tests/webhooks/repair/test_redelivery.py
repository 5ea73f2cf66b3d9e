"""Redeliver, replay and cancel: each delivery is queued once, even after a crash."""

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from django.db import connection, transaction
from django.db.models import QuerySet
from django.utils import timezone

from projects.models import User
from tests.concurrency import another_connection, in_thread, wait_for_lock
from tests.webhooks.history import trigger
from webhooks import service
from webhooks.errors import RedeliveryScopeError, WebhookNotSendingError
from webhooks.ids import new_id
from webhooks.models import Delivery, Event, Redelivery, RedeliveryTakeover, Webhook
from webhooks.registry import switch
from webhooks.repair import redelivery, redelivery_batches, redelivery_progress, retention
from webhooks.repair.redelivery_scope import REPEATABLE, Scope


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
    redelivery_batches.run(asked.id)

    asked.refresh_from_db()
    assert (asked.status, asked.matched_count, asked.queued_count) == ("done", 3, 3)
    for delivery in Delivery.objects.all():
        assert (delivery.status, delivery.round, delivery.attempt_count) == ("PENDING", 2, 11)
        assert delivery.attempts_before_round == 11
        assert delivery.next_attempt_at is not None
        assert delivery.finished_at is None


def test_only_deliveries_in_the_scope_are_redelivered(
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
    redelivery_batches.run(asked.id)

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
def test_one_delivery_of_any_status_but_in_flight_is_redelivered(
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
        (Scope(), "Select the deliveries"),
        (Scope(event_type="project.deleted"), "Select the deliveries"),
        (Scope(webhook_id=new_id(), statuses=("SENDING",)), "Deliveries with this status cannot"),
        (Scope(webhook_id=new_id(), statuses=("failed",)), "Deliveries with this status cannot"),
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


def test_continues_after_a_crash_without_repeats(
    user: User, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redelivery_batches, "BATCH", 10)
    trigger(user, 35)
    fail()
    asked = service.redeliver(Scope(webhook_id=webhook.id))

    assert redelivery_batches.advance(asked.id)
    assert redelivery_batches.advance(asked.id)
    # The first ones fail again before it goes on: they do not go a third time.
    fail(status="PENDING")
    assert redelivery_batches.advance_all()
    assert not redelivery_batches.advance_all()

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
        redelivery_batches.run(asked.id)

    assert Delivery.objects.filter(round=2).count() == 3000


def check_that_twenty_go_two_a_second(deliveries: QuerySet[Delivery]) -> None:
    times = [one.next_attempt_at.timestamp() for one in deliveries if one.next_attempt_at]
    assert times[-1] - times[0] == pytest.approx(9.5, abs=0.5)
    assert times == sorted(times)


def test_rate_spreads_the_redelivery(
    user: User, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redelivery_batches, "BATCH", 10)
    trigger(user, 20)
    fail()

    redelivery_batches.run(service.redeliver(Scope(webhook_id=webhook.id), rate_limit=2.0).id)

    check_that_twenty_go_two_a_second(Delivery.objects.order_by("id"))


def test_redelivery_does_not_wait_for_a_clock_that_went_back(user: User, webhook: Webhook) -> None:
    trigger(user, 1)
    fail()
    service.redeliver(Scope(webhook_id=webhook.id))
    Redelivery.objects.update(due_at=timezone.now() + timedelta(hours=5))

    redelivery_batches.advance_all()

    assert Delivery.objects.get().round == 2


def test_delivery_goes_again_however_often_it_did(user: User, webhook: Webhook) -> None:
    trigger(user, 2)
    fail()
    Delivery.objects.filter(id=Delivery.objects.latest("id").id).update(round=32_767)

    redelivery_batches.run(service.redeliver(Scope(webhook_id=webhook.id)).id)

    assert sorted(Delivery.objects.values_list("status", "round")) == [
        ("PENDING", 2), ("PENDING", 32_767),
    ]  # fmt: skip


def test_rate_spreads_a_replay_as_well(
    user: User, make_webhook: Callable[..., Webhook], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redelivery_batches, "BATCH", 10)
    since = timezone.now()
    trigger(user, 20)
    webhook = make_webhook(events=["project.*"])

    redelivery_batches.run(service.replay(webhook, since, rate_limit=2.0).id)

    check_that_twenty_go_two_a_second(Delivery.objects.order_by("event_id"))


def test_cancelled_redelivery_stops(
    user: User, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redelivery_batches, "BATCH", 10)
    trigger(user, 30)
    fail()
    asked = service.redeliver(Scope(webhook_id=webhook.id))
    redelivery_batches.advance(asked.id)

    assert redelivery.cancel(asked)
    assert not redelivery_batches.advance(asked.id)
    assert not redelivery.cancel(asked)

    assert Delivery.objects.filter(round=2).count() == 10


def test_progress_counts_results(user: User, webhook: Webhook) -> None:
    trigger(user, 4)
    fail()
    asked = service.redeliver(Scope(webhook_id=webhook.id))
    redelivery_batches.run(asked.id)
    ids = list(Delivery.objects.order_by("id").values_list("id", flat=True))
    Delivery.objects.filter(id__in=ids[:2]).update(status="SUCCESS")
    fail(id=ids[2])
    asked.refresh_from_db()

    now = redelivery_progress.progress(asked)

    assert (now.matched, now.queued, now.succeeded, now.failed) == (4, 4, 2, 1)
    assert not now.is_over


def test_replay_creates_exactly_the_missing_deliveries(
    user: User, other_user: User, make_webhook: Callable[..., Webhook]
) -> None:
    since = timezone.now()
    trigger(user, 5)
    trigger(other_user, 5)
    webhook = make_webhook(events=["project.deleted"])
    trigger(user, 2)

    asked = service.replay(webhook, since)
    redelivery_batches.run(asked.id)
    again = service.replay(webhook, since)
    redelivery_batches.run(again.id)

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
def test_enabling_sends_the_deliveries_that_the_caller_chooses(
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

    assert service.enable(webhook, send=send).waiting == len(waiting)

    left = Delivery.objects.filter(status="PENDING").values_list("id", flat=True)
    assert {names[key] for key in left} == waiting
    assert Delivery.objects.filter(status="CANCELLED").count() == 2 - len(waiting)
    webhook.refresh_from_db()
    assert (webhook.active, webhook.disabled_reason, webhook.disabled_at) == (True, "", None)


def test_enabling_changes_nothing_that_others_changed_meanwhile(webhook: Webhook) -> None:
    service.disable(webhook)
    stale, staler = Webhook.objects.get(id=webhook.id), Webhook.objects.get(id=webhook.id)
    service.update_webhook(webhook, url="https://new.example/", headers={"X-Key": "new"})

    service.enable(stale)

    now = Webhook.objects.get(id=webhook.id)
    assert (now.active, now.url, now.headers) == (
        True,
        "https://new.example/",
        {"X-Key": "new"},
    )
    service.delete_webhook(now)
    with pytest.raises(WebhookNotSendingError, match="is deleted"):
        service.enable(staler)
    assert not Webhook.objects.get(id=webhook.id).active


def test_only_a_disabled_webhook_is_enabled(user: User, webhook: Webhook) -> None:
    trigger(user, 1)

    with pytest.raises(WebhookNotSendingError, match="is not disabled"):
        service.enable(webhook, send="none")

    assert Delivery.objects.get().status == "PENDING"


@pytest.mark.django_db(transaction=True)
def test_who_enables_later_cancels_nothing(
    user: User, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    trigger(user, 1)
    service.disable(webhook)
    cancel_all = switch._cancel_all

    def cancel_when_enabled(unwanted: Any) -> None:
        monkeypatch.setattr(switch, "_cancel_all", cancel_all)
        in_thread(lambda: service.enable(Webhook.objects.get(), send="all")).join()
        cancel_all(unwanted)

    monkeypatch.setattr(switch, "_cancel_all", cancel_when_enabled)
    with pytest.raises(WebhookNotSendingError, match="is not disabled"):
        service.enable(webhook, send="none")

    assert Webhook.objects.get().active
    assert Delivery.objects.get().status == "PENDING"


def test_disabling_keeps_the_reason(webhook: Webhook) -> None:
    switch.disable(webhook, "Maintenance")

    webhook.refresh_from_db()
    assert (webhook.active, webhook.disabled_reason) == (False, "Maintenance")
    assert webhook.disabled_at is not None
    with pytest.raises(WebhookNotSendingError, match="disabled already"):
        switch.disable(webhook, "Another")
    assert Webhook.objects.get().disabled_reason == "Maintenance"


# Several at once, and what cannot be carried out.


def settle(status: str, **conditions: Any) -> None:
    Delivery.objects.filter(**conditions).update(
        status=status, finished_at=timezone.now(), next_attempt_at=None
    )


def test_overlapping_redeliveries_both_count_the_results(user: User, webhook: Webhook) -> None:
    trigger(user, 3)
    fail()
    ids = tuple(Delivery.objects.order_by("id").values_list("id", flat=True))
    first = service.redeliver(Scope(delivery_ids=ids))
    redelivery_batches.run(first.id)
    second = service.redeliver(Scope(delivery_ids=ids[1:], statuses=("PENDING",)))
    redelivery_batches.run(second.id)
    third = service.redeliver_one(Delivery.objects.get(id=ids[2]))
    asked = list(Redelivery.objects.order_by("id"))

    assert [row.queued_count for row in asked] == [3, 2, 1]
    assert not any(redelivery_progress.progress(row).is_answered for row in asked)
    settle("SUCCESS", id__in=ids[:2])
    settle("FAILED", id=ids[2])

    now = [redelivery_progress.progress(row) for row in (first, second, third)]
    assert [(one.succeeded, one.failed) for one in now] == [(2, 1), (1, 1), (0, 1)]
    assert all(one.is_over and one.is_answered for one in now)
    (outcome,) = redelivery_progress.outcomes(first)
    assert (outcome.queued, outcome.succeeded, outcome.failed) == (3, 2, 1)


def carry_out(asked: Redelivery) -> None:
    while Redelivery.objects.get(id=asked.id).status == "running":
        redelivery_batches.advance(asked.id)


@pytest.mark.django_db(transaction=True)
def test_two_concurrent_redeliveries_of_the_same_deliveries_queue_all_without_blocking(
    user: User, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redelivery_batches, "BATCH", 7)
    monkeypatch.setattr(redelivery_batches, "RETRY_LOCKED_AFTER", timedelta(0))
    trigger(user, 100)
    fail()
    everything = Scope(owner_id=user.id, statuses=tuple(REPEATABLE))
    asked = [service.redeliver(everything) for _ in range(3)]

    at_work = [in_thread(partial(carry_out, row)) for row in asked]
    for thread in at_work:
        thread.join()
    settle("SUCCESS")

    for row in asked:
        row.refresh_from_db()
        assert (row.status, row.queued_count, row.failures) == ("done", 100, 0)
        assert redelivery_progress.progress(row).succeeded == 100
    assert set(Delivery.objects.values_list("round", flat=True)) == {4}


def test_a_redelivery_is_over_when_its_deliveries_were_purged(user: User, webhook: Webhook) -> None:
    trigger(user, 2)
    fail()
    for _ in range(2):
        asked = service.redeliver(Scope(webhook_id=webhook.id))
        redelivery_batches.run(asked.id)
        fail()
    first = Redelivery.objects.order_by("id")[0]
    policy = retention.Policy(timezone.now() + timedelta(days=1))

    purged = sum(retention.purge(policy, share=1.0), retention.Purged())

    assert redelivery_progress.progress(first).is_over
    assert (purged.deliveries, purged.redeliveries) == (2, 2)
    assert not RedeliveryTakeover.objects.exists()


REFUSE_SQL = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'not today' USING ERRCODE = '{code}'; END $$;
CREATE TRIGGER refuse BEFORE UPDATE ON webhooks_delivery FOR EACH ROW
    WHEN (NEW.webhook_id = '{webhook}' AND NEW.round > OLD.round) EXECUTE FUNCTION refuse()
"""
UNIQUE_VIOLATION, DEADLOCK = "23505", "40P01"


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        ("a filter that cannot be read", "ValueError: badly formed hexadecimal UUID string"),
        ("a filter of a later version", "TypeError: "),
        ("a status that cannot be", "Deliveries with this status cannot be redelivered: SENDING."),
        ("a deleted webhook", "The webhook was deleted."),
        ("a refused row", "IntegrityError: not today"),
    ],
)
def test_an_impossible_redelivery_is_marked_and_the_others_continue(
    user: User,
    webhook: Webhook,
    make_webhook: Callable[..., Webhook],
    trouble: str,
    reason: str,
) -> None:
    other = make_webhook(name="other", events=["project.*"])
    trigger(user, 2)
    fail()
    bad = service.redeliver(Scope(webhook_id=webhook.id))
    good = service.redeliver(Scope(webhook_id=other.id))
    if trouble == "a deleted webhook":
        service.delete_webhook(webhook)
    elif trouble == "a refused row":
        with connection.cursor() as cursor:
            cursor.execute(REFUSE_SQL.format(code=UNIQUE_VIOLATION, webhook=webhook.id))
    else:
        changes: dict[str, Any] = {
            "a filter that cannot be read": {"owner_id": "ada"},
            "a filter of a later version": {"colour": "blue"},
            "a status that cannot be": {"statuses": ["SENDING"]},
        }
        bad.scope |= changes[trouble]
        bad.save()

    assert not redelivery_batches.advance_all()

    bad.refresh_from_db()
    good.refresh_from_db()
    assert (bad.status, bad.finished_at is None) == ("failed", False)
    assert bad.error.startswith(reason)
    assert (good.status, good.queued_count, good.error) == ("done", 2, "")
    assert set(Delivery.objects.filter(webhook=webhook).values_list("round", flat=True)) == {1}


def test_temporary_database_errors_are_retried_and_given_up_at_last(
    user: User, webhook: Webhook, make_webhook: Callable[..., Webhook]
) -> None:
    other = make_webhook(name="other", events=["project.*"])
    trigger(user, 2)
    fail()
    with connection.cursor() as cursor:
        cursor.execute(REFUSE_SQL.format(code=DEADLOCK, webhook=webhook.id))
    bad = service.redeliver(Scope(webhook_id=webhook.id))
    pauses = []
    for _ in range(redelivery_batches.MAX_FAILURES - 1):
        good = service.redeliver(Scope(webhook_id=other.id, statuses=("PENDING", "FAILED")))
        redelivery_batches.advance_all()
        bad.refresh_from_db()
        good.refresh_from_db()
        assert (bad.status, bad.error) == ("running", "OperationalError: not today")
        assert (good.status, good.queued_count) == ("done", 2)
        pauses.append(round((bad.due_at - timezone.now()).total_seconds()))
        Redelivery.objects.update(due_at=timezone.now())

    redelivery_batches.advance_all()

    bad.refresh_from_db()
    assert (bad.status, bad.error) == ("failed", "OperationalError: not today")
    assert pauses == [1, 2, 4, 8, 16, 32, 64, 128, 256]


def test_a_requester_does_not_wait_for_a_hundred_redeliveries_of_another(
    user: User, other_user: User, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redelivery_batches, "TURN_SECONDS", 0.0)
    trigger(user, 5)
    fail()
    for delivery in Delivery.objects.all():
        service.redeliver(Scope(delivery_ids=(delivery.id,)), requested_by=user)
    last = service.redeliver(Scope(owner_id=other_user.id), requested_by=other_user)

    assert redelivery_batches.advance_all()

    last.refresh_from_db()
    assert last.status == "done"
    assert Redelivery.objects.filter(requested_by=user, status="done").count() == 1


def test_an_empty_list_names_nothing(user: User, webhook: Webhook) -> None:
    trigger(user, 2)
    fail()

    by_ids = service.redeliver(Scope(delivery_ids=(), webhook_id=webhook.id))
    by_status = service.redeliver(Scope(webhook_id=webhook.id, statuses=()))
    for asked in (by_ids, by_status):
        redelivery_batches.run(asked.id)

    assert Scope.from_json(by_ids.scope).delivery_ids == ()
    assert set(Redelivery.objects.values_list("status", "queued_count")) == {("done", 0)}


def test_counting_stops_at_its_limit(
    user: User, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redelivery, "COUNTED_AT_MOST", 2)
    trigger(user, 5)
    fail()

    asked = service.redeliver(Scope(webhook_id=webhook.id))
    assert asked.matched_count == 3
    redelivery_batches.run(asked.id)

    asked.refresh_from_db()
    assert (asked.matched_count, asked.queued_count) == (5, 5)


def test_enabling_counts_pending_deliveries_up_to_a_limit(
    user: User, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switch, "COUNTED_AT_MOST", 2)
    monkeypatch.setattr(switch, "BATCH", 2)
    trigger(user, 5)
    service.disable(webhook)

    assert service.enable(webhook, send="all").waiting == 3
    service.disable(webhook)
    assert service.enable(webhook, send="none").waiting == 0

    assert Delivery.objects.filter(status="CANCELLED").count() == 5


@pytest.mark.django_db(transaction=True)
def test_the_webhook_is_not_locked_while_its_deliveries_are_cancelled(
    user: User, webhook: Webhook
) -> None:
    trigger(user, 2)
    service.disable(webhook)
    with another_connection() as other:
        other.execute("SELECT FROM webhooks_delivery LIMIT 1 FOR UPDATE")
        enabling = in_thread(lambda: service.enable(webhook, send="none"))
        wait_for_lock()

        with connection.cursor() as cursor:
            cursor.execute("SELECT FROM webhooks_webhook FOR UPDATE NOWAIT")
    enabling.join()

    webhook.refresh_from_db()
    assert webhook.active
    assert set(Delivery.objects.values_list("status", flat=True)) == {"CANCELLED"}


@pytest.mark.django_db(transaction=True)
def test_who_deletes_a_user_waits_for_no_delivery(user: User, webhook: Webhook) -> None:
    trigger(user, 2)
    with another_connection() as other:
        locked = other.execute("SELECT id FROM webhooks_delivery LIMIT 1 FOR UPDATE").fetchone()
        assert locked

        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET LOCAL lock_timeout = '5s'")
            user.delete()

    # The dispatcher cancels the other one.
    assert Delivery.objects.get(status="PENDING").id == locked[0]
    assert Webhook.objects.get().deleted_at is not None
