"""Attempts in daily partitions: every result finds a place, days go as a whole, nothing else does."""

import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

import pytest
from django.db import IntegrityError, OperationalError, connection, transaction
from django.utils import timezone
from pytest_django import Settings

from projects.models import User
from tests.concurrency import another_connection, in_thread
from tests.webhooks.history import finish, make_older, succeeded, trigger
from webhooks.dispatch.settle import settle
from webhooks.ids import first_id_of, new_id
from webhooks.models import Attempt, Delivery, ExpiringPartition, Webhook
from webhooks.postgres.sql import query
from webhooks.repair import housekeeping, integrity, partitions, retention
from webhooks.repair.chores import take_turn
from webhooks.repair.doctor_work import check_partitions
from webhooks.repair.findings import Level
from webhooks.repair.retention import Policy, Purged

pytestmark = pytest.mark.django_db(transaction=True)

DAY = timedelta(days=1)
OTHERS = "webhooks_attempt_other"


@pytest.fixture(autouse=True)
def the_same_partitions_after_it() -> Iterator[None]:
    before = {one.name for one in partitions.partitions()}
    yield
    with connection.cursor() as cursor:
        for one in partitions.partitions():
            if one.name not in before:
                cursor.execute(f"DROP TABLE {one.name}")
        cursor.execute(f"TRUNCATE {OTHERS}")
    for name in before - {one.name for one in partitions.partitions()}:
        make(date.fromisoformat(name[-8:]))


@pytest.fixture
def webhook(make_webhook: Callable[..., Webhook]) -> Webhook:
    return make_webhook(events=["project.deleted"])


def make(day: date) -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT webhooks_make_attempt_partition(%s)", [day])
        return bool(cursor.fetchone()[0])


def day_of(moment: datetime) -> date:
    return moment.astimezone(UTC).date()


def leaf_of(moment: datetime) -> str:
    return f"webhooks_attempt_{day_of(moment):%Y%m%d}"


def drop(leaf: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"DROP TABLE {leaf}")


def places() -> dict[str, int]:
    """The number of attempts in each partition that has any."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT tableoid::regclass::text, count(*) FROM webhooks_attempt GROUP BY 1")
        return dict(cursor.fetchall())


def claimed(user: User, moment: datetime | None = None) -> tuple[UUID, UUID]:
    """A worker and the delivery that it sends, whose event's id was made at a time."""
    worker = new_id()
    trigger(user, 1)
    delivery = Delivery.objects.get(finished_at=None, claimed_by=None)
    made = delivery.id if moment is None else UUID(int=first_id_of(moment).int + 1)
    Delivery.objects.filter(id=delivery.id).update(id=made, claimed_by=worker, status="SENDING")
    return worker, made


def test_every_day_from_now_on_has_its_partition() -> None:
    names = [one.name for one in partitions.partitions()]

    days = [timezone.now() + n * DAY for n in range(partitions.AHEAD_DAYS + 1)]
    assert set(map(leaf_of, days)) <= set(names)


@pytest.mark.parametrize(
    "clock_is_off",
    [n * sign for n in (timedelta(minutes=10), 10 * DAY, 4000 * DAY) for sign in (1, -1)],
)
def test_result_is_stored_whatever_the_clocks_say(
    user: User, webhook: Webhook, clock_is_off: timedelta
) -> None:
    worker, delivery = claimed(user, timezone.now() + clock_is_off)

    written, locked, _ = settle(worker, [succeeded(delivery)])

    assert (written, locked) == ({delivery.hex}, set())
    assert Attempt.objects.get().delivery_id == delivery
    assert list(integrity.find_faults()) == []


def test_worker_s_clock_decides_nothing(user: User, webhook: Webhook) -> None:
    worker, delivery = claimed(user)
    long_ago = UUID(int=first_id_of(timezone.now() - 10 * DAY).int + 1)

    settle(worker, [{**succeeded(delivery), "attempt_id": long_ago.hex}])

    assert places() == {leaf_of(timezone.now()): 1}


