"""The way of a lone event: the loop claims and settles it by a connection of its own.

Two hand-overs to a thread and back cost more than all else that a lone event costs. So what one
statement does alone goes by the line (webhooks/dispatch/line.py); what needs a second statement, and
what comes in numbers, goes by the threads, as does everything where the line is busy or broken.
"""

import json
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from uuid import UUID

import psycopg

from webhooks.dispatch import quick
from webhooks.dispatch.claim import Claim, Order, go_on
from webhooks.dispatch.desk import DatabaseThreads
from webhooks.dispatch.discovery import Look
from webhooks.dispatch.endpoints import Endpoints
from webhooks.dispatch.line import Answer, Line, Statement, Watcher, open_connection
from webhooks.dispatch.quick import QuickClaim
from webhooks.dispatch.records import Batch, Written, conclude, judge
from webhooks.dispatch.settle import SETTLE_SQL, in_order, read_settled
from webhooks.dispatch.take import ClaimedDelivery, Taken, keep_light

MOST_RESULTS = 16
"""With more of them the statement is not small any more."""


class Shortcut:
    """Claims and settles of one life of a worker, by the line or by the threads."""

    def __init__(
        self,
        threads: DatabaseThreads,
        endpoints: Endpoints,
        watcher: Watcher,
        *,
        claim: Callable[[Order], Claim],
        write: Callable[[UUID, Batch], Written],
        may_claim: Callable[[], bool],
    ) -> None:
        """`may_claim` says whether a claim may run beside what the claimer is at."""
        self.line = Line(threads.on_claimer(open_connection), threads.connection_name, watcher)
        self._endpoints = endpoints
        self._may_claim = may_claim
        self._claim_by_thread = threads.on_claimer(claim)
        self._finish_claim = threads.on_claimer(self._claim_rest)
        self._settle_by_thread = threads.on_recorder(write)
        self._finish_settle = threads.on_recorder(conclude)
        self._quick_claim = Statement("quick_claim", quick.sql())
        self._settle = Statement("settle", SETTLE_SQL)

    def claim(self, order: Order) -> Future[Claim]:
        """Make a claim."""
        is_quick = order.rooms is not None and not (order.survey_from or order.wants_news)
        if not (is_quick and self.line.is_free and self._may_claim()):
            return self._claim_by_thread(order)
        asked = quick.ask(
            order.worker_id,
            order.limit,
            self._endpoints,
            rooms=order.rooms or {},
            back_seconds=order.back_seconds,
        )
        return self.line.ask(self._quick_claim, asked.parameters, partial(self._took, order, asked))

    def _took(self, order: Order, asked: QuickClaim, answer: Answer) -> Claim | Future[Claim]:
        if isinstance(answer, psycopg.Error):
            raise answer
        marked, left = quick.read(asked, answer, self._endpoints)
        if left.lanes or left.is_cut or any(row.payload is None for row in marked):
            return self._finish_claim(order, asked, marked, left)
        taken = Taken(marked, bytes=sum(len(row.payload) for row in marked))
        return go_on(order, self._endpoints, taken, left, asked.asked_at)

    def _claim_rest(
        self, order: Order, asked: QuickClaim, marked: list[ClaimedDelivery], left: Look
    ) -> Claim:
        """On the claimer."""
        taken = Taken()
        taken.deliveries = keep_light(taken, order.worker_id, marked)
        return go_on(order, self._endpoints, taken, left, asked.asked_at)

    def settle(self, worker_id: UUID, batch: Batch) -> Future[Written]:
        """Write results."""
        if batch.attempted or len(batch.records) > MOST_RESULTS or not self.line.is_free:
            return self._settle_by_thread(worker_id, batch)
        results = json.dumps(in_order([record.result for record in batch.records]))
        parameters = {"worker": worker_id, "results": results}
        return self.line.ask(self._settle, parameters, partial(self._settled, worker_id, batch))

    def _settled(self, worker_id: UUID, batch: Batch, answer: Answer) -> Written | Future[Written]:
        if isinstance(answer, psycopg.Error):
            # There what Postgres refuses harms no batch-mates, and what it has written already is
            # found to be no longer ours.
            return self._settle_by_thread(worker_id, batch)
        written = judge(batch, read_settled(answer))
        return self._finish_settle(written) if written.attempted else written
