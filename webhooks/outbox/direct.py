"""Send a command to Valkey without waiting for the answer: what a commit can afford by itself.

Handing a hint to a thread costs more than sending it. So whoever commits puts it into the buffer of a
socket that is open, which never waits; the answer is read before the next one. A thread does it
wherever that cannot be done: no connection, an answer that is still to come, any trouble.
"""

import ssl
import threading
import time
from typing import Any

import redis
from redis.exceptions import RedisError

ANSWERS = (b":0\r\n", b":1\r\n")


class Direct:
    """One connection; safe from any thread, and silent about what goes wrong."""

    def __init__(self, timeout_seconds: float) -> None:
        self._timeout_seconds = timeout_seconds
        self._lock = threading.Lock()
        self._connection: Any = None
        self._asked_at: float | None = None
        """When something was sent whose answer is not read, by the monotonic clock."""

    def open(self, client: redis.Redis) -> None:
        """Connect, if that is to be done; waits for Valkey, and raises redis' errors."""
        if self._connection is not None:
            return
        # Not of the client's pool: it stays here for good.
        pool = client.connection_pool
        connection: Any = pool.connection_class(**pool.connection_kwargs)
        connection.connect()
        connection._sock.setblocking(False)
        with self._lock:
            self._connection, self._asked_at = connection, None

    def send(self, command: bytes) -> bool:
        """Send a command that is answered with 0 or 1, if that needs no waiting; False otherwise."""
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
        """Return a command as it goes out, or None without a connection."""
        connection = self._connection
        return None if connection is None else b"".join(connection.pack_command(*arguments))

    def close(self) -> None:
        """Leave all to the thread until open()."""
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
            # Closed by Valkey, or an error: the thread will run into it, and say so.
            self._close()
            return False
        self._asked_at = None
        return True
