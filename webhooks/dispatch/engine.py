"""The loop that delivers: claim → sign → send → settle, hundreds in flight.

One thread runs libcurl and decides; two others talk to Postgres, so that claiming, sending and
recording overlap and the loop never waits for a query, Valkey, a name or a slow receiver. Hints, the poll
and signals are inputs to the loop; it may be driven by the RQ worker or by anything else.

A crash anywhere leaves rows marked with a worker that no longer beats; another worker takes them
back (invariants 5 to 7).
"""

import logging
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import DatabaseError, InterfaceError, OperationalError, connection

from webhooks import wakeup
from webhooks.addresses import AddressPolicy
from webhooks.dispatch import claim as claims
from webhooks.dispatch import health, life
from webhooks.dispatch.claim import Claim, ClaimedDelivery
from webhooks.dispatch.desk import with_fresh_connection
from webhooks.dispatch.endpoints import MAX_AGE_SECONDS, Endpoint, Endpoints
from webhooks.dispatch.flight import MAX_IN_FLIGHT, READY_AT_CLAIM, Flight, Sent
from webhooks.dispatch.health import Attempted
from webhooks.dispatch.outage import NETWORK_FAILURES, PROBE_SECONDS, OutageGuard
from webhooks.dispatch.request import build_request, read_outcome
from webhooks.dispatch.settle import Result, settle, without_answer
from webhooks.dispatch.suspects import GROUP_SIZES, LEVELS, claim_suspects, count_by_level
from webhooks.ids import new_id
from webhooks.retry import Verdict
from webhooks.wire.clock import boottime
from webhooks.wire.failures import SuspendedError
from webhooks.wire.many import SUSPENDED_SECONDS, MultiSender, Outcome
from webhooks.wire.messages import Draft, Post

logger = logging.getLogger(__name__)

SMALLEST_CLAIM = 64
"""While much is held, a claim waits until it is worth a round trip to Postgres."""
STARTS_AT_ONCE = 32
"""Between two looks at the sockets, so that answers do not wait."""
SETTLE_ROWS = 500
SETTLE_SECONDS = 0.2
MAX_UNSETTLED = 4 * SETTLE_ROWS
POLL_SECONDS = 1.0
BEAT_SECONDS = 2.0
OFF_DELAY_SECONDS = 1.0
"""A row whose webhook went off between claim and send comes back after this time."""
FIRST_BACKOFF_SECONDS = 0.2
LONGEST_BACKOFF_SECONDS = 5.0

Settled = tuple[Result, Verdict, UUID, bool]
"""A result, what it means, its webhook, and whether that is ordered."""


