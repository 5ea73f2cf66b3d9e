"""The pop of RQ's queue, waited for by the dispatcher's loop instead of RQ's thread.

A wake-up is popped, heard and done with on the loop's thread. RQ's thread sleeps meanwhile; it is
given what else is popped, and whatever goes wrong.

While the dispatcher is busy a wake-up is left where it is, and keeps commits silent
(webhooks/outbox/hints.py): another worker may pop it, and this one claims again anyway.
"""

import math
import queue
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from redis import Redis
from redis.exceptions import ConnectionError as UnreachableError
from redis.exceptions import RedisError, ResponseError, TimeoutError
from rq.intermediate_queue import IntermediateQueue
from rq.job import Job

from webhooks.dispatch.guests import Guests
from webhooks.outbox import hints

BUSY_SECONDS = 0.05
"""How long a busy dispatcher leaves the queue alone: what else lies there need not wait for a drain."""
GRACE_SECONDS = 5.0
"""How long an answer may be overdue before Valkey counts as away."""
CONSUMED_AT_ONCE = 16
"""Wake-ups that are taken off RQ's books together."""
CONSUMED_SECONDS = 1.0
"""How long they may stay there when no more come."""
READ_BYTES = 65536


class HandedBack:
    """What RQ's thread is told when the loop waits no longer."""


Answer = bytes | Exception | HandedBack | None


