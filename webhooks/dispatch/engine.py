"""The loop that delivers: claim → sign → send → settle, hundreds in flight.

One thread runs libcurl and decides; a second one talks to Postgres, so that sending and recording
overlap and the loop never waits for a query, Valkey, a name or a slow receiver. Hints, the poll
and signals are inputs to the loop; it may be driven by the RQ worker or by anything else.

A crash anywhere leaves rows marked with a worker that no longer beats; another worker takes them
back (invariants 5 to 7).
"""

import logging
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import DatabaseError, InterfaceError, OperationalError, connection

from webhooks import wakeup
from webhooks.addresses import AddressPolicy
from webhooks.dispatch import claim as claims
from webhooks.dispatch.claim import Claim, ClaimedDelivery
from webhooks.dispatch.endpoints import Endpoint, Endpoints
from webhooks.dispatch.request import build_request, read_outcome
from webhooks.dispatch.settle import Result, settle, without_answer
from webhooks.dispatch.window import START, Windows
from webhooks.ids import new_id
from webhooks.transport import MultiSender, Outcome, Post

logger = logging.getLogger(__name__)

MAX_IN_FLIGHT = 512
MAX_CLAIM_BYTES = 16 * 1024 * 1024
SMALLEST_CLAIM = 64
"""While this much is in flight, a claim waits until it is worth a round trip to Postgres."""
SETTLE_ROWS = 500
SETTLE_SECONDS = 0.2
MAX_UNSETTLED = 4 * SETTLE_ROWS
POLL_SECONDS = 1.0
BEAT_SECONDS = 2.0
OFF_DELAY_SECONDS = 1.0
"""A row whose webhook went off between claim and send comes back after this time."""
FIRST_BACKOFF_SECONDS = 0.2
LONGEST_BACKOFF_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Sent:
    """What is in flight."""

    delivery: ClaimedDelivery
    endpoint: Endpoint
    request: Post
    attempt_id: UUID


