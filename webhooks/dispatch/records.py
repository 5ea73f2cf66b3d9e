"""The desk for results: what is waiting to be written, and the one batch that is being written.

Batches are at most SETTLE_SECONDS or SETTLE_ROWS behind (invariant 6). What somebody else has locked
is skipped and comes with the next batch, so that one row holds up nobody else's; nothing of it is
lost, neither a result nor what it says about its webhook. A crash sends again what was not written.
"""

import logging
from collections.abc import Callable, Mapping, Sequence, Set
from concurrent.futures import Future
from typing import NamedTuple
from uuid import UUID

from django.db import DatabaseError, InterfaceError, OperationalError

from webhooks.dispatch import health
from webhooks.dispatch.desk import Errand
from webhooks.dispatch.health import Attempted, Recorded
from webhooks.dispatch.settle import Result, Settled, settle, without_answer
from webhooks.pace.retry import Verdict

logger = logging.getLogger(__name__)

SETTLE_ROWS = 500
SETTLE_SECONDS = 0.2
PAUSE_SECONDS = 0.025
"""Between two batches of a worker that has nothing else to do: a lone result is written at once,
hundreds in a second are not written one by one."""
MAX_WAITING = 4 * SETTLE_ROWS
"""With more results waiting nothing is claimed."""
LOCKED_SECONDS = 1.0
"""How soon a row that somebody else has locked is tried again."""

STUCK_SECONDS = 5.0
"""How long a stop waits for such a row."""


class Record(NamedTuple):
    """The result of one attempt, and what it means."""

    result: Result
    verdict: Verdict
    webhook_id: UUID
    delivery_id: UUID
    is_ordered: bool


class Batch(NamedTuple):
    """What one errand writes."""

    records: Sequence[Record]
    attempted: dict[UUID, Attempted]
    """What earlier batches said about webhooks whose row was locked."""


class Written(NamedTuple):
    """What became of a batch."""

    locked: list[Record]
    attempted: dict[UUID, Attempted]
    """What is still to be said about webhooks."""
    failed: set[UUID]
    """Webhooks of which something failed: what is remembered of them is out of date."""
    closed: set[UUID]
    """Webhooks whose breaker has closed."""
    ordered: Sequence[Record] = ()
    """Of ordered webhooks: the results that are written now."""
    overtaken: Set[UUID] = frozenset()
    """Ordered webhooks of which a result was not this worker's to write any more."""


class Records:
    """Results of one life of a worker, from the response to the row."""

    def __init__(self, submit: Callable[..., Future[Written]], worker_id: UUID) -> None:
        self._submit = submit
        self._worker_id = worker_id
        self._errand: Errand[Written] = Errand("writing of results")
        self._waiting: list[Record] = []
        self._writing = Batch([], {})
        self._locked: list[Record] = []
        self._attempted: dict[UUID, Attempted] = {}
        self._oldest_at = 0.0
        self._ordered_at = 0.0
        self._locked_at = 0.0
        self._stuck_since = 0.0
        """Since when there has always been something that somebody else has locked."""
        self._is_urgent = False
        self.is_failing = False
        """Whether the last batch could not be written: a full disk, say. What cannot be recorded is
        not sent."""

    def __bool__(self) -> bool:
        """Whether anything is not written yet."""
        return bool(self._waiting or self._locked or self._attempted or self._errand.is_under_way)

    def __len__(self) -> int:
        """How many results are not written yet."""
        return len(self._waiting) + len(self._locked) + len(self._writing.records)

    @property
    def is_blocked(self) -> bool:
        """Whether nothing more should be claimed for now."""
        return self.is_failing or len(self._waiting) >= MAX_WAITING

    def is_stuck(self, now: float) -> bool:
        """Say whether all that is left is what somebody else has had locked for a while."""
        is_busy = self._waiting or self._errand.is_under_way
        return not is_busy and now - self._stuck_since >= STUCK_SECONDS

    @property
    def delivery_ids(self) -> list[UUID]:
        """The deliveries whose results are not written yet."""
        records = (*self._waiting, *self._locked, *self._writing.records)
        return [record.delivery_id for record in records]

    def add(self, record: Record, now: float, *, is_urgent: bool) -> None:
        if not self._waiting:
            self._oldest_at = now
        self._waiting.append(record)
        self._is_urgent |= is_urgent

    def due_at(self, *, at_once: bool = False) -> float:
        """When the next batch is to be written, by the monotonic clock; `at_once` where nothing
        else is under way."""
        due_at = self._locked_at if self._locked or self._attempted else float("inf")
        if self._waiting:
            is_full = self._is_urgent or len(self._waiting) >= SETTLE_ROWS
            due_at = 0.0 if is_full else min(due_at, self._oldest_at + SETTLE_SECONDS)
            if at_once:
                due_at = min(due_at, self._ordered_at + PAUSE_SECONDS)
        if self._errand.is_under_way:
            return float("inf")
        return max(due_at, self._errand.not_before)

    def order(self, now: float, *, at_once: bool) -> None:
        """Write a batch if one is due; `at_once` where nothing else is under way."""
        if now < self.due_at(at_once=at_once):
            return
        self._ordered_at = now
        if not (self._locked or self._attempted):
            self._stuck_since = now
        records = self._waiting[:SETTLE_ROWS]
        del self._waiting[:SETTLE_ROWS]
        if now >= self._locked_at:
            records += self._locked
            self._locked = []
            self._locked_at = now + LOCKED_SECONDS
        # In every batch: what is said of a webhook must be said in the order in which it happened.
        attempted, self._attempted = self._attempted, {}
        self._oldest_at = now
        self._is_urgent = False
        self._writing = Batch(records, attempted)
        self._errand.begin(self._submit(self._worker_id, self._writing))

    def collect(self, now: float) -> Written | None:
        """Return what became of the batch under way, once it has ended well."""
        ended = self._errand.collect()
        if ended is None:
            return None
        batch, self._writing = self._writing, Batch([], {})
        self.is_failing = ended.problem is not None
        written = ended.value
        if written is None:
            self._waiting[:0] = batch.records
            self._attempted = batch.attempted
            return None
        self._locked += written.locked
        self._attempted = written.attempted
        return written


