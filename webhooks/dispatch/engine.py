"""The loop that delivers: claim → sign → send → settle, hundreds in flight.

One thread runs libcurl and decides. Desks hold the work to do next (webhooks/dispatch/desks.py), and
two threads talk to Postgres for them, so claiming, sending and recording overlap and the loop never
waits for a query, Valkey, a name or a slow receiver. Hints, the poll and signals are inputs to the
loop; an RQ worker or any other process may drive it.

A crash anywhere leaves rows marked with a worker that no longer beats; another worker takes them
back (invariants 5 to 7).
"""

import logging
import time
from uuid import UUID

from django.conf import settings

from webhooks.dispatch import life
from webhooks.dispatch.desk import DatabaseThreads
from webhooks.dispatch.desks import Desks
from webhooks.dispatch.endpoints import Endpoints
from webhooks.dispatch.flight import MAX_IN_FLIGHT
from webhooks.dispatch.guests import Guests
from webhooks.dispatch.lease import BEAT_SECONDS
from webhooks.dispatch.suspects import LEVELS, count_by_level
from webhooks.pace.outage import OutageGuard
from webhooks.wire.addresses import AddressPolicy
from webhooks.wire.clock import boottime
from webhooks.wire.failures import SuspendedError
from webhooks.wire.many import SUSPENDED_SECONDS, MultiSender

logger = logging.getLogger(__name__)


class Engine:
    """One worker's dispatcher. run() blocks; hint(), stop() and abandon() may be called from
    other threads and from signal handlers.

    With `suspects` it sends only suspects of that level, as many at a time as may go together
    (webhooks/dispatch/suspects.py), and uses one connection.
    """

    def __init__(self, *, suspects: int | None = None, worker_id: UUID | None = None) -> None:
        self._level = suspects
        self._sender = _new_sender()
        self._threads = DatabaseThreads(self._wake, is_one=suspects is not None)
        self._endpoints = Endpoints()
        self._outage = OutageGuard()
        self.guests = Guests(self._sender)
        self._polled_at = 0.0
        self._is_stopping = False
        self._is_abandoned = False
        self._has_crashed = False
        self._has_line = False
        self.desks = self._begin_life(worker_id)

    def _begin_life(self, worker_id: UUID | None = None) -> Desks:
        """Return empty desks, under a new id."""
        return Desks(
            self._threads,
            self._endpoints,
            self._sender,
            self._outage,
            level=self._level,
            worker_id=worker_id,
        )

    @property
    def worker_id(self) -> UUID:
        """The id of this life."""
        return self.desks.worker_id

    # Inputs: safe from any thread and from signal handlers.

    def hint(self) -> None:
        """Note that a delivery may be due, and wake the loop."""
        self.notice()
        self._wake()

    def notice(self) -> None:
        """Note that a delivery may be due. For guests, which run on the loop's own thread."""
        self.desks.claims.hint()

    @property
    def is_waiting(self) -> bool:
        """Whether no claim is under way and only a hint or the poll would start the next one."""
        claims = self.desks.claims
        return not (claims.is_under_way or claims.has_backlog)

    def stop(self) -> None:
        """Claim no more; run() returns when the requests in flight have ended and are settled."""
        self._is_stopping = True
        self._wake()

    def abandon(self) -> None:
        """Make run() return at once; another worker sends the deliveries in flight again."""
        self._is_abandoned = True
        self._wake()

    @property
    def is_recording(self) -> bool:
        """False if Postgres did not take the last two beats, or the last batch of results."""
        desks = self.desks
        return not desks.records.is_failing and desks.lease.age_seconds < 2 * BEAT_SECONDS

    def _wake(self) -> None:
        self._sender.wake()

    # The loop.

    def run(self, *, until_idle: bool = False) -> None:
        """Deliver until stop(), or with `until_idle` until nothing is due or in flight.

        Raises Django's database errors if Postgres does not answer at the start.
        """
        self._threads.on_recorder(life.register_worker)(self.worker_id).result()
        self._polled_at = boottime()
        # A short run does not open the loop's own connection.
        self._has_line = self._level is None and not until_idle
        try:
            while not self._is_finished(until_idle):
                self.desks.flight.find_slow()
                self._order()
                self.desks.start_ready()
                self._send_and_receive()
                if not self.desks.collect():
                    self._start_anew()
        except BaseException:
            self._has_crashed = True
            raise
        finally:
            self._end()

    def _is_finished(self, until_idle: bool) -> bool:
        if self._is_abandoned:
            return True
        if not self.desks.is_empty:
            return False
        if self._is_stopping:
            return self.desks.is_settled()
        return until_idle and self.desks.is_idle()

    def _order(self) -> None:
        now = time.monotonic()
        self.desks.is_stopping = self._is_stopping
        if self._has_line:
            self.desks.line.order(now)
        self.desks.order(now)
        self.guests.order(now)

    def _send_and_receive(self) -> None:
        """Let requests proceed until a desk or a guest has something due."""
        now = time.monotonic()
        wait_seconds = max(0.0, min(self.desks.due_at(now), self.guests.due_at()) - now)
        try:
            if boottime() - self._polled_at > SUSPENDED_SECONDS:
                raise SuspendedError
            outcomes = self._sender.poll(wait_seconds)
        except SuspendedError:
            # Other workers may have taken over this worker's rows; it must not send them as well.
            self._start_anew()
            return
        self._polled_at = boottime()
        for outcome in outcomes:
            self.desks.take_outcome(outcome)

    # The end.

    def _start_anew(self) -> None:
        """Drop all rows and requests, and begin a new life: other workers own the rows now."""
        logger.warning("This worker was silent for too long to go on; starting anew.")
        self.guests.leave()
        self.desks.line.close()
        self._sender.close()
        self._sender = self.guests.sender = _new_sender()
        self._polled_at = boottime()
        self._threads.disconnect()
        self.desks = self._begin_life()
        self._threads.on_recorder(life.register_worker)(self.worker_id)

    def _end(self) -> None:
        self.guests.leave(is_over=True)
        self.desks.line.close()
        self._sender.close()
        # Use a new connection: the recorder's may have been cut unnoticed.
        self._threads.disconnect()
        if self._has_crashed:
            # One of its deliveries may have caused the crash. Declare the worker dead now, so that
            # others need not wait for ten seconds of silence.
            self._threads.on_recorder(life.declare_dead)([self.worker_id])
        elif not self._is_abandoned:
            # An abandoned worker stays registered: others find it silent and take its rows back.
            self._threads.on_recorder(life.unregister_worker)(self.worker_id)
        self._threads.disconnect()
        self._threads.shut_down(wait=not self._is_abandoned)


def _new_sender() -> MultiSender:
    return MultiSender(
        AddressPolicy(settings.WEBHOOKS_ALLOWED_NETWORKS), max_connections=MAX_IN_FLIGHT
    )


def run_until_idle() -> None:
    """Deliver everything that is due now, in this process; return when nothing is left."""
    Engine().run(until_idle=True)
    run_suspects()


def run_suspects() -> None:
    """Deliver the due suspects in this process; return when none is left."""
    life.reclaim_from_dead_workers()
    for level in LEVELS:
        if level in count_by_level():
            Engine(suspects=level).run(until_idle=True)
