"""Database work beside the loop: threads with one connection each, and the errands they run.

The loop never waits for a query. A desk starts an errand on a thread and collects the result in a
later turn. An errand that failed is not started again for a while; other errands are not held up.
"""

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

from django.db import DatabaseError, InterfaceError, connection

from webhooks.postgres.sql import is_unavailable, set_up_connection

logger = logging.getLogger(__name__)

FIRST_BACKOFF_SECONDS = 0.2
LONGEST_BACKOFF_SECONDS = 5.0

Value = TypeVar("Value")


class DatabaseThread:
    """One thread with one connection, which runs the submitted work in order.

    The thread calls `on_done` whenever a piece of work has ended, and `on_failure` before that if it
    failed for Postgres.
    """

    def __init__(
        self, name: str, on_done: Callable[[], None], on_failure: Callable[[], None]
    ) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._on_done = on_done
        self._on_failure = on_failure

    def submit(self, connection_name: str, work: Callable[..., Value], *args: Any) -> Future[Value]:
        """Run `work` on this thread; a new connection gets `connection_name` in Postgres."""
        future = self._executor.submit(with_fresh_connection, connection_name, work, *args)
        future.add_done_callback(self._note_end)
        return future

    def _note_end(self, future: Future[Any]) -> None:
        problem = future.exception()
        if problem is not None and is_unavailable(problem):
            self._on_failure()
        self._on_done()

    def disconnect(self) -> None:
        """Close the connection once the work submitted before has ended."""
        # The lambda reads `connection` on that thread: Django keeps one connection per thread.
        self._executor.submit(lambda: connection.close())

    def shut_down(self, *, wait: bool) -> None:
        self._executor.shutdown(wait=wait)


class DatabaseThreads:
    """The claimer claims rows and gives rows back, never both at once. The recorder writes results
    and beats. With `is_one`, one thread does all of it."""

    def __init__(self, on_done: Callable[[], None], *, is_one: bool) -> None:
        self._has_failed = False
        self._claimer = DatabaseThread("webhooks-claimer", on_done, self._note_failure)
        self._recorder = self._claimer
        if not is_one:
            self._recorder = DatabaseThread("webhooks-recorder", on_done, self._note_failure)
        self.connection_name = ""
        """The name in Postgres of connections that later work opens."""

    def on_claimer(self, work: Callable[..., Value]) -> Callable[..., Future[Value]]:
        """Return a function that has the claimer do `work`, on a connection named after the
        worker's present life."""
        return partial(self._claimer.submit, self.connection_name, work)

    def on_recorder(self, work: Callable[..., Value]) -> Callable[..., Future[Value]]:
        """Return a function that has the recorder do `work`, on a connection named after the
        worker's present life."""
        return partial(self._recorder.submit, self.connection_name, work)

    def take_failure(self) -> bool:
        """Return whether any work has failed for Postgres since the last call.

        A server that takes over may have forgotten claims and results that the one before it had
        confirmed: their commits are not waited for. Each connection finds out at its next use, the
        recorder's with the next beat at the latest, after all results that it was told of.
        """
        has_failed = self._has_failed
        if has_failed:
            self._has_failed = False
        return has_failed

    def _note_failure(self) -> None:
        self._has_failed = True

    def disconnect(self) -> None:
        for thread in {self._claimer, self._recorder}:
            thread.disconnect()

    def shut_down(self, *, wait: bool) -> None:
        for thread in (self._claimer, self._recorder):
            thread.shut_down(wait=wait)


class Ended(NamedTuple, Generic[Value]):
    """The end of an errand: its value, or the exception it raised."""

    value: Value | None
    problem: BaseException | None


class Errand(Generic[Value]):
    """One piece of work at a time on a database thread.

    After a failure it waits before the next try, twice as long each time.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._future: Future[Value] | None = None
        self._backoff_seconds = 0.0
        self.not_before = 0.0
        """The earliest time of the next try after a failure, by the monotonic clock."""

    @property
    def is_under_way(self) -> bool:
        return self._future is not None

    def begin(self, future: Future[Value]) -> None:
        self._future = future

    def collect(self) -> Ended[Value] | None:
        """Return its end, once; None while it is under way or was not begun.

        If the work returns a future, the errand waits for that future.
        """
        if self._future is None or not self._future.done():
            return None
        future, self._future = self._future, None
        problem = future.exception()
        if problem is None:
            value = future.result()
            if isinstance(value, Future):
                self._future = value
                return None
            self._backoff_seconds = 0.0
            return Ended(value, None)
        self._backoff_seconds = min(
            max(self._backoff_seconds * 2, FIRST_BACKOFF_SECONDS), LONGEST_BACKOFF_SECONDS
        )
        self.not_before = time.monotonic() + self._backoff_seconds
        logger.error(
            "The %s failed, next try in %.1f s: %s",
            self._name, self._backoff_seconds, problem, exc_info=problem,
        )  # fmt: skip
        return Ended(None, problem)

    def drop(self) -> None:
        """Forget the work under way: it belongs to a life that has ended."""
        self._future = None


def with_fresh_connection(name: str, work: Callable[..., Value], *args: Any) -> Value:
    """Run `work`. After a database error the next call opens a new connection, named `name`.

    The old connection may have been cut, or its prepared statements may not fit a table that was
    altered since.
    """
    try:
        if connection.connection is None:
            set_up_connection(name)
        return work(*args)
    except (DatabaseError, InterfaceError):
        connection.close()
        raise