class Popper:
    """Only pop(), settle() and client_id are for RQ's thread; all else is the loop's."""

    def __init__(
        self,
        loop: Guests,
        hear: Callable[[], None],
        *,
        is_busy: Callable[[], bool],
        is_stopping: Callable[[], bool],
    ) -> None:
        """`hear` is told of wake-ups; `is_busy` says that the dispatcher will claim without them."""
        self._loop = loop
        self._hear = hear
        self._is_busy = is_busy
        self._is_stopping = is_stopping
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._connection: Any = None
        self.client_id: int | None = None
        """Of the connection that waits, by which it can be unblocked."""
        self._queue_key = ""
        self._until = 0.0
        self._is_watched = False
        self._is_popping = False
        self._ignored = 0
        """How many answers come before that to the pop."""
        self._received = b""
        self._popped_at = -math.inf
        self._consumed: list[str] = []

    # On RQ's thread.

    def pop(self, client: Redis, queue_key: str, seconds: float) -> bytes | None:
        """Return the next job id that is no wake-up, moved to RQ's intermediate queue; None after
        these seconds, or where the worker is to stop.

        Raises redis' errors.
        """
        if self._connection is None:
            self._connect(client)
        self._queue_key = queue_key
        self._until = time.monotonic() + seconds
        if not self._loop.call_soon(self._begin):
            return None
        answer = self._answers.get()
        if isinstance(answer, HandedBack):
            answer = self._wait_for_answer()
        if isinstance(answer, Exception):
            self._disconnect(client)
            raise answer
        return answer

    def settle(self, client: Redis) -> None:
        """Take the last wake-ups off RQ's books, when no more are to be popped."""
        if self._consumed:
            pipeline: Any = client.pipeline(transaction=False)
            with pipeline:
                for command in self._settling():
                    pipeline.execute_command(*command)
                pipeline.execute()
            self._consumed.clear()

    def _connect(self, client: Redis) -> None:
        connection: Any = client.connection_pool.get_connection()
        try:
            connection.send_command("CLIENT", "ID")
            with suppress(ResponseError):  # not allowed to this user: nobody can unblock it
                self.client_id = connection.read_response()
            connection._sock.setblocking(False)
        except RedisError:
            client.connection_pool.release(connection)
            raise
        self._connection = connection
        self._received, self._ignored, self._is_popping = b"", 0, False

    def _disconnect(self, client: Redis) -> None:
        connection, self._connection, self.client_id = self._connection, None, None
        connection.disconnect()
        client.connection_pool.release(connection)

    def _wait_for_answer(self) -> Any:
        """Wait as RQ does for the pop that is under way."""
        sock = self._connection._sock
        sock.settimeout(max(0.0, self._until - time.monotonic()) + GRACE_SECONDS)
        try:
            while self._is_popping:
                self._receive()
        except (OSError, ValueError, RedisError) as problem:
            return UnreachableError(str(problem))
        sock.setblocking(False)
        # A wake-up and the end of the time leave none.
        return None if self._answers.empty() else self._answers.get()

    # On the loop's thread.

    def _begin(self) -> None:
        self._loop.watch(self._connection._sock.fileno(), self._readable)
        self._is_watched = True

    def due_at(self) -> float:
        """When order() is to be called at the latest, by the monotonic clock."""
        if not self._is_watched:
            return math.inf
        return self._until + GRACE_SECONDS if self._is_popping else self._popped_at + BUSY_SECONDS

    def order(self, now: float) -> None:
        """Pop when it is time to."""
        if not self._is_watched:
            return
        if self._is_popping:
            if now > self._until + GRACE_SECONDS:
                self._end(TimeoutError("A pop is not answered."))
        elif now >= self._until or self._is_stopping():
            self._end(None)
        elif not self._is_busy() or now >= self._popped_at + BUSY_SECONDS:
            self._pop(now)

    def leave(self) -> None:
        """Leave what is under way to RQ's thread: the loop ends."""
        if self._is_watched:
            self._end(HandedBack())

    def _end(self, answer: Answer) -> None:
        self._loop.unwatch(self._connection._sock.fileno())
        self._is_watched = False
        self._answers.put(answer)

    def _pop(self, now: float) -> None:
        commands = []
        seconds = max(self._until - now, 0.001)
        if len(self._consumed) >= CONSUMED_AT_ONCE or (
            self._consumed and now >= self._popped_at + CONSUMED_SECONDS
        ):
            commands = self._settling()
            self._ignored = len(commands)
            self._consumed.clear()
        elif self._consumed:
            seconds = min(seconds, CONSUMED_SECONDS)
        intermediate = IntermediateQueue.get_intermediate_queue_key(self._queue_key)
        commands.append(("BLMOVE", self._queue_key, intermediate, "LEFT", "RIGHT", seconds))
        data = b"".join(self._connection.pack_commands(commands))
        self._is_popping = True
        try:
            is_sent = self._connection._sock.send(data) == len(data)
        except OSError as problem:
            self._end(UnreachableError(str(problem)))
            return
        if not is_sent:
            self._end(UnreachableError("Valkey reads nothing."))

    def _settling(self) -> list[tuple[Any, ...]]:
        intermediate = IntermediateQueue.get_intermediate_queue_key(self._queue_key)
        return [
            ("DEL", *map(Job.key_for, self._consumed)),
            *(("LREM", intermediate, 1, job_id) for job_id in self._consumed),
        ]

    def _readable(self) -> None:
        try:
            self._receive()
        except (BlockingIOError, ssl.SSLWantReadError):
            return
        except (OSError, ValueError, RedisError) as problem:
            self._end(UnreachableError(str(problem)))

    def _receive(self) -> None:
        """Read what has come, and take the answers in it."""
        while self._is_watched or self._is_popping:
            data = self._connection._sock.recv(READ_BYTES)
            if not data:
                raise UnreachableError("Connection closed by server.")
            self._received += data
            while self._is_popping and (reply := read_reply(self._received)) is not None:
                size, value = reply
                self._received = self._received[size:]
                if self._ignored:
                    self._ignored -= 1
                else:
                    self._is_popping = False
                    self._take(value)

    def _take(self, value: Answer) -> None:
        if value is None:
            return
        if isinstance(value, bytes) and value.startswith(hints.JOB_ID_PREFIX.encode()):
            self._consumed.append(value.decode())
            self._popped_at = time.monotonic()
            self._hear()
        elif self._is_watched:
            self._end(value)
        else:
            self._answers.put(value)


def read_reply(data: bytes) -> tuple[int, bytes | ResponseError | None] | None:
    """Return the size and the value of the reply that `data` begins with; None where it is cut off.

    A number and a status are returned as their text. Raises ValueError for what none of our commands
    is answered with.
    """
    end = data.find(b"\r\n")
    if end < 0:
        return None
    kind, line = data[:1], data[1:end]
    if kind in (b":", b"+"):
        return end + 2, line
    if kind == b"-":
        return end + 2, ResponseError(line.decode(errors="replace"))
    if kind == b"_" or (kind in (b"$", b"*") and line == b"-1"):
        return end + 2, None
    if kind != b"$":
        raise ValueError(f"Valkey answers {data[:40]!r}.")
    size = end + 2 + int(line) + 2
    return (size, data[end + 2 : size - 2]) if len(data) >= size else None