class Engine:
    """One worker's dispatcher. run() blocks; hint(), stop() and abandon() may be called from
    other threads and from signal handlers."""

    def __init__(self) -> None:
        self.worker_id = new_id()
        self._sender = MultiSender(
            AddressPolicy(settings.WEBHOOKS_ALLOWED_NETWORKS), max_connections=MAX_IN_FLIGHT
        )
        self._database = ThreadPoolExecutor(1, thread_name_prefix="webhooks-database")
        self._endpoints = Endpoints()
        self._windows = Windows()
        self._claiming: Future[Claim] | None = None
        self._settling: Future[None] | None = None
        self._beating: Future[bool] | None = None
        self._settling_results: list[Result] = []
        self._unsettled: list[Result] = []
        self._oldest_unsettled_at = 0.0
        self._limit = 0
        self._largest_payload = MAX_CLAIM_BYTES // MAX_IN_FLIGHT
        self._after = claims.FIRST_WEBHOOK
        self._rooms: dict[UUID, int] = {}
        # Webhooks that may have more due rows than their window let in.
        self._cut: set[UUID] = set()
        self._wants_claim = True
        self._has_backlog = False
        self._hinted = False
        self._found_nothing = False
        self._clock_offset = 0.0
        self._next_poll_at = 0.0
        self._next_beat_at = 0.0
        self._backoff_seconds = 0.0
        self._database_back_at = 0.0
        self._is_stopping = False
        self._is_abandoned = False

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

    def _look_again(self) -> None:
        self._wants_claim = True
        self._sender.wake()

    # The loop.

    def run(self, *, until_idle: bool = False) -> None:
        """Deliver until stop(), or with `until_idle` until nothing is due or in flight."""
        self._in_database(claims.register_worker, self.worker_id).result()
        self._next_beat_at = time.monotonic() + BEAT_SECONDS
        try:
            while True:
                self._collect()
                if self._is_finished(until_idle):
                    break
                if until_idle and not self._sender.in_flight and not self._found_nothing:
                    self._wants_claim = True
                self._order()
                for outcome in self._sender.poll(self._seconds_to_wait()):
                    self._take_outcome(outcome)
        finally:
            self._end()

    def _is_finished(self, until_idle: bool) -> bool:
        if self._is_abandoned:
            return True
        is_busy = (
            self._sender.in_flight
            or self._unsettled
            or self._settling is not None
            or self._claiming is not None
        )
        if is_busy:
            return False
        return self._is_stopping or (
            until_idle and self._found_nothing and not self._wants_claim and not self._has_backlog
        )

    def _seconds_to_wait(self) -> float:
        now = time.monotonic()
        next_at = min(self._next_beat_at, self._next_poll_at)
        if self._unsettled and self._settling is None:
            next_at = min(next_at, self._oldest_unsettled_at + SETTLE_SECONDS)
        if self._backoff_seconds:
            next_at = max(next_at, self._database_back_at)
        return max(0.0, min(next_at - now, POLL_SECONDS))

    def _order(self) -> None:
        """Give the database thread what is due to be done."""
        now = time.monotonic()
        if now < self._database_back_at:
            return
        if self._beating is None and now >= self._next_beat_at:
            self._next_beat_at = now + BEAT_SECONDS
            self._beating = self._in_database(self._beat)
        if self._settling is None and self._is_settle_due(now):
            self._settling_results = self._unsettled[:SETTLE_ROWS]
            del self._unsettled[:SETTLE_ROWS]
            self._oldest_unsettled_at = now
            self._settling = self._in_database(self._settle, self._settling_results)
        if self._claiming is None and self._is_claim_due(now):
            self._order_claim(now)

    def _is_settle_due(self, now: float) -> bool:
        return bool(self._unsettled) and (
            len(self._unsettled) >= SETTLE_ROWS
            or now >= self._oldest_unsettled_at + SETTLE_SECONDS
            or not self._sender.in_flight
        )

    def _is_claim_due(self, now: float) -> bool:
        if self._is_stopping or len(self._unsettled) >= MAX_UNSETTLED:
            return False
        in_flight = self._sender.in_flight
        if in_flight and MAX_IN_FLIGHT - in_flight < SMALLEST_CLAIM:
            return False
        return self._wants_claim or self._has_backlog or now >= self._next_poll_at

    def _order_claim(self, now: float) -> None:
        self._wants_claim = self._has_backlog = False
        self._next_poll_at = now + POLL_SECONDS
        self._limit = min(
            MAX_IN_FLIGHT - self._sender.in_flight,
            max(1, MAX_CLAIM_BYTES // max(1, self._largest_payload)),
        )
        self._rooms = self._windows.rooms()
        self._claiming = self._in_database(self._claim, self._limit, self._rooms, self._after)

    # What runs on the database thread.

    def _in_database(self, work: Callable[..., Any], *args: Any) -> Future[Any]:
        future = self._database.submit(_with_fresh_connection, work, *args)
        future.add_done_callback(lambda _: self._sender.wake())
        return future

    def _claim(self, limit: int, rooms: dict[UUID, int], after: UUID) -> Claim:
        claim = claims.claim_due(
            self.worker_id, limit=limit, rooms=rooms, default_room=START, after=after
        )
        if claim.deliveries:
            self._endpoints.load({delivery.webhook_id for delivery in claim.deliveries})
        return claim

    def _settle(self, results: list[Result]) -> None:
        try:
            settle(self.worker_id, results)
        except (OperationalError, InterfaceError):
            raise
        except DatabaseError:
            # One row that Postgres refuses must not hold back its batch-mates (fault P9).
            if len(results) > 1:
                middle = len(results) // 2
                self._settle(results[:middle])
                self._settle(results[middle:])
            else:
                logger.exception("The result of delivery %s is refused.", results[0]["id"])
                settle(self.worker_id, [without_answer(results[0])])

    def _beat(self) -> bool:
        is_alive = claims.beat(self.worker_id, self._sender.in_flight)
        if reclaimed := claims.reclaim_from_dead_workers():
            logger.warning("Took back %d deliveries from dead workers.", reclaimed)
            self._look_again()
        claims.cancel_for_deleted_webhooks()
        return is_alive

    # What came back.

    def _collect(self) -> None:
        """Take what the database thread has finished."""
        if self._settling is not None and self._settling.done():
            future, self._settling = self._settling, None
            if not self._succeeded(future):
                self._unsettled[:0] = self._settling_results
            self._settling_results = []
        if self._beating is not None and self._beating.done():
            beat, self._beating = self._beating, None
            if self._succeeded(beat):
                self._endpoints.forget_old()
                self._windows.forget_idle()
                if not beat.result():
                    self._start_a_new_life()
        if self._claiming is not None and self._claiming.done():
            claim, self._claiming = self._claiming, None
            if self._succeeded(claim):
                self._take_claim(claim.result())
            else:
                self._wants_claim = True

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
        self._clock_offset = claim.database_time - time.monotonic()
        was_backlog = self._after != claims.FIRST_WEBHOOK
        self._after = claim.next_webhook
        self._has_backlog = not claim.is_complete
        self._found_nothing = not claim.deliveries and claim.is_complete
        if self._is_stopping:
            self._give_back([d.id for d in claim.deliveries], 0)
            return
        if self._has_backlog and not was_backlog:
            # More than this worker can take at once: wake the next one.
            wakeup.nudge(force=True)
        if self._hinted:
            self._follow_hint()
        self._start_all(claim.deliveries)

    def _follow_hint(self) -> None:
        """Claim until nothing is found, then let commits send hints again, then claim once more.

        Until the token is gone commits stay silent, so nobody else tells us of them.
        """
        if self._found_nothing:
            self._hinted = False
            wakeup.clear_token(then=self._look_again)
        else:
            self._wants_claim = True

    def _start_all(self, deliveries: list[ClaimedDelivery]) -> None:
        switched_off = []
        for delivery in deliveries:
            self._largest_payload = max(self._largest_payload, len(delivery.payload))
            endpoint = self._endpoints.get(delivery.webhook_id)
            if endpoint is None:
                switched_off.append(delivery.id)
            else:
                self._start(delivery, endpoint)
        if switched_off:
            self._give_back(switched_off, OFF_DELAY_SECONDS)
        # More may wait of a webhook that got all it had room for.
        taken = Counter(delivery.webhook_id for delivery in deliveries)
        self._cut.update(k for k, count in taken.items() if count >= self._rooms.get(k, START))
        self._cut.update(k for k, room in self._rooms.items() if room == 0)

    def _start(self, delivery: ClaimedDelivery, endpoint: Endpoint) -> None:
        timestamp = int(time.monotonic() + self._clock_offset)
        request = build_request(delivery, endpoint, timestamp)
        self._windows.take(delivery.webhook_id)
        self._sender.start(
            request,
            timeout_seconds=endpoint.timeout_seconds,
            context=Sent(delivery, endpoint, request, new_id()),
        )

    def _give_back(self, delivery_ids: list[UUID], delay_seconds: float) -> None:
        if delivery_ids:
            self._in_database(
                lambda: claims.release(self.worker_id, delivery_ids, delay_seconds=delay_seconds)
            )

    def _take_outcome(self, outcome: Outcome) -> None:
        sent: Sent = outcome.context
        error = outcome.error
        result = read_outcome(
            sent.delivery,
            sent.endpoint,
            sent.attempt_id,
            request=sent.request,
            response=outcome.response,
            failure=None if error is None else (error.kind, str(error)),
            started_at=outcome.started_at_monotonic + self._clock_offset,
            duration_ms=outcome.duration_ms,
        )
        webhook_id = sent.delivery.webhook_id
        if result["kind"]:
            self._windows.failed(webhook_id)
        else:
            self._windows.succeeded(webhook_id, result["duration_ms"])
        if webhook_id in self._cut:
            self._cut.discard(webhook_id)
            self._wants_claim = True
        if not self._unsettled:
            self._oldest_unsettled_at = time.monotonic()
        self._unsettled.append(result)

    # The end.

    def _start_a_new_life(self) -> None:
        """Drop everything: this worker was declared dead and its rows belong to others now."""
        logger.warning("This worker was silent too long and was declared dead; starting anew.")
        self._sender.close()
        self._sender = MultiSender(
            AddressPolicy(settings.WEBHOOKS_ALLOWED_NETWORKS), max_connections=MAX_IN_FLIGHT
        )
        self._windows = Windows()
        self._unsettled = []
        self._cut = set()
        self.worker_id = new_id()
        self._in_database(claims.register_worker, self.worker_id)
        self._wants_claim = True

    def _end(self) -> None:
        self._sender.close()
        if not self._is_abandoned:
            # Otherwise it is left to be found dead, with what it holds.
            self._in_database(claims.unregister_worker, self.worker_id)
        # Looked up there: each thread has a connection of its own.
        self._in_database(lambda: connection.close())
        self._database.shutdown(wait=not self._is_abandoned)


def _with_fresh_connection(work: Callable[..., Any], *args: Any) -> Any:
    """Run `work`; after an error of the connection the next one starts with a new connection."""
    try:
        return work(*args)
    except (OperationalError, InterfaceError):
        connection.close()
        raise


def run_until_idle() -> None:
    """Deliver everything that is due now, in this process, and return."""
    Engine().run(until_idle=True)
