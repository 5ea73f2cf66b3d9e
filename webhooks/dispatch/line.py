"""The line: the loop's own connection to Postgres, which it waits for beside the sockets of requests.

It serves statements so small that a hand-over to a thread and back would cost more than they do. The
loop sends a statement, goes on, and reads the rows when they arrive. Behind a pooler that lends
backends there is no line: other clients would inherit its prepared statements
(webhooks/postgres/sql.py).
"""

import logging
import select
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple, Protocol

import psycopg
from django.db import connection
from psycopg.adapt import Transformer
from psycopg.pq import ExecStatus, Format

from webhooks.dispatch.desk import Errand
from webhooks.postgres.sql import has_session_state, numbered, set_up_connection

logger = logging.getLogger(__name__)

MOST_ASKED = 2
"""Most statements that are under way or queued."""
SLOW_SECONDS = 0.05
"""A statement that takes longer probably waits for a lock; the next one must not wait behind it."""

Row = tuple[Any, ...]


class Watcher(Protocol):
    """The object that waits for sockets: the sender (webhooks/wire/many.py)."""

    def watch(self, fd: int, act: Callable[[], None], events: int = select.EPOLLIN) -> None: ...

    def unwatch(self, fd: int) -> None: ...


class Statement:
    """One statement with named parameters, prepared under its own name.

    The parameters go out as text, because Postgres infers their types.
    """

    def __init__(self, name: str, sql: str) -> None:
        self.name = name.encode()
        text, self._names = numbered(sql)
        self.sql = text.encode()

    def bind(self, parameters: Mapping[str, Any]) -> list[bytes]:
        """Return the values in order. They may be numbers, ids, texts, and lists of ids or numbers."""
        return [_as_text(parameters[name]) for name in self._names]


def _as_text(value: Any) -> bytes:
    if isinstance(value, list):
        return ("{" + ",".join(map(str, value)) + "}").encode()
    return str(value).encode()


RowsOrError = list[Row] | psycopg.Error


class Asked(NamedTuple):
    """A statement that was sent or is queued."""

    statement: Statement
    values: list[bytes]
    then: Callable[[RowsOrError], Any]
    future: Future[Any]
    at: float
    """When ask() was called, by the monotonic clock."""

    def answer(self, answer: RowsOrError) -> None:
        try:
            self.future.set_result(self.then(answer))
        except Exception as problem:
            self.future.set_exception(problem)


