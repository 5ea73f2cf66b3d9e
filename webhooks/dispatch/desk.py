"""Database work beside the loop: threads with a connection each, and errands that run on them.

The loop never waits for a query. A desk gives an errand to its thread, goes on, and collects the
result later; an errand that failed is left alone for a while, and the others are not.
"""

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

from django.db import DatabaseError, InterfaceError, connection

from webhooks.postgres.sql import set_up_connection

logger = logging.getLogger(__name__)

FIRST_BACKOFF_SECONDS = 0.2
LONGEST_BACKOFF_SECONDS = 5.0

Value = TypeVar("Value")


class DatabaseThread:
    """One thread with one connection; what is submitted runs in order.

    `on_done` is called, on that thread, whenever something has ended.
    """

    def __init__(self, name: str, on_done: Callable[[], None]) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._on_done = on_done

    def submit(self, connection_name: str, work: Callable[..., Value], *args: Any) -> Future[Value]:
        """Run `work` on this thread; a new connection is called `connection_name` in Postgres."""
        future = self._executor.submit(with_fresh_connection, connection_name, work, *args)
        future.add_done_callback(lambda _: self._on_done())
        return future

    def disconnect(self) -> None:
        """Close the connection, after what was submitted before."""
        # Looked up there: each thread has a connection of its own.
        self._executor.submit(lambda: connection.close())

    def shut_down(self, *, wait: bool) -> None:
        self._executor.shutdown(wait=wait)


class DatabaseThreads:
    """The claimer, which also gives back so that it never claims meanwhile, and the recorder, which
    also beats; with `is_one` a single thread is both."""

    def __init__(self, on_done: Callable[[], None], *, is_one: bool) -> None:
        self._claimer = DatabaseThread("webhooks-claimer", on_done)
        self._recorder = self._claimer
        if not is_one:
            self._recorder = DatabaseThread("webhooks-recorder", on_done)
        self.connection_name = ""
        """Of connections for what is submitted from now on."""

    def on_claimer(self, work: Callable[..., Value]) -> Callable[..., Future[Value]]:
        """Return a function that has `work` done by the claimer, in the name of today."""
        return partial(self._claimer.submit, self.connection_name, work)

    def on_recorder(self, work: Callable[..., Value]) -> Callable[..., Future[Value]]:
        """Return a function that has `work` done by the recorder, in the name of today."""
        return partial(self._recorder.submit, self.connection_name, work)

    def disconnect(self) -> None:
        for thread in {self._claimer, self._recorder}:
            thread.disconnect()

    def shut_down(self, *, wait: bool) -> None:
        for thread in (self._claimer, self._recorder):
            thread.shut_down(wait=wait)


class Ended(NamedTuple, Generic[Value]):
    """How an errand ended: with a value, or with a problem."""

    value: Value | None
    problem: BaseException | None


class Errand(Generic[Value]):
    """One piece of work at a time on a database thread; after a failure it rests, longer each time."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._future: Future[Value] | None = None
        self._backoff_seconds = 0.0
        self.not_before = 0.0
        """By the monotonic clock: when it may be ordered again after a failure."""

    @property
    def is_under_way(self) -> bool:
        return self._future is not None

    def begin(self, future: Future[Value]) -> None:
        self._future = future

    def collect(self) -> Ended[Value] | None:
        """Return how it ended, once; None while it is under way or was not begun.

        What ends with another future goes on with that.
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
        """Forget what is under way: it belongs to a life that has ended."""
        self._future = None


def with_fresh_connection(name: str, work: Callable[..., Value], *args: Any) -> Value:
    """Run `work`; after an error of the database the next one starts with a new connection, which
    then is called `name` in Postgres.

    The old one may have been cut, or what is prepared on it may not fit a table that was altered since.
    """
    try:
        if connection.connection is None:
            set_up_connection(name)
        return work(*args)
    except (DatabaseError, InterfaceError):
        connection.close()
        raise
