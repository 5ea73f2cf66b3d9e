"""The loop that delivers: claim → sign → send → settle, hundreds in flight.

One thread runs libcurl and decides; desks keep what is to be done next (claims, starts, records,
returns, the lease), and two threads talk to Postgres for them, so that claiming, sending and
recording overlap and the loop never waits for a query, Valkey, a name or a slow receiver. Hints, the
poll and signals are inputs to the loop; the RQ worker or anything else may drive it.

A crash anywhere leaves rows marked with a worker that no longer beats; another worker takes them
back (invariants 5 to 7).
"""

import logging
import time
from uuid import UUID

from django.conf import settings

from webhooks.dispatch import life
from webhooks.dispatch.claim import Claim, Order, claim_due
from webhooks.dispatch.claims import POLL_SECONDS, Claims
from webhooks.dispatch.desk import DatabaseThreads
from webhooks.dispatch.endpoints import Endpoints
from webhooks.dispatch.flight import MAX_IN_FLIGHT, READY_AT_CLAIM, Flight, Sent
from webhooks.dispatch.guests import Guests
from webhooks.dispatch.lease import BEAT_SECONDS, Lease
from webhooks.dispatch.outcome import read_outcome
from webhooks.dispatch.records import Record, Records, Written, write
from webhooks.dispatch.returns import Returns, give_back
from webhooks.dispatch.shortcut import Shortcut
from webhooks.dispatch.starts import Starts
from webhooks.dispatch.suspects import (
    GROUP_SIZES,
    LEVELS,
    SuspectClaims,
    claim_suspects,
    count_by_level,
)
from webhooks.ids import new_id
from webhooks.outbox import wakeup
from webhooks.pace.outage import NETWORK_FAILURES, PROBE_SECONDS, OutageGuard
from webhooks.wire.addresses import AddressPolicy
from webhooks.wire.clock import boottime
from webhooks.wire.failures import SuspendedError
from webhooks.wire.many import SUSPENDED_SECONDS, MultiSender, Outcome

logger = logging.getLogger(__name__)

SMALLEST_CLAIM = 64
"""While much is held, a claim waits until it is worth a round trip to Postgres."""