def test_result_is_stored_while_its_day_has_no_partition(user: User, webhook: Webhook) -> None:
    worker, delivery = claimed(user)
    drop(leaf_of(timezone.now()))

    assert settle(worker, [succeeded(delivery)]).written
    assert places() == {OTHERS: 1}

    partitions.make_ahead()

    assert places() == {leaf_of(timezone.now()): 1}
    assert Attempt.objects.get().delivery_id == delivery


def test_chore_makes_what_is_missing_and_only_that(user: User) -> None:
    ahead = leaf_of(timezone.now() + 7 * DAY)
    drop(ahead)
    before = {one.name for one in partitions.partitions()}

    housekeeping.keep_house()
    assert {one.name for one in partitions.partitions()} == before | {ahead}
    partitions.make_ahead()
    assert {one.name for one in partitions.partitions()} == before | {ahead}


def test_two_housekeepers_make_one_partition() -> None:
    drop(leaf_of(timezone.now() + 7 * DAY))
    problems: list[Exception] = []

    def make_one() -> None:
        try:
            partitions.make_ahead()
        except OperationalError as problem:
            problems.append(problem)

    threads = [in_thread(make_one) for _ in range(4)]
    for thread in threads:
        thread.join()

    # Only for a lock, which the chore's next turn gets.
    assert all("lock timeout" in str(problem) for problem in problems)
    partitions.make_ahead()
    assert leaf_of(timezone.now() + 7 * DAY) in {one.name for one in partitions.partitions()}


def test_number_of_an_attempt_is_still_unique(user: User, webhook: Webhook) -> None:
    worker, delivery = claimed(user)
    settle(worker, [succeeded(delivery)])
    again = {"delivery_id": delivery, "started_at": timezone.now(), "duration_ms": 1}

    with pytest.raises(IntegrityError), transaction.atomic():
        Attempt.objects.create(**again, number=1)
    Attempt.objects.create(**again, number=2)


def test_attempts_of_a_delivery_are_read_from_one_partition(user: User, webhook: Webhook) -> None:
    trigger(user, 3)
    finish()
    deliveries = list(Delivery.objects.all())

    for attempts in (
        deliveries[0].attempts.order_by("-number"),
        Attempt.objects.filter(delivery__in=[one.id for one in deliveries]),
    ):
        plan = attempts.explain()
        assert leaf_of(timezone.now()) in plan
        assert OTHERS not in plan


def test_doctor_says_when_partitions_are_missing() -> None:
    assert {one.level for one in check_partitions()} == {Level.OK}

    drop(leaf_of(timezone.now() + DAY))
    assert {one.level for one in check_partitions()} == {Level.WARNING}
    drop(leaf_of(timezone.now()))
    (finding,) = check_partitions()
    assert finding.message.startswith("Attempts of tomorrow have no partition")


# The purge of days.


def purge(age: timedelta = DAY, batch_size: int = 3) -> list[Purged]:
    return list(retention.purge(Policy(timezone.now() - age), share=1.0, batch_size=batch_size))


