"""The desks of one life of a worker, and what they pass to each other.

A life begins under a new id and holds no rows. When it is over (the worker was declared dead, or the
machine slept), the engine drops these desks and makes new ones: other workers own the rows then.
"""

import time
from collections.abc import Sequence
from uuid import UUID

from webhooks.choices import Order
from webhooks.dispatch import life
from webhooks.dispatch.claim import Claim, claim_due
from webhooks.dispatch.claims import POLL_SECONDS, Claims
from webhooks.dispatch.desk import DatabaseThreads
from webhooks.dispatch.endpoints import Endpoints
from webhooks.dispatch.flight import READY_AT_CLAIM, Flight, Sent
from webhooks.dispatch.lease import Lease
from webhooks.dispatch.outcome import read_outcome
from webhooks.dispatch.records import Records, Written, write
from webhooks.dispatch.returns import Returns, give_back
from webhooks.dispatch.shortcut import Shortcut
from webhooks.dispatch.starts import Starts
from webhooks.dispatch.suspects import SuspectClaims, claim_suspects
from webhooks.ids import new_id
from webhooks.outbox import wakeup
from webhooks.pace.outage import PROBE_SECONDS, OutageGuard
from webhooks.wire.many import MultiSender, Outcome

SMALLEST_CLAIM = 64
"""While the worker holds more rows than this, it claims only if it has room for as many."""


