"""The cost of reading from each connection, in processor time and memory, and its limits: pure.

A response may be valid, cheap to send and expensive to read: sent byte by byte, in frames or chunks
without content, or as an endless header. Neither wall time before the timeout nor libcurl's callbacks
show this. So each read is charged to its connection until a request on it has ended. Most requests
end with their first or second read, before anything is charged.
"""

import time
from dataclasses import dataclass

FREE_READS = 32
FREE_SECONDS = 0.004
"""Processor time of a few TLS handshakes."""
FREE_BYTES = 80 * 1024
"""A connection that exceeds any of these three is expensive."""
EXPENSIVE_SHARE = 0.05
"""The share of time that reading from all expensive connections together may take."""
SECONDS_OF_READ = 0.00003
"""Least cost of a read from an expensive connection, with the work before and after it."""
REST_SECONDS = 0.02
"""Shortest rest of an expensive connection between two reads, so that the next read finds more."""
MAX_REST_SECONDS = 5.0
"""Longest rest, however many connections are expensive: a third of the usual timeout."""
MAX_SECONDS = 0.02
"""Most processor time for one request; then it is cut off."""
MAX_BYTES = 256 * 1024
"""Most bytes received for one request, TLS and framing included; a full-size response takes less."""
MAX_BYTES_IN_ALL = 12 * 1024 * 1024
"""Most bytes received for all requests in flight. Above it, a request with more than SHARE_BYTES is
cut off at its next read."""
SHARE_BYTES = 16 * 1024


@dataclass(slots=True)
class Usage:
    """The cost of the reads from one connection since a request on it last ended."""

    seconds: float = 0.0
    """Processor time."""
    reads: int = 0
    bytes: int = 0
    requests: int = 1
    """The known number of requests that share the connection; it has the allowance of each."""

    @property
    def is_expensive(self) -> bool:
        return (
            self.reads >= FREE_READS
            or self.seconds >= FREE_SECONDS
            or self.bytes > FREE_BYTES * self.requests
        )

    def is_over(self, bytes_in_all: int) -> bool:
        """Whether to cut off its requests, given the bytes received for all requests in flight."""
        return (
            self.seconds > MAX_SECONDS * self.requests
            or self.bytes > MAX_BYTES * self.requests
            or (bytes_in_all > MAX_BYTES_IN_ALL and self.bytes > SHARE_BYTES * self.requests)
        )


class Meter:
    """The usage of all connections with a charged read since a request on them last ended."""

    def __init__(self) -> None:
        self.by_socket: dict[int, Usage] = {}
        self.bytes_in_all = 0
        self.noticed: set[int] = set()
        """Sockets that have become expensive or exceed their limits; the sender must find their
        requests."""
        self._expensive_until = 0.0

    def charge(self, fd: int, seconds: float, received: int) -> float | None:
        """Charge a read of `received` bytes and `seconds` of processor time that ended no request.

        Returns the end of the socket's rest (monotonic clock) if it is expensive, else None.
        """
        usage = self.by_socket.get(fd)
        if usage is None:
            usage = self.by_socket[fd] = Usage()
        was_expensive = usage.is_expensive
        usage.reads += 1
        usage.seconds += seconds
        usage.bytes += received
        self.bytes_in_all += received
        if usage.is_over(self.bytes_in_all):
            self.noticed.add(fd)
        if not usage.is_expensive:
            return None
        if not was_expensive:
            self.noticed.add(fd)
        now = time.monotonic()
        turn = max(self._expensive_until, now) + max(seconds, SECONDS_OF_READ) / EXPENSIVE_SHARE
        self._expensive_until = min(turn, now + MAX_REST_SECONDS)
        return max(self._expensive_until, now + REST_SECONDS)

    @property
    def is_full(self) -> bool:
        """Whether the bytes in flight exceed their limit, so that the sender must check at once."""
        return self.bytes_in_all > MAX_BYTES_IN_ALL

    def end(self, fd: int) -> None:
        """Drop the usage of a socket: a request on it, or its connection, has ended."""
        usage = self.by_socket.pop(fd, None)
        if usage is not None:
            self.bytes_in_all -= usage.bytes
            self.noticed.discard(fd)
