"""Group commit: one statement stores the events of concurrent requests of a process.

A single request stores its events at once, on its own thread. Requests that arrive during a
statement wait for its end; then the first of them stores the events of all. No request returns
before its events are committed, and each gets its own results. All such statements take turns with
one connection (webhooks/postgres/shared.py).

A batch is one statement, committed as a whole or not at all. If it fails for any reason, each request
stores its own events on its own thread and connection, so that no request fails for another one's
events. The ids stay the same, so a request finds the events of a batch with an unknown outcome if it
did commit, and waits for it if it is still running. A crash leaves at most such a batch, whose
requests got no response.
"""

import logging
import os
import threading
from collections.abc import Sequence
from functools import partial
from uuid import UUID

from django.db import Error, IntegrityError, connection

from webhooks.errors import StorageUnavailableError
from webhooks.models import Event
from webhooks.outbox import tracing
from webhooks.outbox.batch import Result, store_each
from webhooks.outbox.store import store_events
from webhooks.postgres.shared import shared
from webhooks.postgres.sql import is_read_only, is_unavailable

logger = logging.getLogger(__name__)

MAX_BATCH_EVENTS = 1000
MAX_BATCH_BYTES = 1024 * 1024
MAX_JOINING_EVENTS = 10
MAX_JOINING_BYTES = 32 * 1024
"""The maximum events of a request in a batch; a larger one would only delay the others."""
PATIENCE_MS = 5
"""How long a batch waits for a lock, for example of a transaction that stores the same key."""


class Batch:
    """The requests that one statement stores, and their results."""

    def __init__(self) -> None:
        self.results: list[Result] = []
        self.size_bytes = 0
        self.done = threading.Event()
        self.answers: list[Result] | None = None
        """In the order of `results`; None if each request must store its own events."""

    def has_room_for(self, count: int, size_bytes: int) -> bool:
        return (
            len(self.results) + count <= MAX_BATCH_EVENTS
            and self.size_bytes + size_bytes <= MAX_BATCH_BYTES
        )


class Committer:
    """Makes the threads of a process take turns at storing."""

    def __init__(self) -> None:
        self._joining = threading.Lock()
        self._open: Batch | None = None

    def store(self, results: Sequence[Result]) -> list[Result]:
        """Store the events among the results like batch.store_each(); return once they are committed.

        Inside a transaction of the caller, stores them in it. Raises StorageUnavailableError if it
        is unknown whether they are stored: with an idempotency key the caller can try again.
        """
        # Here, on the thread of the request: the leader's statement stores the events of many.
        events = [one for one in results if isinstance(one, Event)]
        with tracing.storing(events):
            return self._store(results, events)

    def _store(self, results: Sequence[Result], events: Sequence[Event]) -> list[Result]:
        if connection.in_atomic_block:
            return store_each(results)
        size_bytes = sum(len(event.payload) for event in events)
        if len(results) > MAX_JOINING_EVENTS or size_bytes > MAX_JOINING_BYTES:
            return store_alone(results)
        batch, start = self._join(results, size_bytes)
        if start == 0:
            self._lead(batch)
        else:
            batch.done.wait()
        if batch.answers is None:
            return store_alone(results)
        return batch.answers[start : start + len(results)]

    def _join(self, results: Sequence[Result], size_bytes: int) -> tuple[Batch, int]:
        with self._joining:
            batch = self._open
            if batch is None or not batch.has_room_for(len(results), size_bytes):
                batch = self._open = Batch()
            start = len(batch.results)
            batch.results.extend(results)
            batch.size_bytes += size_bytes
            return batch, start

    def _lead(self, batch: Batch) -> None:
        """Store a batch after the previous one; until then other requests join it."""
        try:
            with shared.taken():
                self._close(batch)
                _skip_health_check()
                store = partial(store_events, lock_timeout_ms=PATIENCE_MS)
                batch.answers = store_each(batch.results, store)
        except Exception as problem:  # each request then stores its own events
            logger.info("%d events are stored one by one: %s", len(batch.results), problem)
        finally:
            self._close(batch)
            batch.done.set()

    def _close(self, batch: Batch) -> None:
        with self._joining:
            if self._open is batch:
                self._open = None


def store_alone(results: Sequence[Result]) -> list[Result]:
    """Store the events of one request; see Committer.store().

    A batch may have tried these events before. A failed attempt is repeated once: a broken
    connection, a lock or a deleted webhook may have caused it.
    """
    try:
        return _attempt(results)
    except Error as problem:
        logger.info("%d events are stored once more: %s", len(results), problem)
    try:
        return _attempt(results)
    except Error as problem:
        if not is_unavailable(problem):
            raise
        logger.warning("%d events could not be stored: %s", len(results), problem)
        raise StorageUnavailableError from problem


def _attempt(results: Sequence[Result]) -> list[Result]:
    _skip_health_check()
    try:
        return store_each(results, _store_again)
    except Error as problem:
        _drop_useless_connection(problem)
        raise


def _store_again(events: Sequence[Event]) -> set[UUID]:
    try:
        return store_events(events)
    except IntegrityError:
        # The previous attempt was committed, although its connection broke.
        ids = [event.id for event in events]
        counts = dict(Event.objects.filter(id__in=ids).values_list("id", "fanout_count"))
        if not counts:
            raise
        for event in events:
            event.fanout_count = counts.get(event.id, 0)
        return set(counts)


def _skip_health_check() -> None:
    # The check costs a round trip per batch; a failure replaces a dead connection anyway.
    connection.health_check_done = True  # type: ignore[attr-defined]


def _drop_useless_connection(problem: Error) -> None:
    if connection.connection is None:
        return
    if is_read_only(problem) or not connection.is_usable():
        connection.close()


committer = Committer()


def _start_afresh() -> None:
    # In a forked child, locks that another thread held stay locked for ever.
    global committer
    committer = Committer()


os.register_at_fork(after_in_child=_start_afresh)
