"""The desk for results: those that wait to be written, and the one batch under way.

Batches are at most SETTLE_SECONDS or SETTLE_ROWS behind (invariant 6). A batch skips rows that
another transaction has locked and writes them again later, so that one locked row delays no other
result. Neither the result nor its effect on the webhook's health is lost. After a crash, deliveries
with unwritten results are sent again.
"""

import logging
from collections.abc import Callable, Mapping, Sequence, Set
from concurrent.futures import Future
from typing import NamedTuple
from uuid import UUID

from django.db import DatabaseError, Error

from webhooks.dispatch import health
from webhooks.dispatch.desk import Errand
from webhooks.dispatch.health import HealthEffect, Recorded
from webhooks.dispatch.settle import Result, Settled, find_locked, settle, without_answer
from webhooks.pace.retry import Verdict
from webhooks.postgres.objects import make_next_due
from webhooks.postgres.sql import is_unavailable

logger = logging.getLogger(__name__)

SETTLE_ROWS = 500
SETTLE_SECONDS = 0.2
PAUSE_SECONDS = 0.1
"""Shortest time between two batches of an idle worker: it writes a lone result at once, but does not
write hundreds per second one by one."""
MAX_WAITING = 4 * SETTLE_ROWS
"""With more results waiting, the worker claims nothing."""
LOCKED_SECONDS = 1.0
"""How soon to try a locked row again."""

STUCK_SECONDS = 5.0
"""How long a stopping worker waits for locked rows."""


class Traced(NamedTuple):
    """What the span of a request needs beside the result of its first row."""

    parent: str
    """The traceparent of what stored its event, which is sampled."""
    links: Sequence[str]
    """Of a batch: those of its other events."""
    status: int | None
    """Of the response as a whole."""


class Record(NamedTuple):
    """The result of one attempt and its verdict."""

    result: Result
    verdict: Verdict | None
    """On its request; None if another record of the same request has it."""
    webhook_id: UUID
    delivery_id: UUID
    is_ordered: bool
    is_of_object: bool = False
    """Whether the next one of its object waits for it."""
    traced: Traced | None = None
    """Of the first record of a request in a sampled trace."""

    @property
    def is_final(self) -> bool:
        """Whether the delivery has no further attempt."""
        return self.result["delay_seconds"] is None


class ResultBatch(NamedTuple):
    """The results and effects that one errand writes."""

    records: Sequence[Record]
    effects: dict[UUID, HealthEffect]
    """Effects of earlier batches on webhooks whose row was locked."""


class Written(NamedTuple):
    """The outcome of writing a batch."""

    locked: list[Record]
    """Results still to be written: another transaction has locked their rows."""
    effects: dict[UUID, HealthEffect]
    """Effects on webhooks' health that are not written yet."""
    failed: set[UUID]
    """Webhooks with a failure in the batch: their cached settings are out of date."""
    recovered: set[UUID]
    """Webhooks whose breaker has closed."""
    ordered: Sequence[Record] = ()
    """The written results of ordered webhooks."""
    overtaken: Set[UUID] = frozenset()
    """Ordered webhooks with a result that this worker may no longer write."""
    has_next: bool = False
    """Whether deliveries are due now that waited for one of these to finish."""


