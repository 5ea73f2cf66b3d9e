"""What a worker holds: how much more may start, and which requests have become slow.

A request that is not answered within SLOW_SECONDS gives its place to others: hanging receivers
could otherwise fill all places with requests that nobody answers (invariant 9).
"""

import time
from collections import deque
from dataclasses import dataclass, field
from uuid import UUID

from webhooks.dispatch.claim import ClaimedDelivery
from webhooks.dispatch.endpoints import Endpoint
from webhooks.dispatch.window import Windows
from webhooks.transport import Post

MAX_QUICK = 512
"""Requests in flight that are not slow."""
MAX_IN_FLIGHT = 1536
"""Requests in flight, slow ones included."""
MAX_BYTES = 96 * 1024 * 1024
"""Payloads in flight."""
MAX_CLAIM_BYTES = 16 * 1024 * 1024
SLOW_SECONDS = 1.0


@dataclass(slots=True)
class Sent:
    """One request in flight."""

    delivery: ClaimedDelivery
    endpoint: Endpoint
    request: Post
    attempt_id: UUID
    started_at: float
    """By the monotonic clock."""
    is_slow: bool = False
    is_over: bool = False


@dataclass
class Flight:
    """The book of what is in flight, and the windows of its webhooks."""

    windows: Windows = field(default_factory=Windows)
    count: int = 0
    slow: int = 0
    bytes: int = 0
    ids: set[UUID] = field(default_factory=set)
    """Of the deliveries in flight."""
    _recent: deque[Sent] = field(default_factory=deque)
    _typical_bytes: float = 1024.0

    @property
    def room(self) -> int:
        """How many more rows may be claimed now."""
        by_count = min(MAX_QUICK - (self.count - self.slow), MAX_IN_FLIGHT - self.count)
        by_bytes = min(MAX_BYTES - self.bytes, MAX_CLAIM_BYTES) // self._typical_bytes
        # Never stuck: one row at least while nothing is in flight, however large.
        return max(int(min(by_count, by_bytes)), 0 if self.count else 1)

    def took(self, deliveries: list[ClaimedDelivery]) -> None:
        """Learn from a claim how large payloads are; large ones are remembered for a while."""
        if deliveries:
            largest = max(len(delivery.payload) for delivery in deliveries)
            self._typical_bytes = max(float(largest), self._typical_bytes * 0.8, 1024.0)

    def begin(self, sent: Sent) -> None:
        self.count += 1
        self.ids.add(sent.delivery.id)
        self.bytes += len(sent.delivery.payload)
        self.windows.take(sent.delivery.webhook_id)
        self._recent.append(sent)

    def end(self, sent: Sent, *, succeeded: bool, duration_ms: int) -> None:
        self.count -= 1
        self.ids.discard(sent.delivery.id)
        self.slow -= sent.is_slow
        self.bytes -= len(sent.delivery.payload)
        sent.is_over = True
        if succeeded:
            self.windows.succeeded(sent.delivery.webhook_id, duration_ms)
        else:
            self.windows.failed(sent.delivery.webhook_id)

    def find_slow(self) -> None:
        """Move requests that wait too long for their answer out of the way of others."""
        horizon = time.monotonic() - SLOW_SECONDS
        recent = self._recent
        while recent and (recent[0].is_over or recent[0].started_at < horizon):
            sent = recent.popleft()
            if not sent.is_over:
                sent.is_slow = True
                self.slow += 1
                self.windows.slowed(sent.delivery.webhook_id)