# On the database thread.


def write(worker_id: UUID, batch: Batch) -> Written:
    """Write a batch of results, and what they say about their webhooks."""
    settled = _settle(worker_id, [record.result for record in batch.records])
    return conclude(judge(batch, settled))


def judge(batch: Batch, settled: Settled) -> Written:
    """Return what became of a batch; `attempted` is all that is to be said about webhooks."""
    records = batch.records
    attempted = dict(batch.attempted)
    for webhook_id, said in _said(records, settled).items():
        before = attempted.get(webhook_id)
        if before is None and not said.failures and webhook_id not in settled.ailing:
            # A healthy webhook stays healthy: there is nothing to write.
            continue
        attempted[webhook_id] = said if before is None else before.then(said)
    locked = [record for record in records if record.result["id"] in settled.locked]
    ordered = [record for record in records if record.is_ordered]
    return Written(
        locked,
        attempted,
        failed={webhook_id for webhook_id, said in attempted.items() if said.failures},
        closed=set(),
        ordered=[record for record in ordered if record.result["id"] in settled.written],
        overtaken={
            record.webhook_id
            for record in ordered
            if record.result["id"] not in settled.written | settled.locked
        },
    )


def conclude(written: Written) -> Written:
    """Write what is to be said about webhooks."""
    attempted = written.attempted
    try:
        closed, locked_webhooks = _record(attempted)
    except (OperationalError, InterfaceError):
        # The results are written; what they say is said with the next batch.
        logger.exception("The health of %d webhooks is written later.", len(attempted))
        return written
    still_to_say = {k: attempted[k] for k in locked_webhooks}
    return written._replace(attempted=still_to_say, closed=closed)


def _said(records: Sequence[Record], settled: Settled) -> dict[UUID, Attempted]:
    """Return what the written results say about their webhooks."""
    attempted: dict[UUID, Attempted] = {}
    for result, verdict, webhook_id, *_ in records:
        if result["is_free"] or result["id"] not in settled.written:
            continue
        said = attempted.setdefault(webhook_id, Attempted())
        if verdict.succeeded:
            said.add_success()
        else:
            said.add_failure(verdict.hold_seconds, verdict.is_gone)
    return attempted


def _record(attempted: Mapping[UUID, Attempted]) -> Recorded:
    try:
        return health.record(attempted)
    except (OperationalError, InterfaceError):
        raise
    except Exception:
        # What cannot be said of a webhook must not keep back what is said of the others.
        if len(attempted) > 1:
            said = list(attempted.items())
            middle = len(said) // 2
            first, second = _record(dict(said[:middle])), _record(dict(said[middle:]))
            return Recorded(first.closed | second.closed, first.locked | second.locked)
        logger.exception("The health of webhook %s is not recorded.", *attempted)
        return Recorded(set(), set())


def _settle(worker_id: UUID, results: list[Result]) -> Settled:
    if not results:
        return Settled(set(), set())
    try:
        return settle(worker_id, results)
    except (OperationalError, InterfaceError):
        raise
    except DatabaseError:
        # One row that Postgres refuses must not hold back its batch-mates (fault P9).
        if len(results) > 1:
            middle = len(results) // 2
            first = _settle(worker_id, results[:middle])
            try:
                second = _settle(worker_id, results[middle:])
            except (OperationalError, InterfaceError):
                # What the first half says is still to be said; the second comes again.
                second = Settled(set(), {result["id"] for result in results[middle:]})
            return Settled(
                first.written | second.written,
                first.locked | second.locked,
                first.ailing | second.ailing,
            )
        return _settle_refused(worker_id, results[0])


def _settle_refused(worker_id: UUID, result: Result) -> Settled:
    """Write a result without what the receiver sent; where that is refused, too, it comes again."""
    logger.exception("The result of delivery %s is refused.", result["id"])
    try:
        return settle(worker_id, [without_answer(result)])
    except (OperationalError, InterfaceError):
        raise
    except DatabaseError:
        return Settled(set(), {result["id"]})
