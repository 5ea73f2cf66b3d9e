"""One connection to Postgres for the threads of a process, which take turns with it.

An application server hands its requests to its threads in turn. With a connection for each thread,
each statement meets another backend of Postgres, whose memory has left the processor's caches, and each
backend prepares the same statements and keeps the same tables' descriptions.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from django.db import DEFAULT_DB_ALIAS, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from webhooks.postgres.sql import is_read_only


class SharedConnection:
    """A connection that stands in for the thread's default one in a block."""

    def __init__(self) -> None:
        self.turn = threading.Lock()
        self._connection: BaseDatabaseWrapper | None = None

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Wait for its turn; not to be nested. A thread in a transaction keeps its own connection."""
        with self.turn, self._in_place():
            yield

    @contextmanager
    def taken_if_free(self) -> Iterator[None]:
        """The same without waiting: if another thread has it, this one uses its own."""
        if not self.turn.acquire(blocking=False):
            yield
            return
        try:
            with self._in_place():
                yield
        finally:
            self.turn.release()

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        own = connections[DEFAULT_DB_ALIAS]
        if own.in_atomic_block:
            yield
            return
        if self._connection is None:
            self._connection = connections.create_connection(DEFAULT_DB_ALIAS)
            self._connection.inc_thread_sharing()
        connections[DEFAULT_DB_ALIAS] = self._connection
        try:
            yield
        except BaseException as problem:
            self._connection.errors_occurred = True
            if is_read_only(problem):
                self._connection.close()
            raise
        finally:
            connections[DEFAULT_DB_ALIAS] = own
            # As Django does at the end of a request.
            self._connection.close_if_unusable_or_obsolete()

    def close(self) -> None:
        """Close the connection; the next use opens another one."""
        with self.turn:
            if self._connection is not None:
                self._connection.close()

    def start_afresh(self) -> None:
        """Leave turn and connection to the process that this one was forked from."""
        self.turn = threading.Lock()
        self._connection = None


shared = SharedConnection()
os.register_at_fork(after_in_child=shared.start_afresh)