def finish_again(count: int) -> list[UUID]:
    """Let the first deliveries have ended just now, as after a redelivery; returns their ids."""
    chosen = list(Delivery.objects.order_by("id").values_list("id", flat=True)[:count])
    Delivery.objects.filter(id__in=chosen).update(finished_at=timezone.now())
    return chosen


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four attempts are many."""
    monkeypatch.setattr(partitions, "LARGE", 4)


@pytest.fixture
def old_day(user: User, webhook: Webhook) -> str:
    """A partition of ten days ago with the attempts of eight finished deliveries; its name."""
    moment = timezone.now() - 10 * DAY
    make(day_of(moment))
    trigger(user, 8)
    finish()
    make_older(10 * DAY)
    assert places() == {leaf_of(moment): 8}
    return leaf_of(moment)


def test_old_day_goes_as_a_whole(old_day: str, large: None, user: User) -> None:
    trigger(user, 2)
    finish()

    purged = sum(purge(), Purged())

    # The fixture's own user.created event goes too: no webhook wanted it.
    assert purged == Purged(deliveries=8, attempts=8, events=9)
    assert old_day not in {one.name for one in partitions.partitions()}
    assert places() == {leaf_of(timezone.now()): 2}
    assert not ExpiringPartition.objects.exists()


def test_what_is_to_be_kept_of_an_old_day_stays(old_day: str, large: None) -> None:
    recent, waiting = Delivery.objects.order_by("id")[:2]
    Delivery.objects.filter(id=recent.id).update(finished_at=timezone.now())
    Delivery.objects.filter(id=waiting.id).update(status="RETRYING", finished_at=None)
    before = list(Attempt.objects.filter(delivery__in=[recent, waiting]).order_by("id").values())

    purged = sum(purge(), Purged())

    assert (purged.deliveries, purged.attempts) == (6, 6)
    assert places() == {old_day: 2}
    assert list(Attempt.objects.order_by("id").values()) == before
    Attempt.objects.create(delivery=waiting, number=2, started_at=timezone.now(), duration_ms=1)
    with pytest.raises(IntegrityError), transaction.atomic():
        Attempt.objects.create(delivery=recent, number=1, started_at=timezone.now(), duration_ms=1)


def test_look_before_the_exchange_marks_what_was_deleted(old_day: str, large: None) -> None:
    sql = "SELECT seq_scan FROM pg_stat_xact_user_tables WHERE relname = 'webhooks_delivery'"
    next(retention.purge(Policy(timezone.now() - DAY), share=1.0, batch_size=8))
    with connection.cursor() as cursor:
        # So that the planner knows how small the table is.
        cursor.execute("ANALYZE webhooks_delivery")

    with transaction.atomic():
        ((before,),) = query(sql)
        partitions.exchange_expiring(first_id_of(timezone.now() - DAY))
        # Only a scan of the index marks its entries of rows that are gone.
        assert query(sql) == [(before,)]

    assert places() == {}


def test_exchange_looks_up_deliveries_once_whatever_the_statistics_say(old_day: str) -> None:
    sql = "SELECT idx_scan FROM pg_stat_xact_user_tables WHERE relname = 'webhooks_delivery'"
    kept = finish_again(1)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE webhooks_delivery, webhooks_attempt")
        cursor.execute("UPDATE pg_class SET reltuples = 1e6 WHERE relname = 'webhooks_delivery'")
        cursor.execute("DELETE FROM webhooks_delivery WHERE id <> ALL(%s)", [kept])

    with transaction.atomic():
        ((before,),) = query(sql)
        query("SELECT webhooks_replace_attempt_partition(%(name)s)", {"name": old_day})
        ((after,),) = query(sql)

    assert places() == {old_day: 1}
    # Not once for each of the eight attempts; planning reads the ends of the index, too.
    assert after - before < 8


def test_auditor_finds_no_fault_at_any_moment_of_a_purge(old_day: str, large: None) -> None:
    finish_again(1)
    faults: list[integrity.Fault] = []
    left = []

    for _ in retention.purge(Policy(timezone.now() - DAY), share=1.0, batch_size=3):
        faults += integrity.find_faults()
        left.append(Attempt.objects.count())

    assert faults == []
    # They are there until their day is exchanged.
    assert (left[0], left[-1]) == (8, 1)


def test_interrupted_purge_is_continued(old_day: str, large: None) -> None:
    next(retention.purge(Policy(timezone.now() - DAY), share=1.0, batch_size=3))
    assert ExpiringPartition.objects.count() == 1
    assert list(integrity.find_faults()) == []

    purge()

    assert places() == {}
    assert not ExpiringPartition.objects.exists()


def test_day_with_much_to_keep_is_purged_row_by_row(
    old_day: str, large: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions, "MOST_KEPT", 1)
    kept = finish_again(3)

    purged = sum(purge(), Purged())

    assert (purged.deliveries, purged.attempts) == (5, 5)
    assert sorted(Attempt.objects.values_list("delivery", flat=True)) == kept
    assert not ExpiringPartition.objects.exists()
    assert list(integrity.find_faults()) == []


def test_day_with_much_to_keep_waits_at_first(
    old_day: str, large: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions, "MOST_KEPT", 1)
    Delivery.objects.filter(id__in=finish_again(3)).update(finished_at=timezone.now() - 8 * DAY)

    purge(9 * DAY)
    purge(9 * DAY)

    assert Delivery.objects.count() == 3
    assert places() == {old_day: 8}
    assert list(integrity.find_faults()) == []
    purge(7 * DAY)
    assert places() == {}


def test_day_in_use_waits_at_first_and_stops_no_purge(
    old_day: str, large: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions, "WAIT_SECONDS", 0.5)
    with another_connection() as reader:
        reader.execute("SELECT FROM webhooks_attempt")

        purge(9 * DAY)
        assert places() == {old_day: 8}
        assert list(integrity.find_faults()) == []
        assert not any(integrity.mend().values())
        # Its patience is at an end: row by row, for which it waits for no reader.
        purge()
        assert places() == {}
    purge()

    assert old_day not in {one.name for one in partitions.partitions()}
    assert not ExpiringPartition.objects.exists()


def test_days_in_use_do_not_outlast_the_turn_of_a_housekeeper(
    old_day: str, large: None, settings: Settings
) -> None:
    settings.WEBHOOKS_RETENTION_DAYS = 1
    # Each day more takes its time of the same turn.
    for days in (4, 5, 6, 7):
        make(day_of(timezone.now() - days * DAY))
    Delivery.objects.all().delete()
    (chore,) = (chore for chore in housekeeping.chores() if chore.name == "purge")

    with another_connection() as reader:
        reader.execute("SELECT FROM webhooks_attempt")
        begun_at = time.monotonic()
        take_turn(chore, new_id())

    assert time.monotonic() - begun_at < 10 < chore.lease_seconds


def test_deliveries_go_in_time_and_their_attempts_with_the_rest_of_their_day(
    old_day: str, large: None
) -> None:
    later = partitions.partitions()[0].end_id.int - 100
    for number, one in enumerate(finish_again(3)):
        moved = UUID(int=later + number)
        Attempt.objects.filter(delivery=one).update(delivery=moved)
        Delivery.objects.filter(id=one).update(id=moved, finished_at=timezone.now() - 5 * DAY)
    ended = retention.Policy(datetime.fromtimestamp((later >> 80) / 1000, UTC))

    assert sum(retention.purge(ended, share=1.0), Purged()).attempts == 5
    assert Delivery.objects.count() == 3
    assert places() == {old_day: 8}
    assert list(integrity.find_faults()) == []

    assert sum(purge(), Purged()).attempts == 3
    assert places() == {}


def test_small_old_day_goes_when_it_is_empty(old_day: str) -> None:
    finish_again(1)
    purge()
    assert places() == {old_day: 1}

    Delivery.objects.update(finished_at=timezone.now() - 2 * DAY)
    purge()
    assert old_day not in {one.name for one in partitions.partitions()}


def test_size_stays_the_same_from_day_to_day(user: User, webhook: Webhook, large: None) -> None:
    sizes = []
    for days in range(20, 10, -1):
        make(day_of(timezone.now() - days * DAY))
        trigger(user, 500)
        finish()
        make_older(days * DAY, since=timezone.now() - DAY)
        # Three days are kept.
        purge((days + 3) * DAY, batch_size=500)
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT sum(pg_total_relation_size(name::regclass))::int"
                "  FROM webhooks_attempt_partitions() WHERE end_id < %s",
                [first_id_of(timezone.now() - DAY)],
            )
            sizes.append(cursor.fetchone()[0])

    # Half of the fourth day is old: its attempts go with the other half.
    assert list(places().values()) == [500] * 4
    assert Delivery.objects.count() == 3 * 500
    assert max(sizes[4:]) < 1.05 * min(sizes[4:])


def test_days_to_come_stay() -> None:
    before = partitions.partitions()

    purge()

    assert partitions.partitions() == before


def test_erasure_of_an_owner_reaches_every_partition(old_day: str, user: User) -> None:
    trigger(user, 1)
    finish()
    policy = Policy(timezone.now(), owner_id=user.id)

    assert sum(retention.purge(policy, share=1.0), Purged()).attempts == 9
    assert not Attempt.objects.exclude(response_body=None, request_head="").exists()


def test_exchange_waits_for_a_reader_and_no_settle_for_the_exchange(
    old_day: str, large: None, user: User
) -> None:
    slowest, is_over = 0.0, threading.Event()

    def settle_on() -> None:
        nonlocal slowest
        while not is_over.is_set():
            worker, delivery = claimed(user)
            started_at = time.monotonic()
            assert settle(worker, [succeeded(delivery)]).written
            slowest = max(slowest, time.monotonic() - started_at)

    with another_connection() as reader:
        reader.execute("SELECT FROM webhooks_attempt")
        purging = in_thread(purge)
        settling = in_thread(settle_on)
        time.sleep(1.5)
        assert purging.is_alive()
        assert old_day in {one.name for one in partitions.partitions()}
    purging.join(20)
    is_over.set()
    settling.join()

    assert old_day not in {one.name for one in partitions.partitions()}
    assert slowest < 0.5
    assert list(integrity.find_faults()) == []


def test_result_of_a_kept_delivery_beside_the_exchange_is_not_lost(
    old_day: str, large: None, user: User
) -> None:
    worker, waiting = new_id(), Delivery.objects.first()
    assert waiting is not None
    Delivery.objects.filter(id=waiting.id).update(
        status="SENDING", finished_at=None, claimed_by=worker
    )

    with another_connection() as other:
        other.execute("SELECT FROM webhooks_delivery WHERE id = %s FOR UPDATE", [waiting.id])
        result = succeeded(waiting.id)
        result["number"] = 2
        assert settle(worker, [result]).locked
        purging = in_thread(purge)
        other.rollback()
        assert settle(worker, [result]).written
        purging.join()

    assert list(Attempt.objects.order_by("number").values_list("number", flat=True)) == [1, 2]
    assert places() == {old_day: 2}


def test_early_rows_of_a_day_are_left_where_they_are_if_they_are_many(
    user: User, webhook: Webhook
) -> None:
    moment = timezone.now() + 20 * DAY
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO webhooks_attempt_other (id, delivery_id, number, started_at, duration_ms, url,"
            " request_head, is_truncated, failure_kind, error)"
            " SELECT gen_random_uuid(), overlay(gen_random_uuid()::text PLACING left(%s, 13)"
            " FROM 1 FOR 13)::uuid, 1, now(), 1, '', '', false, '', '' FROM generate_series(1, %s)",
            [str(first_id_of(moment)), partitions.MOST_KEPT + 1],
        )

    assert not make(day_of(moment))
    assert places() == {OTHERS: partitions.MOST_KEPT + 1}
    (finding,) = check_partitions()
    assert (finding.level, finding.count) == (Level.WARNING, partitions.MOST_KEPT)
    with connection.cursor() as cursor:
        cursor.execute(
            "DELETE FROM webhooks_attempt_other WHERE id IN"
            " (SELECT id FROM webhooks_attempt_other LIMIT 1)"
        )
    assert make(day_of(moment))
    assert places() == {leaf_of(moment): partitions.MOST_KEPT}