class Engine:
    """One worker's dispatcher. run() blocks; hint(), stop() and abandon() may be called from
    other threads and from signal handlers.

    With `suspects` it sends suspects of that level only, as many at a time as may go together
    (webhooks/dispatch/suspects.py); it does with one connection.
    """

    def __init__(self, *, suspects: int | None = None, worker_id: UUID | None = None) -> None:
        self._level = suspects
        self._sender = _new_sender()
        self._threads = DatabaseThreads(self._wake, is_one=suspects is not None)
        self._endpoints = Endpoints()
        self._outage = OutageGuard()
        self.guests = Guests(self._sender)
        self._next_call_at = 0.0
        self._polled_at = 0.0
        self._is_stopping = False
        self._is_abandoned = False
        self._has_crashed = False
        self._has_line = False
        self._begin_life(worker_id)

    def _begin_life(self, worker_id: UUID | None = None) -> None:
        """Start with empty hands, under a new id."""
        self._flight = Flight()
        worker_id = worker_id or new_id()
        threads = self._threads
        threads.connection_name = life.connection_name(worker_id)
        self._lease = Lease(threads.on_recorder(life.beat), worker_id)
        self._returns = Returns(threads.on_claimer(give_back), worker_id)
        shortcut = Shortcut(
            threads,
            self._endpoints,
            self._sender,
            claim=self._claim,
            write=write,
            may_claim=lambda: not self._returns,
        )
        self._line = shortcut.line
        self._records = Records(shortcut.settle, worker_id)
        self._claims: Claims | SuspectClaims
        if self._level is None:
            self._claims = Claims(shortcut.claim, worker_id, self._flight)
        else:
            claim = threads.on_claimer(claim_suspects)
            self._claims = SuspectClaims(claim, worker_id, self._flight, self._level)
        self._starts = Starts(
            threads.on_claimer(self._endpoints.load),
            flight=self._flight,
            endpoints=self._endpoints,
            sender=self._sender,
            lease=self._lease,
            returns=self._returns,
        )

    @property
    def worker_id(self) -> UUID:
        """The id of this life."""
        return self._lease.worker_id

    # Inputs: safe from any thread and from signal handlers.

    def hint(self) -> None:
        """Something may be due."""
        self.notice()
        self._wake()

    def notice(self) -> None:
        """Something may be due: for guests, on the loop's own thread."""
        self._claims.hint()

    @property
    def is_waiting(self) -> bool:
        """Whether the next claim has not begun, and waits for nothing but a hint."""
        return not (self._claims.is_under_way or self._claims.has_backlog)

    def stop(self) -> None:
        """Claim no more; run() returns when what is in flight is finished and settled."""
        self._is_stopping = True
        self._wake()

    def abandon(self) -> None:
        """Make run() return at once; what is in flight is sent again by another worker."""
        self._is_abandoned = True
        self._wake()

    @property
    def is_recording(self) -> bool:
        """False once two beats in a row, or the last results, could not be written to Postgres."""
        return not self._records.is_failing and self._lease.age_seconds < 2 * BEAT_SECONDS

    def _wake(self) -> None:
        self._sender.wake()

    # The loop.

    def run(self, *, until_idle: bool = False) -> None:
        """Deliver until stop(), or with `until_idle` until nothing is due or in flight.

        Raises Django's database errors where Postgres does not answer at the start.
        """
        self._threads.on_recorder(life.register_worker)(self.worker_id).result()
        self._polled_at = boottime()
        # What is over in a moment is not worth one more connection.
        self._has_line = self._level is None and not until_idle
        try:
            while not self._is_finished(until_idle):
                self._flight.find_slow()
                self._order()
                self._start_ready()
                self._send_and_receive()
                self._collect()
        except BaseException:
            self._has_crashed = True
            raise
        finally:
            self._end()

    def _is_finished(self, until_idle: bool) -> bool:
        if self._is_abandoned:
            return True
        if self._flight.ids or self._claims.is_under_way:
            return False
        if self._is_stopping:
            # What somebody else has locked is given back with the end of this life.
            is_written = not self._records or self._records.is_stuck(time.monotonic())
            return is_written and self._returns.is_complete
        if not until_idle or self._records or self._returns:
            return False
        # In an outage of our own nothing more can be done now.
        if self._outage.is_out or self._claims.is_idle(time.monotonic()):
            return True
        self._claims.look_everywhere()
        return False

    def _order(self) -> None:
        """Give the database threads what is due to be done."""
        now = time.monotonic()
        if self._has_line:
            self._line.order(now)
        self._lease.order(now, self._flight)
        self._records.order(now, at_once=not self._flight.ids)
        self._returns.order(now, self._held, may_look=not self._claims.is_under_way)
        self._starts.order(now)
        if now >= self._claim_due_at(now):
            limit = 1 if self._outage.is_out else self._room()
            self._claims.order(now, limit=limit)
        self.guests.order(now)

    def _claim_due_at(self, now: float) -> float:
        """When to claim next, by the monotonic clock; infinity while nothing more may be held."""
        is_blocked = self._is_stopping or self._records.is_blocked or not self._lease.is_safe
        if is_blocked or self._flight.ready > READY_AT_CLAIM:
            return float("inf")
        room = self._room()
        is_worth_it = room >= SMALLEST_CLAIM or len(self._flight.ids) <= SMALLEST_CLAIM
        if room <= 0 or not is_worth_it:
            return float("inf")
        return self._claims.due_at(now, is_out=self._outage.is_out)

    def _room(self) -> int:
        """How many more rows may be claimed now."""
        if self._level is None:
            return self._flight.room
        # Suspects whose results are not written are still in this process.
        held = len(self._flight.ids) + len(self._records)
        return min(self._flight.room, GROUP_SIZES[self._level] - held)

    def _held(self) -> list[UUID]:
        """The deliveries that are with this worker."""
        return [*self._flight.ids, *self._records.delivery_ids]

    def _start_ready(self) -> None:
        if self._is_stopping:
            self._starts.put_down_ready(0.0)
        elif self._outage.is_out and self._flight.ready > 1:
            self._starts.put_down_ready(PROBE_SECONDS, keep=1)
        elif self._starts.can_start:
            self._starts.start()

    def _send_and_receive(self) -> None:
        try:
            if boottime() - self._polled_at > SUSPENDED_SECONDS:
                raise SuspendedError
            outcomes = self._sender.poll(self._seconds_to_wait())
        except SuspendedError:
            # By now others may have taken over what this worker holds; it must not send it, too.
            self._start_anew()
            return
        self._polled_at = boottime()
        for outcome in outcomes:
            self._take_outcome(outcome)

    def _seconds_to_wait(self) -> float:
        if self._starts.can_start:
            return 0.0
        now = time.monotonic()
        next_at = min(
            now + POLL_SECONDS,
            self._lease.due_at(),
            self._records.due_at(at_once=not self._flight.ids),
            self._returns.due_at(may_look=not self._claims.is_under_way),
            self._starts.due_at(now),
            self._claim_due_at(now),
            self.guests.due_at(),
        )
        return max(0.0, next_at - now)

    # What came back.

    def _collect(self) -> None:
        """Take what the database threads have finished."""
        now = time.monotonic()
        is_alive = self._lease.collect()
        if is_alive is False:
            self._start_anew()
            return
        if is_alive:
            self._endpoints.forget_old()
            self._flight.windows.forget_idle()
            self._outage.forget_old(now)
        self._line.collect()
        written = self._records.collect(now)
        if written is not None:
            self._take_written(written)
        self._returns.collect(now)
        self._starts.collect()
        was_claiming = self._claims.is_under_way
        claim = self._claims.collect()
        if claim is not None:
            self._take_claim(claim)
        elif was_claiming and not self._claims.is_under_way:
            self._returns.has_lost_track = True

    def _take_written(self, written: Written) -> None:
        self._endpoints.forget(written.failed | written.closed)
        self._claims.resumed(written.closed)
        for record in written.ordered:
            self._flight.written(record.webhook_id, record.delivery_id)
        for webhook_id in written.overtaken:
            self._starts.put_down_run(webhook_id)
        for webhook_id in {*written.overtaken, *(record.webhook_id for record in written.ordered)}:
            if not self._flight.has_run(webhook_id):
                self._claims.freed(webhook_id, is_ordered=True)

    def _take_claim(self, claim: Claim) -> None:
        self._starts.clock_offset = claim.clock_offset
        self._starts.line_up(claim.taken)
        self._returns.add(claim.taken.unreturned)
        self._claims.settle_lanes(claim)
        if self._is_stopping:
            return
        now = time.monotonic()
        if self._claims.has_backlog and now >= self._next_call_at:
            # More than this worker can take at once: wake another one. All poll as often as that.
            self._next_call_at = now + POLL_SECONDS
            wakeup.nudge(force=True)

    def _take_outcome(self, outcome: Outcome) -> None:
        sent: Sent = outcome.context
        if outcome.is_withdrawn:
            self._starts.withdrawn(sent)
            return
        error = outcome.error
        result, verdict = read_outcome(
            sent.delivery,
            sent.endpoint,
            sent.attempt_id,
            request=outcome.request,
            response=outcome.response,
            failure=None if error is None else (error.kind, str(error)),
            started_at=outcome.started_at_monotonic + self._starts.clock_offset,
            duration_ms=outcome.duration_ms,
            is_outage=self._is_outage(sent, outcome),
        )
        webhook_id = sent.delivery.webhook_id
        is_ordered = sent.endpoint.ordered or self._flight.has_run(webhook_id)
        self._flight.end(sent, succeeded=verdict.succeeded, duration_ms=outcome.duration_ms)
        self._flight.windows.charge(webhook_id, outcome.processor_ms)
        if not verdict.succeeded:
            self._starts.put_down_run(webhook_id)
        self._claims.freed(webhook_id)
        is_urgent = is_ordered or self._flight.windows.is_closed(webhook_id)
        record = Record(result, verdict, webhook_id, sent.delivery.id, is_ordered)
        self._records.add(record, time.monotonic(), is_urgent=is_urgent)

    def _is_outage(self, sent: Sent, outcome: Outcome) -> bool:
        """Take note of whether the network works; True where a failure is our own."""
        now = time.monotonic()
        webhook_id, owner_id = sent.delivery.webhook_id, sent.endpoint.owner_id
        if outcome.error is None or outcome.error.kind not in NETWORK_FAILURES:
            self._outage.reached(webhook_id, owner_id, now)
            return False
        self._outage.not_reached(webhook_id, owner_id, now)
        return self._outage.is_out

    # On the database threads.

    def _claim(self, order: Order) -> Claim:
        return claim_due(order, self._endpoints)

    # The end.

    def _start_anew(self) -> None:
        """Drop everything: this worker counts as dead, and its rows belong to others now."""
        logger.warning("This worker was silent for too long to go on; starting anew.")
        self.guests.leave()
        self._line.close()
        self._sender.close()
        self._sender = self.guests.sender = _new_sender()
        self._polled_at = boottime()
        self._threads.disconnect()
        self._begin_life()
        self._threads.on_recorder(life.register_worker)(self.worker_id)

    def _end(self) -> None:
        self.guests.leave(is_over=True)
        self._line.close()
        self._sender.close()
        # With a new connection: that the recorder's was cut may not have been noticed yet.
        self._threads.disconnect()
        if self._has_crashed:
            # What it holds may be why; nobody need wait for the silence.
            self._threads.on_recorder(life.declare_dead)([self.worker_id])
        elif not self._is_abandoned:
            # Otherwise it is left to be found dead, with what it holds.
            self._threads.on_recorder(life.unregister_worker)(self.worker_id)
        self._threads.disconnect()
        self._threads.shut_down(wait=not self._is_abandoned)


def _new_sender() -> MultiSender:
    return MultiSender(
        AddressPolicy(settings.WEBHOOKS_ALLOWED_NETWORKS), max_connections=MAX_IN_FLIGHT
    )


def run_until_idle() -> None:
    """Deliver everything that is due now, in this process, and return."""
    Engine().run(until_idle=True)
    run_suspects()


def run_suspects() -> None:
    """Deliver what was in flight when its worker died, in this process, and return."""
    life.reclaim_from_dead_workers()
    for level in LEVELS:
        if level in count_by_level():
            Engine(suspects=level).run(until_idle=True)