class Records:
    """The results of one life of a worker, from the response to the row."""

    def __init__(
        self, submit: Callable[..., Future[Written]], worker_id: UUID, *, is_patient: bool = True
    ) -> None:
        """`is_patient` says whether results may wait for others, and share their statement. Those of
        suspects may not: until they are written they count as held, and a process holds few, or one."""
        self._submit = submit
        self._worker_id = worker_id
        self._is_patient = is_patient
        self._errand: Errand[Written] = Errand("writing of results")
        self._waiting: list[Record] = []
        self._writing = ResultBatch([], {})
        self._locked: list[Record] = []
        self._effects: dict[UUID, HealthEffect] = {}
        self._oldest_at = 0.0
        self._ordered_at = 0.0
        self._locked_at = 0.0
        self._stuck_since = 0.0
        """Since when there has always been a locked row left to write."""
        self._is_urgent = False
        self.is_failing = False
        """Whether the last batch could not be written, because of a full disk for example. The worker
        then claims nothing, because it could not record the results."""

    def __bool__(self) -> bool:
        """Whether any result or effect is not written yet."""
        return bool(self._waiting or self._locked or self._effects or self._errand.is_under_way)

    def __len__(self) -> int:
        """Return how many results are not written yet."""
        return len(self._waiting) + len(self._locked) + len(self._writing.records)

    @property
    def is_blocked(self) -> bool:
        """Whether the worker should claim nothing more for now."""
        return self.is_failing or len(self._waiting) >= MAX_WAITING

    def is_stuck(self, now: float) -> bool:
        """Say whether only rows are left that have been locked for STUCK_SECONDS."""
        is_busy = self._waiting or self._errand.is_under_way
        return not is_busy and now - self._stuck_since >= STUCK_SECONDS

    @property
    def delivery_ids(self) -> list[UUID]:
        """The deliveries whose results are not written yet."""
        records = (*self._waiting, *self._locked, *self._writing.records)
        return [record.delivery_id for record in records]

    def add(self, records: Sequence[Record], now: float, *, is_urgent: bool) -> None:
        """Add the results of one request."""
        if not self._waiting:
            self._oldest_at = now
        self._waiting += records
        is_waited_for = any(one.is_ordered or one.is_of_object for one in records)
        self._is_urgent |= is_urgent or is_waited_for or not self._is_patient

    def due_at(self, *, at_once: bool = False) -> float:
        """Return when to write the next batch, by the monotonic clock; `at_once` says that nothing
        else is under way."""
        due_at = self._locked_at if self._locked or self._effects else float("inf")
        if self._waiting:
            is_full = self._is_urgent or len(self._waiting) >= SETTLE_ROWS
            due_at = 0.0 if is_full else min(due_at, self._oldest_at + SETTLE_SECONDS)
            if at_once:
                due_at = min(due_at, self._ordered_at + PAUSE_SECONDS)
        if self._errand.is_under_way:
            return float("inf")
        return max(due_at, self._errand.not_before)

    def order(self, now: float, *, at_once: bool) -> None:
        """Start to write a batch if one is due; see due_at()."""
        if now < self.due_at(at_once=at_once):
            return
        self._ordered_at = now
        if not (self._locked or self._effects):
            self._stuck_since = now
        records = self._waiting[:SETTLE_ROWS]
        del self._waiting[:SETTLE_ROWS]
        if now >= self._locked_at:
            records += self._locked
            self._locked = []
            self._locked_at = now + LOCKED_SECONDS
        # Every batch carries the unwritten effects: those of one webhook must be written in the order
        # of their attempts.
        effects, self._effects = self._effects, {}
        self._oldest_at = now
        self._is_urgent = False
        self._writing = ResultBatch(records, effects)
        self._errand.begin(self._submit(self._worker_id, self._writing))

    def collect(self, now: float) -> Written | None:
        """Return the outcome of the batch under way once it has succeeded; after a failure its
        results wait again."""
        ended = self._errand.collect()
        if ended is None:
            return None
        batch, self._writing = self._writing, ResultBatch([], {})
        self.is_failing = ended.problem is not None
        written = ended.value
        if written is None:
            self._waiting[:0] = batch.records
            self._effects = batch.effects
            return None
        self._locked += written.locked
        self._effects = written.effects
        return written


# On the database thread.


def write(worker_id: UUID, batch: ResultBatch) -> Written:
    """Write a batch of results and their effects on the webhooks."""
    settled = _settle(worker_id, [record.result for record in batch.records])
    has_next = _make_next_due(batch.records)
    return conclude(summarize(batch, settled)._replace(has_next=has_next))


def write_skipped(worker_id: UUID, batch: ResultBatch, settled: Settled) -> Written:
    """Conclude a batch some of whose rows were not written: locked ones, or no longer this worker's."""
    results = [record.result for record in batch.records]
    return conclude(summarize(batch, find_locked(worker_id, results, settled)))


def _make_next_due(records: Sequence[Record]) -> bool:
    over = [one.delivery_id for one in records if one.is_of_object and one.is_final]
    try:
        return make_next_due(over) > 0
    except Error:
        # The results are written. What waits for them comes by itself, only later.
        logger.exception("The next deliveries of %d objects are made due later.", len(over))
        return False


