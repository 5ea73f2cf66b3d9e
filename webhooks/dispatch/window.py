"""How many rows of one webhook a worker may hold at once (invariant 9).

A healthy, fast receiver earns a wide window; one that fails, or keeps requests waiting, is narrowed
down to a single request, so that it can never fill the worker's slots.
"""

import time
from collections import defaultdict
from dataclasses import dataclass, field
from uuid import UUID

from webhooks import breaker

START = 4
LARGEST = 128
FAST_MS = 250
"""Only receivers that answer within this time earn a wider window."""
CLOSED_SECONDS = 1.0


@dataclass(slots=True)
class Window:
    """The window of one webhook."""

    size: int = START
    held: int = 0
    streak: int = 0
    """Failures in a row."""
    closed_until: float = 0.0
    """By the monotonic clock; until then the database learns that the breaker has to open."""

    def room(self, most: int) -> int:
        """Return how many more rows may be held, where no more than `most` may be in all."""
        if self.closed_until and time.monotonic() < self.closed_until:
            return 0
        return max(0, min(self.size, most) - self.held)

    def succeeded(self, duration_ms: int) -> None:
        """A request succeeded: after a fast one, one more may be held (doubling per round trip)."""
        self.streak = 0
        self.closed_until = 0.0
        if duration_ms <= FAST_MS:
            self.size = min(self.size + 1, LARGEST)

    def failed(self) -> None:
        """A request failed: half as many may be held, none while the breaker is about to open."""
        self.narrow()
        self.streak += 1
        if self.streak % breaker.THRESHOLD == 0:
            self.closed_until = time.monotonic() + CLOSED_SECONDS

    def narrow(self) -> None:
        self.size = max(self.size // 2, 1)


@dataclass
class Windows:
    """The windows of all webhooks this worker has lately seen."""

    by_webhook: dict[UUID, Window] = field(default_factory=lambda: defaultdict(Window))

    def take(self, webhook_id: UUID) -> None:
        self.by_webhook[webhook_id].held += 1

    def put_down(self, webhook_id: UUID) -> None:
        """A row that was held is given back unsent."""
        self.by_webhook[webhook_id].held -= 1

    def succeeded(self, webhook_id: UUID, duration_ms: int) -> None:
        window = self.by_webhook[webhook_id]
        window.held -= 1
        window.succeeded(duration_ms)

    def failed(self, webhook_id: UUID) -> None:
        window = self.by_webhook[webhook_id]
        window.held -= 1
        window.failed()

    def slowed(self, webhook_id: UUID) -> None:
        """One of its requests, still held, is slow to be answered."""
        self.by_webhook[webhook_id].narrow()

    def is_closed(self, webhook_id: UUID) -> bool:
        """Say whether so many failed in a row that the database should know at once."""
        return self.by_webhook[webhook_id].closed_until > 0

    def room(self, webhook_id: UUID, most: int = LARGEST) -> int:
        """Return how many more rows may be held, where no more than `most` may be in all; any
        thread may ask."""
        window = self.by_webhook.get(webhook_id)
        return min(START, most) if window is None else window.room(most)

    def forget_idle(self) -> None:
        """Drop windows that hold nothing and stand where they started."""
        idle = [
            k for k, w in self.by_webhook.items() if not w.held and not w.streak and w.size == START
        ]
        for webhook_id in idle:
            del self.by_webhook[webhook_id]