class Desks:
    """Claims, starts, results, returns and the lease of one life, for the loop's thread.

    With `level`, it claims suspects of that level only (webhooks/dispatch/suspects.py).
    """

    def __init__(
        self,
        threads: DatabaseThreads,
        endpoints: Endpoints,
        sender: MultiSender,
        outage: OutageGuard,
        *,
        level: int | None,
        worker_id: UUID | None = None,
    ) -> None:
        self.worker_id = worker_id or new_id()
        threads.connection_name = life.connection_name(self.worker_id)
        self._endpoints = endpoints
        self._outage = outage
        self._next_call_at = 0.0
        self.is_stopping = False
        """Whether the worker may claim and start nothing more."""
        self.flight = Flight()
        self.lease = Lease(threads.on_recorder(life.beat), self.worker_id)
        self.returns = Returns(threads.on_claimer(give_back), self.worker_id, threads.take_failure)
        shortcut = Shortcut(
            threads,
            endpoints,
            sender,
            claim=lambda order: claim_due(order, endpoints),
            write=write,
            may_claim=lambda: not self.returns,
        )
        self.line = shortcut.line
        self.records = Records(shortcut.settle, self.worker_id, is_patient=level is None)
        self.claims: Claims | SuspectClaims
        if level is None:
            self.claims = Claims(shortcut.claim, self.worker_id, self.flight)
        else:
            claim = threads.on_claimer(claim_suspects)
            self.claims = SuspectClaims(claim, self.worker_id, self.flight, level)
        self._starts = Starts(
            threads.on_claimer(endpoints.load),
            flight=self.flight,
            endpoints=endpoints,
            sender=sender,
            lease=self.lease,
            returns=self.returns,
        )

    # Whether it is over.

    @property
    def is_empty(self) -> bool:
        """Whether the worker holds no row, and no claim is under way that could bring one."""
        return not (self.flight.ids or self.claims.is_under_way)

    def is_settled(self) -> bool:
        """Say whether every result is written, and every row given back, that can be.

        Rows that another transaction has locked come back when this life ends.
        """
        is_written = not self.records or self.records.is_stuck(time.monotonic())
        return is_written and self.returns.is_complete

    def is_idle(self) -> bool:
        """Say whether nothing is left to deliver; if that is not known yet, start a survey."""
        if self.records or self.returns:
            return False
        # In an outage of our own network no delivery can succeed now.
        if self._outage.is_out or self.claims.is_idle(time.monotonic()):
            return True
        self.claims.look_everywhere()
        return False

    # When, and what.

    def due_at(self, now: float) -> float:
        """Return when order() next has something to do, by the monotonic clock."""
        if self._starts.can_start:
            return now
        return min(
            now + POLL_SECONDS,
            self.lease.due_at(),
            self.records.due_at(at_once=not self.flight.ids),
            self.returns.due_at(may_look=not self.claims.is_under_way),
            self._starts.due_at(now),
            self._claim_due_at(now),
        )

    def order(self, now: float) -> None:
        """Start the due errands on the database threads."""
        self.lease.order(now, self.flight)
        self.records.order(now, at_once=not self.flight.ids)
        self.returns.order(now, self._held, may_look=not self.claims.is_under_way)
        self._starts.order(now)
        if now >= self._claim_due_at(now):
            rank = self._outage.rank if self._outage.is_out else None
            room = 1 if rank else self.claims.room(len(self.records))
            self.claims.order(now, limit=room, rank=rank)

    def _claim_due_at(self, now: float) -> float:
        """Return when to claim next, by the monotonic clock; infinity while there is no room."""
        is_blocked = self.is_stopping or self.records.is_blocked or not self.lease.is_safe
        if is_blocked or self.flight.ready > READY_AT_CLAIM:
            return float("inf")
        room = self.claims.room(len(self.records))
        is_worth_it = room >= SMALLEST_CLAIM or len(self.flight.ids) <= SMALLEST_CLAIM
        if room <= 0 or not is_worth_it:
            return float("inf")
        return self.claims.due_at(now, is_out=self._outage.is_out)

    def _held(self) -> Sequence[UUID]:
        """Return the deliveries that this worker holds or has not settled."""
        return [*self.flight.ids, *self.records.delivery_ids]

    def start_ready(self) -> None:
        """Start some of the ready rows, or give rows back."""
        if self.is_stopping:
            self._starts.put_down_ready(0.0)
        elif self._outage.is_out and self.flight.ready > 1:
            self._starts.put_down_ready(PROBE_SECONDS, keep=1)
        elif self._starts.can_start:
            self._starts.start()

    # Results of the database threads and of requests.

    def collect(self) -> bool:
        """Take the results of the database threads; return False once this life is over."""
        now = time.monotonic()
        is_alive = self.lease.collect()
        if is_alive is False:
            return False
        if is_alive:
            self._endpoints.forget_old()
            self.flight.windows.forget_idle()
            self._outage.forget_old(now)
        self.line.collect()
        written = self.records.collect(now)
        if written is not None:
            self._take_written(written)
        self.returns.collect(now)
        self._starts.collect()
        was_claiming = self.claims.is_under_way
        claim = self.claims.collect()
        if claim is not None:
            self._take_claim(claim)
        elif was_claiming and not self.claims.is_under_way:
            self.returns.has_lost_track = True
        return True

    def _take_written(self, written: Written) -> None:
        self._endpoints.forget(written.failed | written.recovered)
        self.claims.resumed(written.recovered)
        for record in written.ordered:
            self.flight.written(record.webhook_id, record.delivery_id)
        if written.has_next:
            self.claims.hint()
        for webhook_id in written.overtaken:
            self._starts.put_down_run(webhook_id)
        for webhook_id in {*written.overtaken, *(record.webhook_id for record in written.ordered)}:
            if not self.flight.has_run(webhook_id):
                self.claims.freed(webhook_id, is_ordered=True)

    def _take_claim(self, claim: Claim) -> None:
        self._starts.clock_offset = claim.clock_offset
        self._starts.line_up(claim.taken)
        self.returns.add(claim.taken.unreturned)
        self.claims.settle_lanes(claim)
        if self.is_stopping:
            return
        now = time.monotonic()
        if self.claims.has_backlog and now >= self._next_call_at:
            # More is due than this worker can take. Wake another worker at most once per
            # POLL_SECONDS; every worker polls that often anyway.
            self._next_call_at = now + POLL_SECONDS
            wakeup.nudge(force=True)

    def take_outcome(self, outcome: Outcome) -> None:
        """Handle the end of a request: queue its result, and free its place in the window."""
        sent: Sent = outcome.context
        if outcome.is_withdrawn:
            self._starts.withdrawn(sent)
            return
        now = time.monotonic()
        webhook_id = sent.item.webhook_id
        kind = None if outcome.error is None else outcome.error.kind
        is_outage = self._outage.note(kind, webhook_id, sent.endpoint.owner_id, now)
        is_ordered = sent.endpoint.order == Order.ALL or self.flight.has_run(webhook_id)
        offset = self._starts.clock_offset
        records, verdict = read_outcome(sent, outcome, offset, is_outage, is_ordered=is_ordered)
        self.flight.end(sent, succeeded=verdict.succeeded, duration_ms=outcome.duration_ms)
        self.flight.windows.charge(webhook_id, outcome.processor_ms)
        if not verdict.succeeded:
            self._starts.put_down_run(webhook_id)
        self.claims.freed(webhook_id)
        if sent.endpoint.order == Order.OBJECT:
            self.claims.freed(webhook_id, is_ordered=True)
        self.records.add(records, now, is_urgent=self.flight.windows.is_failing(webhook_id))
