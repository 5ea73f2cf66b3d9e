"""Retention: by the time of finishing, whole deliveries, never unfinished ones."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from pytest_django import Settings

from projects.models import User
from tests.concurrency import another_connection
from tests.webhooks.history import finish, make_older, trigger
from webhooks import service
from webhooks.ids import new_id
from webhooks.models import (
    Attempt,
    AuditEntry,
    Delivery,
    Event,
    IdempotentAnswer,
    Redelivery,
    SigningSecret,
    Webhook,
)
from webhooks.repair import (
    expiry,
    housekeeping,
    integrity,
    redelivery_batches,
    redelivery_scope,
    retention,
)
from webhooks.repair.redelivery_scope import Scope
from webhooks.repair.retention import Policy, Purged

DAY = timedelta(days=1)


@pytest.fixture
def webhook(make_webhook: Callable[..., Webhook]) -> Webhook:
    return make_webhook(events=["project.*"])


def a_day_ago(**fields: Any) -> Policy:
    return Policy(timezone.now() - DAY, **fields)


def run(policy: Policy, **options: Any) -> Purged:
    return sum(retention.purge(policy, share=1.0, **options), Purged())


def left() -> tuple[int, int, int]:
    return (
        Delivery.objects.count(),
        Attempt.objects.count(),
        Event.objects.filter(type="project.deleted").count(),
    )


@pytest.mark.parametrize("batch_size", [1, 3, 5000])
def test_old_finished_deliveries_are_deleted_and_others_kept(
    user: User, webhook: Webhook, batch_size: int
) -> None:
    trigger(user, 4)
    finish()
    make_older(2 * DAY)
    trigger(user, 3)
    finish("FAILED")

    counted = retention.count(a_day_ago())
    purged = run(a_day_ago(), batch_size=batch_size)

    # The fixture's own user.created event goes too: no webhook wanted it.
    assert counted == purged == Purged(deliveries=4, attempts=4, events=5)
    assert left() == (3, 3, 3)
    assert list(integrity.find_faults()) == []


def test_pending_is_never_touched_however_old(user: User, webhook: Webhook) -> None:
    trigger(user, 3)
    make_older(400 * DAY)

    assert run(a_day_ago()).deliveries == 0
    assert left() == (3, 0, 3)


def test_age_counts_from_the_end_not_from_the_beginning(user: User, webhook: Webhook) -> None:
    trigger(user, 2)
    make_older(30 * DAY)
    finish()

    assert run(a_day_ago()).deliveries == 0
    assert left() == (2, 2, 2)


def test_event_stays_as_long_as_one_delivery_needs_it(
    user: User, webhook: Webhook, make_webhook: Callable[..., Webhook]
) -> None:
    make_webhook(events=["project.*"])
    trigger(user, 2)
    finish(webhook_id=webhook.id)
    make_older(2 * DAY)

    assert run(a_day_ago()) == Purged(deliveries=2, attempts=2, events=1)
    assert left() == (2, 0, 2)
    assert set(Event.objects.values_list("fanout_count", flat=True)) == {1}
    assert list(integrity.find_faults()) == []
    finish()
    make_older(2 * DAY)
    assert run(a_day_ago()).events == 2
    assert left() == (0, 0, 0)


def test_statuses_choose(user: User, webhook: Webhook) -> None:
    trigger(user, 2)
    finish()
    trigger(user, 1)
    finish("FAILED")
    make_older(2 * DAY)
    policy = a_day_ago(statuses=("SUCCESS", "CANCELLED"))

    assert retention.count(policy) == run(policy) == Purged(deliveries=2, attempts=2, events=2)
    assert Delivery.objects.get().status == "FAILED"


def test_payloads_only_erases_and_keeps_the_rows(user: User, webhook: Webhook) -> None:
    trigger(user, 2)
    finish()
    make_older(2 * DAY)
    trigger(user, 1)
    policy = a_day_ago(payloads_only=True)

    assert retention.count(policy) == run(policy) == Purged(attempts=2, events=3)
    assert left() == (3, 2, 3)
    assert Event.objects.exclude(payload=b"").count() == 1
    assert not Attempt.objects.exclude(response_body=None).exists()
    assert run(policy) == Purged()
    assert (
        redelivery_scope.matching(Scope(webhook_id=webhook.id, statuses=("SUCCESS",))).count() == 0
    )


def test_owner_is_erased_except_unfinished_deliveries(
    user: User, other_user: User, make_webhook: Callable[..., Webhook]
) -> None:
    make_webhook(owner=None, is_platform=True, events=["project.*"])
    trigger(user, 2)
    trigger(other_user, 2)
    finish()
    trigger(user, 1)
    Event.objects.exclude(type="project.deleted").delete()

    purged = run(Policy(timezone.now() + DAY, owner_id=user.id))

    assert purged == Purged(attempts=2, events=2)
    assert Event.objects.filter(payload=b"").count() == 2
    assert Event.objects.filter(owner_id=other_user.id, payload=b"").count() == 0
    assert retention.kept_pending(user.id) == 1
    assert list(integrity.find_faults()) == []


def test_deleted_webhook_is_purged_once_it_has_no_deliveries(
    user: User, make_webhook: Callable[..., Webhook]
) -> None:
    empty, used, young, live = (make_webhook(events=["project.*"]) for _ in range(4))
    trigger(user, 1)
    Delivery.objects.filter(webhook=empty).delete()
    Event.objects.update(fanout_count=0)
    Webhook.objects.filter(id__in=[empty.id, used.id]).update(deleted_at=timezone.now() - 2 * DAY)
    service.delete_webhook(young)

    assert retention.count(a_day_ago()).webhooks == run(a_day_ago()).webhooks == 1
    assert set(Webhook.objects.all()) == {used, young, live}
    assert SigningSecret.objects.count() == 3


def test_old_redelivery_is_purged_once_it_has_no_deliveries(user: User, webhook: Webhook) -> None:
    trigger(user, 1)
    finish("FAILED")
    redelivery_batches.run(service.redeliver(Scope(webhook_id=webhook.id)).id)
    redelivery_batches.run(service.redeliver(Scope(webhook_id=webhook.id)).id)
    Redelivery.objects.update(finished_at=timezone.now() - 2 * DAY)

    assert run(a_day_ago()).redeliveries == 1
    assert Redelivery.objects.get().matched_count == 1


def test_all_that_nothing_refers_to_goes_however_much_it_is(
    webhook: Webhook, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "LARGEST_BATCH", 2)
    monkeypatch.setattr(retention, "SLICE_SECONDS", 0.0)
    settings.WEBHOOKS_RETENTION_DAYS = 1
    long_ago = timezone.now() - 2 * DAY
    Redelivery.objects.bulk_create(
        Redelivery(scope={}, status=Redelivery.Status.DONE, finished_at=long_ago) for _ in range(5)
    )

    progress: dict[str, Any] | None = {}
    for _ in range(20):
        progress = None if progress is None else retention.purge_daily(progress)

    assert progress is None
    assert not Redelivery.objects.exists()
    assert AuditEntry.objects.get(action="purge").changes["redeliveries"] == 5


def test_interrupted_purge_leaves_whole_deliveries_and_continues(
    user: User, webhook: Webhook
) -> None:
    trigger(user, 10)
    finish()
    make_older(2 * DAY)

    steps = retention.purge(a_day_ago(), share=1.0, batch_size=4)
    first = next(steps)
    steps.close()

    assert first == Purged(deliveries=4, attempts=4, events=4)
    assert left() == (6, 6, 6)
    assert list(integrity.find_faults()) == []
    assert run(a_day_ago()).deliveries == 6


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("policy", [a_day_ago(), a_day_ago(payloads_only=True)])
@pytest.mark.parametrize(
    "lock",
    [
        "SELECT FROM webhooks_delivery ORDER BY id LIMIT 1 FOR SHARE",
        "SELECT FROM webhooks_event WHERE fanout_count = 1 ORDER BY id LIMIT 1 FOR SHARE",
    ],
)
def test_locked_rows_are_left_for_the_next_run(
    user: User, webhook: Webhook, policy: Policy, lock: str
) -> None:
    trigger(user, 3)
    finish()
    make_older(2 * DAY)
    with another_connection() as other:
        other.execute(lock)
        first = run(policy)

    second = run(policy)

    assert (first.attempts, second.attempts) == (2, 1)


def test_webhook_stays_while_a_transaction_under_way_may_add_a_delivery(webhook: Webhook) -> None:
    service.delete_webhook(webhook)

    assert run(Policy(timezone.now() + DAY)).webhooks == 0
    Webhook.objects.update(deleted_at=timezone.now() - retention.LONGEST_TRANSACTION)
    assert run(Policy(timezone.now() + DAY)).webhooks == 1


def test_batches_shrink_and_grow_with_their_time() -> None:
    assert retention.next_batch(1000, 0.3, 5000) == 250
    assert retention.next_batch(1000, 0.08, 5000) == 500
    assert retention.next_batch(1000, 0.04, 5000) == 1000
    assert retention.next_batch(1000, 0.01, 5000) == 1501
    assert retention.next_batch(4000, 0.01, 5000) == 5000
    assert retention.next_batch(1, 9.0, 5000) == 1


def test_workers_purge_once_a_day_where_the_setting_says_so(
    user: User, webhook: Webhook, settings: Settings
) -> None:
    trigger(user, 3)
    finish()
    make_older(10 * DAY)
    settings.WEBHOOKS_RETENTION_DAYS = 0
    assert not housekeeping.keep_house()
    assert left() == (3, 3, 3)

    settings.WEBHOOKS_RETENTION_DAYS = 7
    assert not housekeeping.keep_house()
    assert not housekeeping.keep_house()

    assert left() == (0, 0, 0)
    started, ended = AuditEntry.objects.order_by("id")
    assert (started.action, ended.action) == ("purge started", "purge")
    assert ended.changes == {
        "deliveries": 3, "attempts": 3, "events": 4, "webhooks": 0, "redeliveries": 0,
    }  # fmt: skip


def test_daily_purge_continues_in_slices(
    user: User, webhook: Webhook, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "SLICE_SECONDS", 0.0)
    monkeypatch.setattr(retention, "FIRST_BATCH", 2)
    settings.WEBHOOKS_RETENTION_DAYS = 7
    trigger(user, 3)
    finish()
    make_older(10 * DAY)

    assert housekeeping.keep_house()
    assert left()[0] == 1
    while housekeeping.keep_house():
        pass

    assert left() == (0, 0, 0)


def test_unknown_owner_has_nothing(db: None) -> None:
    assert run(Policy(timezone.now(), owner_id=new_id())) == Purged()


# Stored answers.


def make_answers(user: User, *ages: timedelta) -> None:
    for number, age in enumerate(ages):
        IdempotentAnswer.objects.create(
            owner_id=user.id,
            key=str(number),
            request_hash=b"",
            created_at=timezone.now() - age,
        )


def kept_keys() -> list[str]:
    return list(IdempotentAnswer.objects.order_by("key").values_list("key", flat=True))


def test_answers_go_after_a_day_however_long_events_are_kept(
    user: User, settings: Settings
) -> None:
    settings.WEBHOOKS_RETENTION_DAYS = 0
    make_answers(user, DAY, DAY - timedelta(minutes=1), 100 * DAY)

    assert not housekeeping.keep_house()

    assert kept_keys() == ["1"]


def test_answers_go_in_batches_the_oldest_first(
    user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expiry, "FIRST_BATCH", 2)
    make_answers(user, 2 * DAY, 3 * DAY, 4 * DAY)

    assert housekeeping.keep_house()
    assert kept_keys() == ["0"]
    assert not housekeeping.keep_house()
    assert kept_keys() == []


def test_answers_are_looked_for_once_a_minute(user: User) -> None:
    assert not housekeeping.keep_house()
    make_answers(user, 2 * DAY)

    assert not housekeeping.keep_house()

    assert kept_keys() == ["0"]


@pytest.mark.django_db(transaction=True)
def test_answer_that_is_being_replaced_is_not_waited_for(user: User) -> None:
    make_answers(user, 2 * DAY, 2 * DAY)
    with another_connection() as other:
        other.execute("SELECT FROM webhooks_idempotentanswer WHERE key = '0' FOR UPDATE")

        expiry.delete_expired_responses()

        assert kept_keys() == ["0"]