def summarize(batch: ResultBatch, settled: Settled) -> Written:
    """Return the outcome of a settled batch; its `effects` are all those still to be written."""
    records = batch.records
    effects = dict(batch.effects)
    for webhook_id, effect in _effects_of(records, settled).items():
        before = effects.get(webhook_id)
        if before is None and not effect.failures and webhook_id not in settled.ailing:
            # A healthy webhook stays healthy: its row needs no change.
            continue
        effects[webhook_id] = effect if before is None else before.then(effect)
    if traced := [one for one in records if one.traced and one.result["id"] in settled.written]:
        from webhooks.dispatch import spans  # only here: else every worker would load the packages

        spans.export(traced)
    locked = [record for record in records if record.result["id"] in settled.locked]
    ordered = [record for record in records if record.is_ordered]
    return Written(
        locked,
        effects,
        failed={webhook_id for webhook_id, effect in effects.items() if effect.failures},
        recovered=set(),
        ordered=[record for record in ordered if record.result["id"] in settled.written],
        overtaken={
            record.webhook_id
            for record in ordered
            if record.result["id"] not in settled.written | settled.locked
        },
    )


def conclude(written: Written) -> Written:
    """Write the effects on the webhooks' health."""
    effects = written.effects
    try:
        recovered, locked_webhooks = _record(effects)
    except Error:
        # The results are written; the next batch writes their effects.
        logger.exception("The health of %d webhooks is written later.", len(effects))
        return written
    remaining = {k: effects[k] for k in locked_webhooks}
    return written._replace(effects=remaining, recovered=recovered)


def _effects_of(records: Sequence[Record], settled: Settled) -> dict[UUID, HealthEffect]:
    """Return the effects of the written results on their webhooks."""
    effects: dict[UUID, HealthEffect] = {}
    for result, verdict, webhook_id, *_ in records:
        if verdict is None or result["spends_no_retry"] or result["id"] not in settled.written:
            continue
        effect = effects.get(webhook_id)
        if effect is None or effect.url != result["url"]:
            effect = effects[webhook_id] = HealthEffect(result["url"])
        if verdict.succeeded:
            effect.add_success()
        else:
            effect.add_failure(verdict.hold_seconds, verdict.is_gone)
    return effects


def _record(effects: Mapping[UUID, HealthEffect]) -> Recorded:
    try:
        return health.record(effects)
    except Exception as problem:
        if is_unavailable(problem):
            raise
        # An effect that cannot be written must not hold back those on other webhooks.
        if len(effects) > 1:
            pairs = list(effects.items())
            middle = len(pairs) // 2
            first, second = _record(dict(pairs[:middle])), _record(dict(pairs[middle:]))
            return Recorded(first.recovered | second.recovered, first.locked | second.locked)
        logger.exception("The health of webhook %s is not recorded.", *effects)
        return Recorded(set(), set())


def _settle(worker_id: UUID, results: list[Result]) -> Settled:
    if not results:
        return Settled(set(), set())
    try:
        return settle(worker_id, results)
    except DatabaseError as problem:
        if is_unavailable(problem):
            raise
        # One row that Postgres refuses must not hold back the other results of its batch.
        if len(results) > 1:
            middle = len(results) // 2
            first = _settle(worker_id, results[:middle])
            try:
                second = _settle(worker_id, results[middle:])
            except Error:
                # The effects of the first half are still to be written; the second half comes again.
                second = Settled(set(), {result["id"] for result in results[middle:]})
            return Settled(
                first.written | second.written,
                first.locked | second.locked,
                first.ailing | second.ailing,
            )
        return _settle_refused(worker_id, results[0])


def _settle_refused(worker_id: UUID, result: Result) -> Settled:
    """Write a result without the receiver's response; if Postgres refuses that too, try it again
    with the next batch."""
    logger.exception("The result of delivery %s is refused.", result["id"])
    try:
        return settle(worker_id, [without_answer(result)])
    except DatabaseError as problem:
        if is_unavailable(problem):
            raise
        return Settled(set(), {result["id"]})
