"""What reading from each connection costs, in processor time and memory, and what it may cost: pure.

An answer may be valid, cheap to send and dear to read: byte by byte, in frames or chunks without
content, in a header that never ends. Nothing of that is seen in wall time before the timeout, nor in
what libcurl hands over. So each read is charged to its connection until a request on it has ended.
Most end with their first or second read, before anything is charged to them.
"""

import time
from dataclasses import dataclass

FREE_READS = 32
FREE_SECONDS = 0.004
"""Of processor time: some TLS handshakes."""
FREE_BYTES = 80 * 1024
"""Beyond any of the three a connection is dear."""
EXPENSIVE_SHARE = 0.05
"""How much of the time reading from all dear connections together may take."""
SECONDS_OF_READ = 0.00003
"""What a read of a dear connection costs at least, with all that is done before and after it."""
REST_SECONDS = 0.02
"""How long a dear connection is not read from at least, so that the next read finds more."""
MAX_REST_SECONDS = 5.0
"""And at most, however many are dear: a third of the usual timeout."""
MAX_SECONDS = 0.02
"""Of processor time for one request; then it is cut off."""
MAX_BYTES = 256 * 1024
"""Received for one request, TLS and framing included: what is read of an answer takes less."""
MAX_BYTES_IN_ALL = 12 * 1024 * 1024
"""Received for all requests that have not ended. Beyond it those are cut off, as they are read from,
that have more than their share of it."""
SHARE_BYTES = 16 * 1024


@dataclass(slots=True)
class Usage:
    """What the requests on one connection have cost since one of them ended."""

    seconds: float = 0.0
    """Of processor time."""
    reads: int = 0
    bytes: int = 0
    requests: int = 1
    """Which share the connection, as far as is known; it has the allowance of each."""

    @property
    def is_expensive(self) -> bool:
        return (
            self.reads >= FREE_READS
            or self.seconds >= FREE_SECONDS
            or self.bytes > FREE_BYTES * self.requests
        )

    def is_over(self, bytes_in_all: int) -> bool:
        """Whether its requests are to be cut off, where all together have received so much."""
        return (
            self.seconds > MAX_SECONDS * self.requests
            or self.bytes > MAX_BYTES * self.requests
            or (bytes_in_all > MAX_BYTES_IN_ALL and self.bytes > SHARE_BYTES * self.requests)
        )


class Meter:
    """The usage of all connections on which a request has not ended with its first read."""

    def __init__(self) -> None:
        self.by_socket: dict[int, Usage] = {}
        self.bytes_in_all = 0
        self.noticed: set[int] = set()
        """The sockets that have become dear, or are over their allowance: somebody is to look who
        sends on them."""
        self._expensive_until = 0.0

    def charge(self, fd: int, seconds: float, received: int) -> float | None:
        """A read took so long, of so many bytes, and no request has ended by it.

        Returns until when the socket is to rest (monotonic clock), where it is dear.
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
        """Whether so much was received that it matters at once who has most of it."""
        return self.bytes_in_all > MAX_BYTES_IN_ALL

    def end(self, fd: int) -> None:
        """A request on it has ended, or the connection has."""
        usage = self.by_socket.pop(fd, None)
        if usage is not None:
            self.bytes_in_all -= usage.bytes
            self.noticed.discard(fd)
