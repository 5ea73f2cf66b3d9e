"""Results on their way to Postgres: when a batch is written, and what becomes of what it cannot write."""

from uuid import UUID, uuid4

import pytest
from django.db import InternalError, connection, transaction
from django.test.utils import CaptureQueriesContext

from tests.webhooks.dispatch.fakes import FakeClock, FakeThread
from tests.webhooks.history import succeeded
from webhooks.dispatch import desk
from webhooks.dispatch.health import HealthEffect
from webhooks.dispatch.records import (
    LOCKED_SECONDS,
    MAX_WAITING,
    PAUSE_SECONDS,
    SETTLE_ROWS,
    SETTLE_SECONDS,
    STUCK_SECONDS,
    Record,
    Records,
    ResultBatch,
    Written,
    write,
)
from webhooks.pace.retry import Verdict

WEBHOOK, OTHER = uuid4(), uuid4()
NOTHING = Written([], {}, set(), set())
URL = "https://hooks.example/"
FAILED, WORKED = HealthEffect(URL, failures=3), HealthEffect(URL, succeeded=True)


class Desk:
    """A desk for results at a fake clock, with a fake thread."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.thread = FakeThread()
        self.records = Records(self.thread.submit, uuid4())

    def add(
        self,
        count: int = 1,
        *,
        webhook_id: UUID = WEBHOOK,
        ordered: bool = False,
        urgent: bool = False,
    ) -> list[Record]:
        added = [record(webhook_id, ordered) for _ in range(count)]
        for each in added:
            self.records.add([each], self.clock.now, is_urgent=urgent)
        return added

    def order(self, *, at_once: bool = False) -> ResultBatch | None:
        """Order what is due; returns the batch, if any was ordered."""
        before = len(self.thread.orders)
        self.records.order(self.clock.now, at_once=at_once)
        return self.thread.orders[-1] if len(self.thread.orders) > before else None

    def end(self, written: Written = NOTHING) -> Written:
        self.thread.end(written)
        ended = self.records.collect(self.clock.now)
        assert ended is not None
        return ended

    def fail(self) -> None:
        self.thread.fail()
        assert self.records.collect(self.clock.now) is None

    def after(self, seconds: float) -> ResultBatch | None:
        self.clock.now += seconds
        return self.order()


def record(webhook_id: UUID, ordered: bool) -> Record:
    delivery_id = uuid4()
    return Record(succeeded(delivery_id), Verdict(True), webhook_id, delivery_id, ordered)


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch) -> Desk:
    return Desk(FakeClock(monkeypatch, desk))


def test_nothing_waits_and_nothing_is_due(results: Desk) -> None:
    assert not results.records
    assert results.records.due_at() == float("inf")
    assert results.order(at_once=True) is None


def test_batch_is_written_when_its_oldest_result_has_waited_long_enough(results: Desk) -> None:
    first = results.add()
    assert results.records.due_at() == results.clock.now + SETTLE_SECONDS
    assert results.order() is None
    assert results.after(SETTLE_SECONDS / 2) is None
    second = results.add()

    batch = results.after(SETTLE_SECONDS / 2)

    assert batch == ResultBatch(first + second, {})
    assert len(results.records) == 2
    results.end()
    assert not results.records


@pytest.mark.parametrize(("count", "urgent"), [(1, True), (SETTLE_ROWS, False)])
def test_urgent_result_and_full_batch_are_written_now(
    results: Desk, count: int, urgent: bool
) -> None:
    added = results.add(count, urgent=urgent)
    assert results.order() == ResultBatch(added, {})


def test_nothing_else_under_way_writes_at_once(results: Desk) -> None:
    added = results.add()
    assert results.order(at_once=True) == ResultBatch(added, {})


def test_lone_results_that_follow_each_other_quickly_are_written_together(results: Desk) -> None:
    results.add()
    results.order(at_once=True)
    results.end()
    added = results.add()
    assert results.records.due_at(at_once=True) == results.clock.now + PAUSE_SECONDS
    assert results.order(at_once=True) is None
    results.clock.now += PAUSE_SECONDS
    added += results.add()

    assert results.order(at_once=True) == ResultBatch(added, {})


def test_one_batch_at_a_time_and_no_larger_than_allowed(results: Desk) -> None:
    added = results.add(SETTLE_ROWS + 1)
    assert results.order() == ResultBatch(added[:SETTLE_ROWS], {})
    assert results.records.due_at() == float("inf")
    assert results.order(at_once=True) is None
    assert results.records.delivery_ids == [r.delivery_id for r in added[-1:] + added[:-1]]

    results.end()

    assert results.after(SETTLE_SECONDS) == ResultBatch(added[SETTLE_ROWS:], {})


def test_batch_that_failed_comes_again_before_what_came_since(results: Desk) -> None:
    first = results.add(urgent=True)
    results.order()
    second = results.add(urgent=True)

    results.fail()

    assert results.records.is_failing
    assert results.records.is_blocked
    assert results.order(at_once=True) is None
    assert results.after(desk.FIRST_BACKOFF_SECONDS) == ResultBatch(first + second, {})
    results.end()
    assert not results.records.is_failing
    assert not results.records


def test_failures_rest_longer_each_time_and_success_ends_that(results: Desk) -> None:
    rests = []
    for _ in range(7):
        results.add(urgent=True)
        assert results.order() is not None
        results.fail()
        rests.append(results.records.due_at() - results.clock.now)
        results.clock.now = results.records.due_at()
    assert rests == sorted(rests)
    assert rests[-1] == pytest.approx(desk.LONGEST_BACKOFF_SECONDS)

    results.order()
    results.end()
    results.add(urgent=True)
    assert results.order() is not None
    results.fail()
    assert results.records.due_at() == pytest.approx(results.clock.now + desk.FIRST_BACKOFF_SECONDS)


def test_too_much_that_waits_blocks_claims(results: Desk) -> None:
    results.add(MAX_WAITING - 1)
    assert not results.records.is_blocked
    results.add()
    assert results.records.is_blocked


def test_locked_result_comes_again_and_holds_up_nobody(results: Desk) -> None:
    locked, written = results.add(2, urgent=True)
    results.order()
    results.end(NOTHING._replace(locked=[locked]))

    assert results.records.delivery_ids == [locked.delivery_id]
    assert not results.records.is_blocked
    other = results.add(webhook_id=OTHER, urgent=True)
    assert results.order() == ResultBatch(other, {})
    results.end()
    assert results.after(LOCKED_SECONDS) == ResultBatch([locked], {})
    results.end()
    assert not results.records
    assert written.delivery_id not in results.records.delivery_ids


def test_locked_result_comes_again_while_others_are_locked_one_after_the_other(
    results: Desk,
) -> None:
    """New locks must not put off the old ones for ever."""
    (first,) = results.add(urgent=True)
    results.order()
    results.end(NOTHING._replace(locked=[first]))
    tries = 0
    for _ in range(40):
        added = results.add(urgent=True)
        batch = results.after(LOCKED_SECONDS / 4)
        assert batch is not None
        tries += first in batch.records
        results.end(NOTHING._replace(locked=[*added, *batch.records[1:]]))
    assert 5 <= tries <= 12


def test_what_is_said_of_a_locked_webhook_goes_with_the_next_batch_in_its_order(
    results: Desk,
) -> None:
    results.add(urgent=True)
    results.order()
    results.end(NOTHING._replace(effects={WEBHOOK: FAILED}))
    assert results.records

    added = results.add(urgent=True)
    assert results.order() == ResultBatch(added, {WEBHOOK: FAILED})
    # write() has put both together.
    results.end(NOTHING._replace(effects={WEBHOOK: FAILED.then(WORKED)}))

    assert results.after(LOCKED_SECONDS) == ResultBatch([], {WEBHOOK: WORKED})
    results.fail()
    assert results.after(LOCKED_SECONDS) == ResultBatch([], {WEBHOOK: WORKED})
    results.end()
    assert not results.records


def test_later_words_about_a_webhook_outweigh_earlier_ones() -> None:
    assert FAILED.then(WORKED) == WORKED
    assert WORKED.then(FAILED) == HealthEffect(URL, succeeded=True, failures=3)
    assert FAILED.then(FAILED).failures == 6
    gone = HealthEffect(URL, failures=1, hold_seconds=60, is_gone=True)
    assert gone.then(WORKED) == HealthEffect(URL, succeeded=True, hold_seconds=60, is_gone=True)
    moved = HealthEffect("https://new.example/", failures=1)
    assert gone.then(moved) == moved


def test_only_what_has_been_locked_for_a_while_counts_as_stuck(results: Desk) -> None:
    locked = results.add(urgent=True)
    results.order()
    assert not results.records.is_stuck(results.clock.now)
    results.end(NOTHING._replace(locked=locked))
    assert not results.records.is_stuck(results.clock.now)
    while not results.records.is_stuck(results.clock.now):
        assert results.after(LOCKED_SECONDS) is not None
        results.end(NOTHING._replace(locked=locked))
    assert results.clock.now == pytest.approx(1000 + STUCK_SECONDS)

    results.add()
    assert not results.records.is_stuck(results.clock.now)


@pytest.mark.django_db
def test_results_that_a_read_only_server_refuses_come_again_as_they_are() -> None:
    """It is not one row that Postgres refuses: no halves, and no result without its response."""
    batch = ResultBatch([record(WEBHOOK, False) for _ in range(8)], {})
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL transaction_read_only = on")
        with CaptureQueriesContext(connection) as queries, pytest.raises(InternalError):
            write(uuid4(), batch)
        transaction.set_rollback(True)

    assert len(queries) == 1
