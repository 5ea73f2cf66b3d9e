"""Send a command to Valkey without waiting for the reply, which is cheap enough for a commit.

Handing a hint to a thread costs more than sending it. So the committing thread writes it into the
buffer of an open socket, which never blocks, and the next hint reads the reply. A thread sends the
hint if that is impossible: without a connection, with a reply outstanding, or after an error.
"""

import ssl
import threading
import time
from typing import Any

import redis
from redis.exceptions import RedisError

ANSWERS = (b":0\r\n", b":1\r\n")


class Direct:
    """One connection, thread-safe; only open() raises errors."""

    def __init__(self, timeout_seconds: float) -> None:
        self._timeout_seconds = timeout_seconds
        self._lock = threading.Lock()
        self._connection: Any = None
        self._asked_at: float | None = None
        """The monotonic time of the last command without a reply so far."""

    def open(self, client: redis.Redis) -> None:
        """Connect if necessary; waits for Valkey, and raises redis' errors."""
        if self._connection is not None:
            return
        # Outside the client's pool, because this object keeps it.
        pool = client.connection_pool
        connection: Any = pool.connection_class(**pool.connection_kwargs)
        connection.connect()
        connection._sock.setblocking(False)
        with self._lock:
            self._connection, self._asked_at = connection, None

    def send(self, command: bytes) -> bool:
        """Send a command whose reply is 0 or 1, unless that would block; return whether it was sent."""
        if self._connection is None or not self._lock.acquire(blocking=False):
            return False
        try:
            if self._connection is None or not self._is_answered():
                return False
            if self._connection._sock.send(command) == len(command):
                self._asked_at = time.monotonic()
                return True
            self._close()
        except (OSError, RedisError):
            self._close()
        finally:
            self._lock.release()
        return False

    def pack(self, *arguments: Any) -> bytes | None:
        """Return a command's bytes, or None without a connection."""
        connection = self._connection
        return None if connection is None else b"".join(connection.pack_command(*arguments))

    def close(self) -> None:
        """Leave all commands to the thread until open()."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()

    def _is_answered(self) -> bool:
        try:
            answer = self._connection._sock.recv(64)
        except (BlockingIOError, ssl.SSLWantReadError):
            if self._asked_at is None:
                return True
            if time.monotonic() - self._asked_at > self._timeout_seconds:
                self._close()
            return False
        if answer not in ANSWERS:
            # Closed by Valkey, or an error: the thread will meet it and log it.
            self._close()
            return False
        self._asked_at = None
        return True