class Line:
    """One connection, used on the loop's thread only.

    `submit` opens it on a database thread. After an error it is closed and opened again, like the
    connections of the database threads.
    """

    def __init__(self, submit: Callable[..., Future[Any]], name: str, watcher: Watcher) -> None:
        self._submit = submit
        self._name = name
        self._watcher = watcher
        self._opening: Errand[psycopg.Connection[Any]] = Errand("opening of a connection")
        self._opened: Future[Any] = Future()
        self._is_wanted = True
        self._raw: Any = None
        """The open connection, or None."""
        self._fd = -1
        self._prepared: set[bytes] = set()
        self._asked: deque[Asked] = deque()
        self._result: psycopg.pq.abc.PGresult | None = None
        self._is_preparing = False
        self._is_flushed = True

    @property
    def is_free(self) -> bool:
        """Whether ask() may be called now and Postgres would execute the statement soon."""
        if self._raw is None or len(self._asked) >= MOST_ASKED:
            return False
        return not self._asked or time.monotonic() < self._asked[0].at + SLOW_SECONDS

    def order(self, now: float) -> None:
        """Start to open the connection if it is closed and a try is due."""
        is_due = self._is_wanted and not self._opening.is_under_way
        if is_due and now >= self._opening.not_before:
            self._is_wanted = False
            self._opened = self._submit(self._name)
            self._opening.begin(self._opened)

    def collect(self) -> None:
        """Take over the connection once it is open."""
        ended = self._opening.collect()
        if ended is None:
            return
        self._is_wanted = ended.problem is not None
        if ended.value is not None:
            self._raw = ended.value
            self._raw.pgconn.nonblocking = 1
            self._fd = self._raw.fileno()
            self._watcher.watch(self._fd, self._act)

    def ask(
        self,
        statement: Statement,
        parameters: Mapping[str, Any],
        then: Callable[[RowsOrError], Any],
    ) -> Future[Any]:
        """Send a statement; call only while `is_free`. Return a future with the result of `then`,
        which gets the rows or the error.

        `then` runs while the loop waits for sockets and must not call ask(). The future raises
        what `then` raises.
        """
        asked = Asked(statement, statement.bind(parameters), then, Future(), time.monotonic())
        self._asked.append(asked)
        if len(self._asked) == 1:
            self._try(self._send)
        return asked.future

    def close(self) -> None:
        """Drop the statements under way and close the connection; Postgres may still execute them."""
        self._asked.clear()
        self._disconnect()
        self._is_wanted = False
        if self._opening.is_under_way:
            self._opened.add_done_callback(_close_unused)

    def _disconnect(self) -> None:
        if self._raw is not None:
            self._watcher.unwatch(self._fd)
            self._raw.close()
        self._raw = self._result = None
        self._prepared.clear()
        self._is_preparing, self._is_flushed = False, True

    def _try(self, step: Callable[[], None]) -> None:
        try:
            step()
        except psycopg.Error as problem:
            self._disconnect()
            self._is_wanted = True
            failed, self._asked = self._asked, deque()
            for asked in failed:
                asked.answer(problem)

    def _send(self) -> None:
        pgconn = self._raw.pgconn
        statement, values, *_ = self._asked[0]
        self._is_preparing = statement.name not in self._prepared
        if self._is_preparing:
            pgconn.send_prepare(statement.name, statement.sql)
        else:
            pgconn.send_query_prepared(statement.name, values, result_format=Format.BINARY)
        self._flush()

    def _flush(self) -> None:
        was_flushed, self._is_flushed = self._is_flushed, self._raw.pgconn.flush() == 0
        if self._is_flushed != was_flushed:
            events = select.EPOLLIN | (0 if self._is_flushed else select.EPOLLOUT)
            self._watcher.watch(self._fd, self._act, events)

    def _act(self) -> None:
        """Read and write: the socket is ready."""
        self._try(self._receive)

    def _receive(self) -> None:
        pgconn = self._raw.pgconn
        pgconn.consume_input()
        if not self._is_flushed:
            self._flush()
        while self._asked and not pgconn.is_busy():
            result = pgconn.get_result()
            if result is not None:
                self._result = result
            elif self._result is not None:
                self._take(self._result)

    def _take(self, result: psycopg.pq.abc.PGresult) -> None:
        """Handle the end of a statement or of its preparation, and send the next one."""
        self._result = None
        answer: RowsOrError
        if result.status in (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK):
            answer = _rows(self._raw, result)
        else:
            answer = psycopg.errors.error_from_result(result)
            if not isinstance(answer, psycopg.DataError | psycopg.IntegrityError):
                # The prepared statement may not fit a table that was altered since.
                raise answer
        if self._is_preparing:
            self._prepared.add(self._asked[0].statement.name)
        else:
            self._asked.popleft().answer(answer)
        if self._asked:
            self._send()


def _rows(raw: psycopg.Connection[Any], result: psycopg.pq.abc.PGresult) -> list[Row]:
    reader = Transformer(raw)
    reader.set_pgresult(result, format=Format.BINARY)
    rows: Sequence[Row] = reader.load_rows(0, result.ntuples, tuple)
    return list(rows)


def _close_unused(opened: Future[psycopg.Connection[Any] | None]) -> None:
    if opened.exception() is None and (raw := opened.result()) is not None:
        raw.close()


def open_connection(name: str) -> psycopg.Connection[Any] | None:
    """Return a new connection for a line, named `name` in Postgres; None behind a pooler.

    Runs on a database thread, because connecting may take long.
    """
    wrapper = connection.copy()
    wrapper.connect()
    if not has_session_state(wrapper):
        wrapper.close()
        return None
    set_up_connection(name, wrapper)
    raw: psycopg.Connection[Any] = wrapper.connection
    return raw