class Engine:
    """One worker's dispatcher. run() blocks; hint(), stop() and abandon() may be called from
    other threads and from signal handlers.

    With `suspects` it sends suspects of that level only, as many at a time as may go together
    (webhooks/dispatch/suspects.py); it does with one connection.
    """

    def __init__(self, *, suspects: int | None = None) -> None:
        self.worker_id = new_id()
        self._level = suspects
        self._sender = _new_sender()
        self._claimer = ThreadPoolExecutor(1, thread_name_prefix="webhooks-claimer")
        self._recorder = self._claimer
        if suspects is None:
            self._recorder = ThreadPoolExecutor(1, thread_name_prefix="webhooks-recorder")
        self._endpoints = Endpoints()
        self._flight = Flight()
        self._outage = OutageGuard()
        self._claiming: Future[Claim] | None = None
        self._settling: Future[bool] | None = None
        self._beating: Future[bool] | None = None
        self._refreshing: Future[None] | None = None
        self._next_refresh_at = 0.0
        self._releasing: list[Future[int | None]] = []
        # Whether a claim or a release failed, and may have been committed all the same.
        self._has_lost_track = False
        self._track_again_at = 0.0
        self._settling_now: list[Settled] = []
        self._unsettled: list[Settled] = []
        # Whether the last results could not be written: a full disk, say. What cannot be recorded
        # is not sent.
        self._cannot_settle = False
        self._oldest_unsettled_at = 0.0
        self._is_settle_urgent = False
        self._position = claims.START_OF_ROTATION
        # Webhooks that had more due rows than their window let in.
        self._full: set[UUID] = set()
        self._wants_claim = True
        self._has_backlog = False
        self._hinted = False
        self._found_nothing = False
        self._clock_offset = 0.0
        self._next_poll_at = 0.0
        self._next_call_at = 0.0
        self._polled_at = 0.0
        self._next_beat_at = 0.0
        self._beaten_at = boottime()
        self._backoff_seconds = 0.0
        self._database_back_at = 0.0
        self._is_stopping = False
        self._is_abandoned = False
        self._has_crashed = False

    # Inputs: safe from any thread and from signal handlers.

    def hint(self) -> None:
        """Something may be due: a job arrived whose token nobody else will delete."""
        self._hinted = True
        self._look_again()

    def stop(self) -> None:
        """Claim no more; run() returns when what is in flight is finished and settled."""
        self._is_stopping = True
        self._sender.wake()

    def abandon(self) -> None:
        """Make run() return at once; what is in flight is sent again by another worker."""
        self._is_abandoned = True
        self._sender.wake()

    @property
    def is_recording(self) -> bool:
        """False once two beats in a row, or the last results, could not be written to Postgres."""
        return not self._cannot_settle and boottime() - self._beaten_at < 2 * BEAT_SECONDS

    def _look_again(self) -> None:
        self._wants_claim = True
        self._sender.wake()

    # The loop.

    def run(self, *, until_idle: bool = False) -> None:
        """Deliver until stop(), or with `until_idle` until nothing is due or in flight."""
        self._submit(self._recorder, life.register_worker, self.worker_id).result()
        self._polled_at = boottime()
        self._next_beat_at = time.monotonic() + BEAT_SECONDS
        try:
            while True:
                self._collect()
                if self._is_finished(until_idle):
                    break
                if until_idle and not self._flight.ids and not self._found_nothing:
                    self._wants_claim = True
                self._flight.find_slow()
                self._order()
                self._start_ready()
                self._send_and_receive()
        except BaseException:
            self._has_crashed = True
            raise
        finally:
            self._end()

    def _send_and_receive(self) -> None:
        try:
            if boottime() - self._polled_at > SUSPENDED_SECONDS:
                raise SuspendedError
            outcomes = self._sender.poll(self._seconds_to_wait())
        except SuspendedError:
            # By now others may have taken over what this worker holds; it must not send it, too.
            self._start_a_new_life()
            return
        self._polled_at = boottime()
        for outcome in outcomes:
            self._take_outcome(outcome)

    def _is_finished(self, until_idle: bool) -> bool:
        if self._is_abandoned:
            return True
        is_busy = (
            self._flight.ids
            or self._unsettled
            or self._settling is not None
            or self._claiming is not None
            or self._releasing
            # Otherwise the end of this life gives back what is left.
            or (self._has_lost_track and not self._is_stopping)
        )
        if is_busy:
            return False
        is_idle = self._found_nothing and not self._wants_claim and not self._has_backlog
        # In an outage of our own nothing more can be done now.
        return self._is_stopping or (until_idle and (is_idle or self._outage.is_out))

    def _seconds_to_wait(self) -> float:
        if self._flight.ready:
            return 0.0
        now = time.monotonic()
        # Only what can be ordered then: the rest begins with an answer, which ends the wait.
        next_at = now + POLL_SECONDS
        if self._beating is None:
            next_at = min(next_at, self._next_beat_at)
        if self._flight.count and self._refreshing is None:
            next_at = min(next_at, self._next_refresh_at)
        if self._can_claim():
            next_at = min(next_at, self._next_poll_at)
        if self._unsettled and self._settling is None:
            next_at = min(next_at, self._oldest_unsettled_at + SETTLE_SECONDS)
        return max(0.0, min(max(next_at, self._database_back_at) - now, POLL_SECONDS))

    def _order(self) -> None:
        """Give the database threads what is due to be done."""
        now = time.monotonic()
        if now < self._database_back_at:
            return
        if self._beating is None and now >= self._next_beat_at:
            self._next_beat_at = now + BEAT_SECONDS
            self._beating = self._submit(
                self._recorder, life.beat, self.worker_id, self._flight.count
            )
        if self._settling is None and self._is_settle_due(now):
            self._settling_now = self._unsettled[:SETTLE_ROWS]
            del self._unsettled[:SETTLE_ROWS]
            self._oldest_unsettled_at = now
            self._is_settle_urgent = False
            self._settling = self._submit(
                self._recorder, self._settle, self.worker_id, self._settling_now
            )
        if self._has_lost_track and self._claiming is None and now >= self._track_again_at:
            self._release_others()
        if self._flight.count and self._refreshing is None and now >= self._next_refresh_at:
            self._order_refresh(now)
        if self._can_claim() and self._is_claim_due(now):
            self._order_claim(now)

    def _is_settle_due(self, now: float) -> bool:
        return bool(self._unsettled) and (
            len(self._unsettled) >= SETTLE_ROWS
            or now >= self._oldest_unsettled_at + SETTLE_SECONDS
            or self._is_settle_urgent
            or not self._flight.ids
        )

    def _can_claim(self) -> bool:
        if self._claiming is not None or self._is_stopping or self._cannot_settle:
            return False
        if len(self._unsettled) >= MAX_UNSETTLED:
            return False
        if self._group_room() <= 0:
            return False
        room = self._flight.room
        if self._flight.ready > READY_AT_CLAIM or room == 0:
            return False
        return room >= SMALLEST_CLAIM or len(self._flight.ids) <= SMALLEST_CLAIM

    def _group_room(self) -> int:
        """Return how many more suspects may be in this process; unsettled ones still are."""
        if self._level is None:
            return MAX_IN_FLIGHT
        held = len(self._flight.ids) + len(self._unsettled) + len(self._settling_now)
        return GROUP_SIZES[self._level] - held

    def _is_claim_due(self, now: float) -> bool:
        if self._outage.is_out:
            return now >= self._next_poll_at
        return self._wants_claim or self._has_backlog or now >= self._next_poll_at

    def _order_claim(self, now: float) -> None:
        self._wants_claim = self._has_backlog = False
        is_out = self._outage.is_out
        self._next_poll_at = now + (PROBE_SECONDS if is_out else POLL_SECONDS)
        limit = 1 if is_out else min(self._flight.room, self._group_room())
        self._claiming = self._submit(self._claimer, self._claim, self.worker_id, limit)

    def _order_refresh(self, now: float) -> None:
        """What waits for a name or a connection goes out only where its endpoint is known freshly."""
        self._next_refresh_at = now + MAX_AGE_SECONDS / 2
        if unsent := {sent.delivery.webhook_id for sent in self._sender.unsent()}:
            self._refreshing = self._submit(self._claimer, self._endpoints.load, unsent)

    # What runs on the database threads; for the life in which it was ordered. The claimer also
    # gives back, so that it never claims meanwhile; the recorder also beats.

    def _submit(
        self, thread: ThreadPoolExecutor, work: Callable[..., Any], *args: Any
    ) -> Future[Any]:
        name = life.connection_name(self.worker_id)
        future = thread.submit(with_fresh_connection, name, work, *args)
        future.add_done_callback(lambda _: self._sender.wake())
        return future

    def _claim(self, worker_id: UUID, limit: int) -> Claim:
        if self._level is not None:
            claim = claim_suspects(
                worker_id, level=self._level, limit=limit, room_of=self._flight.windows.room
            )
        else:
            claim = claims.claim_due(
                worker_id, limit=limit, room_of=self._flight.windows.room, after=self._position
            )
        if claim.deliveries:
            self._endpoints.load({delivery.webhook_id for delivery in claim.deliveries})
        if claim.deleted:
            claims.cancel_deleted(claim.deleted)
        return claim

    def _settle(self, worker_id: UUID, settled: list[Settled]) -> bool:
        """Write results; True where something that waited for them may go now."""
        written = self._write(worker_id, [result for result, *_ in settled])
        attempted: defaultdict[UUID, Attempted] = defaultdict(Attempted)
        for result, verdict, webhook_id, _ in settled:
            if result["is_free"] or result["id"] not in written:
                continue
            if verdict.succeeded:
                attempted[webhook_id].add_success()
            else:
                attempted[webhook_id].add_failure(verdict.hold_seconds, verdict.is_gone)
        has_closed = health.record(attempted)
        return has_closed or any(is_ordered for *_, is_ordered in settled)

    def _write(self, worker_id: UUID, results: list[Result]) -> set[str]:
        try:
            return settle(worker_id, results)
        except (OperationalError, InterfaceError):
            raise
        except DatabaseError:
            # One row that Postgres refuses must not hold back its batch-mates (fault P9).
            if len(results) > 1:
                middle = len(results) // 2
                first = self._write(worker_id, results[:middle])
                return first | self._write(worker_id, results[middle:])
            logger.exception("The result of delivery %s is refused.", results[0]["id"])
            return settle(worker_id, [without_answer(results[0])])

    # What came back.

    def _collect(self) -> None:
        """Take what the database threads have finished."""
        if self._settling is not None and self._settling.done():
            future, self._settling = self._settling, None
            self._cannot_settle = not self._succeeded(future)
            if self._cannot_settle:
                self._unsettled[:0] = self._settling_now
            elif future.result():
                self._wants_claim = True
            self._settling_now = []
        if self._beating is not None and self._beating.done():
            beat, self._beating = self._beating, None
            if self._succeeded(beat):
                self._beaten_at = boottime()
                self._endpoints.forget_old()
                self._flight.windows.forget_idle()
                self._outage.forget_old(time.monotonic())
                if not beat.result():
                    self._start_a_new_life()
        if self._refreshing is not None and self._refreshing.done():
            refresh, self._refreshing = self._refreshing, None
            self._succeeded(refresh)
        if self._claiming is not None and self._claiming.done():
            claim, self._claiming = self._claiming, None
            if self._succeeded(claim):
                self._take_claim(claim.result())
            else:
                self._has_lost_track = self._wants_claim = True
        while self._releasing and self._releasing[0].done():
            released = self._releasing.pop(0)
            if not self._succeeded(released):
                self._has_lost_track = True
            elif released.result():
                # Somebody has locked some of it.
                self._has_lost_track = True
                self._track_again_at = time.monotonic() + POLL_SECONDS

    def _succeeded(self, future: Future[Any]) -> bool:
        """Log a failure and leave the database alone for a while; it may be restarting."""
        problem = future.exception()
        if problem is None:
            self._backoff_seconds = 0.0
            return True
        self._backoff_seconds = min(
            max(self._backoff_seconds * 2, FIRST_BACKOFF_SECONDS), LONGEST_BACKOFF_SECONDS
        )
        self._database_back_at = time.monotonic() + self._backoff_seconds
        logger.error("Postgres does not answer, trying again: %s", problem, exc_info=problem)
        return False

    def _take_claim(self, claim: Claim) -> None:
        self._clock_offset = claim.clock_offset
        self._position = claim.next_position
        self._has_backlog = not claim.is_complete
        self._found_nothing = not claim.deliveries and not claim.full and claim.is_complete
        self._next_poll_at = min(self._next_poll_at, claim.next_at - self._clock_offset)
        if self._is_stopping:
            self._give_back([d.id for d in claim.deliveries], 0)
            return
        is_for_others = self._has_backlog and self._level is None
        if is_for_others and (now := time.monotonic()) >= self._next_call_at:
            # More than this worker can take at once: wake another one. All poll as often as that.
            self._next_call_at = now + POLL_SECONDS
            wakeup.nudge(force=True)
        if self._hinted:
            self._follow_hint(found_nothing=not claim.deliveries and claim.is_complete)
        self._flight.took(claim.deliveries)
        self._line_up(claim.deliveries)
        for webhook_id in claim.full:
            # Some of what filled it may have come back while the claim was under way.
            if self._flight.windows.room(webhook_id):
                self._wants_claim = True
            else:
                self._full.add(webhook_id)

    def _follow_hint(self, *, found_nothing: bool) -> None:
        """Claim until nothing is found, then let commits send hints again, then claim once more.

        Until the token is gone commits stay silent, so nobody else tells us of them. What waits
        for its webhook's window is not looked for again and again: its place is told by an answer.
        """
        if found_nothing:
            self._hinted = False
            wakeup.clear_token(then=self._look_again)
        else:
            self._wants_claim = True

    def _line_up(self, deliveries: list[ClaimedDelivery]) -> None:
        without_endpoint = []
        for delivery in deliveries:
            endpoint = self._endpoints.get(delivery.webhook_id)
            if endpoint is None:
                without_endpoint.append(delivery)
            else:
                self._flight.line_up(delivery, endpoint.owner_id)
        self._give_back_without_endpoint(without_endpoint)

    def _start_ready(self) -> None:
        """Start some of what is ready; give it back where it must not start any more."""
        if not self._flight.ready:
            return
        if self._is_stopping:
            self._put_down(self._flight.next_ready(self._flight.ready), 0)
            return
        if self._outage.is_out and self._flight.ready > 1:
            self._put_down(self._flight.next_ready(self._flight.ready - 1), PROBE_SECONDS)
        without_endpoint = []
        for delivery in self._flight.next_ready(STARTS_AT_ONCE):
            # It may have been switched off, or its secret revoked, since the row was claimed.
            endpoint = self._endpoints.get(delivery.webhook_id)
            if endpoint is None:
                without_endpoint.append(delivery)
            else:
                self._start(delivery, endpoint)
        self._flight.put_down(without_endpoint)
        self._give_back_without_endpoint(without_endpoint)

    def _start(self, delivery: ClaimedDelivery, endpoint: Endpoint) -> None:
        sent = Sent(delivery, endpoint, new_id(), time.monotonic())
        self._flight.begin(sent)
        draft = Draft(endpoint.url, partial(self._build, sent), partial(self._is_current, sent))
        self._sender.start(
            draft,
            timeout_seconds=endpoint.timeout_seconds,
            context=sent,
            group=endpoint.owner_id,
        )

    def _build(self, sent: Sent) -> Post | None:
        """Sign with what is known now: names may have been waited for since the row was started."""
        endpoint = self._endpoints.get(sent.delivery.webhook_id)
        if endpoint is None:
            return None
        sent.endpoint = endpoint
        return build_request(sent.delivery, endpoint, int(time.monotonic() + self._clock_offset))

    def _is_current(self, sent: Sent) -> bool:
        return self._endpoints.get(sent.delivery.webhook_id) == sent.endpoint

    def _put_down(self, deliveries: list[ClaimedDelivery], delay_seconds: float) -> None:
        self._flight.put_down(deliveries)
        self._give_back([delivery.id for delivery in deliveries], delay_seconds)

    def _give_back_without_endpoint(self, deliveries: list[ClaimedDelivery]) -> None:
        """Let rows of what is off rest; others only waited too long, and are claimed anew."""
        off: list[UUID] = []
        stale: list[UUID] = []
        for delivery in deliveries:
            is_stale = self._endpoints.is_stale(delivery.webhook_id)
            (stale if is_stale else off).append(delivery.id)
        self._give_back(off, OFF_DELAY_SECONDS)
        self._give_back(stale, 0)
        self._wants_claim |= bool(stale)

    def _give_back(self, delivery_ids: list[UUID], delay_seconds: float) -> None:
        if delivery_ids:
            worker_id = self.worker_id
            self._releasing.append(
                self._submit(
                    self._claimer,
                    lambda: claims.release(worker_id, delivery_ids, delay_seconds=delay_seconds),
                )
            )

    def _release_others(self) -> None:
        """Give back what is marked as ours in the database and is not with us."""
        self._has_lost_track = False
        unsettled = [*self._settling_now, *self._unsettled]
        held = [*self._flight.ids, *(UUID(hex=result["id"]) for result, *_ in unsettled)]
        self._releasing.append(
            self._submit(self._claimer, claims.release_others, self.worker_id, held)
        )

    def _take_outcome(self, outcome: Outcome) -> None:
        sent: Sent = outcome.context
        if outcome.is_withdrawn:
            self._flight.withdraw(sent)
            self._give_back_without_endpoint([sent.delivery])
            self._wants_claim |= sent.delivery.webhook_id in self._full
            return
        error = outcome.error
        result, verdict = read_outcome(
            sent.delivery,
            sent.endpoint,
            sent.attempt_id,
            request=outcome.request,
            response=outcome.response,
            failure=None if error is None else (error.kind, str(error)),
            started_at=outcome.started_at_monotonic + self._clock_offset,
            duration_ms=outcome.duration_ms,
            is_outage=self._is_outage(sent, outcome),
        )
        webhook_id = sent.delivery.webhook_id
        self._flight.end(sent, succeeded=verdict.succeeded, duration_ms=outcome.duration_ms)
        if webhook_id in self._full:
            self._full.discard(webhook_id)
            self._wants_claim = True
        if not self._unsettled:
            self._oldest_unsettled_at = time.monotonic()
        self._is_settle_urgent |= sent.endpoint.ordered or self._flight.windows.is_closed(
            webhook_id
        )
        self._unsettled.append((result, verdict, webhook_id, sent.endpoint.ordered))

    def _is_outage(self, sent: Sent, outcome: Outcome) -> bool:
        """Take note of whether the network works; True where a failure is our own."""
        now = time.monotonic()
        webhook_id, owner_id = sent.delivery.webhook_id, sent.endpoint.owner_id
        if outcome.error is None or outcome.error.kind not in NETWORK_FAILURES:
            self._outage.reached(webhook_id, owner_id, now)
            return False
        self._outage.not_reached(webhook_id, owner_id, now)
        return self._outage.is_out

    # The end.

    def _start_a_new_life(self) -> None:
        """Drop everything: this worker counts as dead, and its rows belong to others now."""
        logger.warning("This worker was silent for too long to go on; starting anew.")
        self._sender.close()
        self._sender = _new_sender()
        self._flight = Flight()
        self._claiming = self._settling = self._refreshing = None
        self._releasing, self._has_lost_track = [], False
        self._unsettled, self._settling_now, self._cannot_settle = [], [], False
        self._full = set()
        self._polled_at = boottime()
        self._close_connections()
        self.worker_id = new_id()
        self._submit(self._recorder, life.register_worker, self.worker_id)
        self._wants_claim = True

    def _end(self) -> None:
        self._sender.close()
        if self._has_crashed:
            # What it holds may be why; nobody need wait for the silence.
            self._submit(self._recorder, life.declare_dead, [self.worker_id])
        elif not self._is_abandoned:
            # Otherwise it is left to be found dead, with what it holds.
            self._submit(self._recorder, life.unregister_worker, self.worker_id)
        self._close_connections()
        for thread in (self._claimer, self._recorder):
            thread.shutdown(wait=not self._is_abandoned)

    def _close_connections(self) -> None:
        for thread in (self._claimer, self._recorder):
            # Looked up there: each thread has a connection of its own.
            self._submit(thread, lambda: connection.close())


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
