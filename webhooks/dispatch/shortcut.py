"""The fast path of a lone event: the loop claims and settles it on its own connection.

Two hand-overs to a thread and back cost more than all other work for a lone event. So work that takes
one small statement goes through the loop's own connection (webhooks/dispatch/line.py). Work that
needs a second statement, and large batches, go through the database threads; so does everything
while that connection is busy or broken.
"""

import json
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from uuid import UUID

import psycopg

from webhooks.dispatch import quick
from webhooks.dispatch.claim import Claim, ClaimOrder, complete_claim
from webhooks.dispatch.desk import DatabaseThreads
from webhooks.dispatch.discovery import Look
from webhooks.dispatch.endpoints import Endpoints
from webhooks.dispatch.line import Line, RowsOrError, Statement, Watcher, open_connection
from webhooks.dispatch.quick import QuickClaim
from webhooks.dispatch.records import ResultBatch, Written, conclude, summarize, write_skipped
from webhooks.dispatch.settle import SETTLE_SQL, read_settled, sorted_by_id
from webhooks.dispatch.take import ClaimedDelivery, Taken, keep_light

MOST_RESULTS = 16
"""Larger batches go through the recorder's thread: the loop's own statements must stay small."""


class Shortcut:
    """Claims and settles for one life of a worker, through the loop's connection or the threads."""

    def __init__(
        self,
        threads: DatabaseThreads,
        endpoints: Endpoints,
        watcher: Watcher,
        *,
        claim: Callable[[ClaimOrder], Claim],
        write: Callable[[UUID, ResultBatch], Written],
        may_claim: Callable[[], bool],
    ) -> None:
        """`may_claim` says whether a claim may run while the claimer's thread is at work."""
        self.line = Line(threads.on_claimer(open_connection), threads.connection_name, watcher)
        self._endpoints = endpoints
        self._may_claim = may_claim
        self._claim_by_thread = threads.on_claimer(claim)
        self._finish_claim = threads.on_claimer(self._claim_rest)
        self._settle_by_thread = threads.on_recorder(write)
        self._finish_settle = threads.on_recorder(conclude)
        self._finish_skipped = threads.on_recorder(write_skipped)
        self._quick_claim = Statement("quick_claim", quick.sql())
        self._settle = Statement("settle", SETTLE_SQL)

    def claim(self, order: ClaimOrder) -> Future[Claim]:
        """Claim rows: a quick claim through the loop's connection if it is free, else any claim
        through the claimer's thread."""
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
        return self.line.ask(
            self._quick_claim, asked.parameters, partial(self._read_claim, order, asked)
        )

    def _read_claim(
        self, order: ClaimOrder, asked: QuickClaim, answer: RowsOrError
    ) -> Claim | Future[Claim]:
        if isinstance(answer, psycopg.Error):
            raise answer
        marked, left = quick.read(asked, answer, self._endpoints)
        if left.lanes or left.is_cut or any(row.payload is None for row in marked):
            return self._finish_claim(order, asked, marked, left)
        taken = Taken(marked, bytes=sum(len(row.payload) for row in marked))
        return complete_claim(order, self._endpoints, taken, left, asked.asked_at)

    def _claim_rest(
        self, order: ClaimOrder, asked: QuickClaim, marked: list[ClaimedDelivery], left: Look
    ) -> Claim:
        """Complete a quick claim that needs more statements, on the claimer's thread."""
        taken = Taken()
        taken.deliveries = keep_light(taken, order.worker_id, marked)
        return complete_claim(order, self._endpoints, taken, left, asked.asked_at)

    def settle(self, worker_id: UUID, batch: ResultBatch) -> Future[Written]:
        """Write results, a small batch through the loop's connection if that is free."""
        is_small = len(batch.records) <= MOST_RESULTS and not batch.effects
        has_next = any(record.is_of_object for record in batch.records)
        if not is_small or has_next or not self.line.is_free:
            return self._settle_by_thread(worker_id, batch)
        results = json.dumps(sorted_by_id([record.result for record in batch.records]))
        parameters = {"worker": worker_id, "results": results}
        return self.line.ask(self._settle, parameters, partial(self._read_settle, worker_id, batch))

    def _read_settle(
        self, worker_id: UUID, batch: ResultBatch, answer: RowsOrError
    ) -> Written | Future[Written]:
        if isinstance(answer, psycopg.Error):
            # The thread isolates a refused row. It skips rows that this statement has already
            # written.
            return self._settle_by_thread(worker_id, batch)
        settled = read_settled(answer)
        if not settled.has_all(batch.records):
            return self._finish_skipped(worker_id, batch, settled)
        written = summarize(batch, settled)
        return self._finish_settle(written) if written.effects else written
