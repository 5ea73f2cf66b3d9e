"""How many rows of one webhook a worker may hold at once (invariant 9). Pure but for the clock.

A window follows what its receiver can take, as congestion control does. Each response that comes in
the receiver's usual time widens it by two (so it triples per round trip), one that is late narrows
it by one, a failure and a request that hangs halve it. How wide it may become follows from Little's
law: a receiver that takes 300 ms needs a hundred times as many requests in flight for the same rate
as one that takes 3 ms. Nobody is widened who does not use what he has.

The worker's free places bound it from outside (Flight.room_of): a webhook may take half of what is
free, so that it gives way when others need the places.
"""

import time
from collections import defaultdict
from dataclasses import dataclass, field
from uuid import UUID

from webhooks.pace import breaker

START = 4
LARGE = 128
"""Of any receiver that answers in time."""
LARGEST = 384
"""Of one that answers in time, but slowly."""
RATE_PER_SECOND = 1280
"""What the window of a slow receiver is sized for."""
JITTER_MS = 50
"""A response that takes this long beyond twice the usual time is late."""
CLOSED_SECONDS = 1.0
REST_PER_DEAR_SECOND = 50.0
"""How long nothing more is sent to a receiver, for each second of processor time that its answer took
to read; only answers that took much more than usual are charged for."""
IDLE_SECONDS = 60.0
"""After which a window that holds nothing is forgotten."""


@dataclass(slots=True)
class Window:
    """The window of one webhook."""

    size: int = START
    held: int = 0
    usual_ms: float = 0.0
    """The receiver's fastest response times; 0 before the first response."""
    streak: int = 0
    """Failures in a row."""
    closed_until: float = 0.0
    """By the monotonic clock; until then the database learns that the breaker has to open."""
    rests_until: float = 0.0
    """By the monotonic clock; until then its receiver pays for what its answers cost to read."""
    used_at: float = 0.0

    @property
    def largest(self) -> int:
        """How wide it may become."""
        return int(min(max(RATE_PER_SECOND * self.usual_ms / 1000, LARGE), LARGEST))

    @property
    def is_shut(self) -> bool:
        """Whether nothing more may be held, until the database knows of the failures, or its
        receiver has paid for dear answers."""
        until = max(self.closed_until, self.rests_until)
        return bool(until) and time.monotonic() < until

    def room(self, most: int) -> int:
        """Return how many more rows may be held, where no more than `most` may be in all."""
        if self.is_shut:
            return 0
        return max(0, min(self.size, most) - self.held)

    def succeeded(self, duration_ms: int, held: int) -> None:
        """A request succeeded while `held` rows were held."""
        self.streak = 0
        self.closed_until = 0.0
        # A receiver that became slower is believed when it has a single request: with more it may
        # be slow because of them.
        if not self.usual_ms or duration_ms < self.usual_ms or self.size == 1:
            self.usual_ms = max(float(duration_ms), 1.0)
        if self._is_in_time(duration_ms):
            if 2 * held >= self.size:
                self.size = min(self.size + 2, self.largest)
        else:
            self.size = max(self.size - 1, 1)

    def failed(self) -> None:
        """A request failed: half as many may be held, none while the breaker is about to open."""
        self.narrow()
        self.streak += 1
        if self.streak % breaker.THRESHOLD == 0:
            self.closed_until = time.monotonic() + CLOSED_SECONDS

    def hangs(self, duration_ms: int) -> None:
        """A request has been waiting for so long, and goes on."""
        if not self.usual_ms or not self._is_in_time(duration_ms):
            self.narrow()

    def charge(self, processor_ms: float) -> None:
        """An answer took so much processor time to read: what is sent becomes less, and rarer."""
        self.narrow()
        rest = processor_ms / 1000 * REST_PER_DEAR_SECOND
        self.rests_until = max(self.rests_until, time.monotonic()) + rest

    def narrow(self) -> None:
        self.size = max(self.size // 2, 1)

    def _is_in_time(self, duration_ms: int) -> bool:
        return duration_ms <= 2 * self.usual_ms + JITTER_MS


@dataclass
class Windows:
    """The windows of all webhooks this worker has lately seen."""

    by_webhook: dict[UUID, Window] = field(default_factory=lambda: defaultdict(Window))
    uncommon: set[UUID] = field(default_factory=set)
    """Webhooks that may have fewer than START more rows now."""

    def take(self, webhook_id: UUID) -> None:
        window = self.by_webhook[webhook_id]
        window.held += 1
        self._note(webhook_id, window)

    def _note(self, webhook_id: UUID, window: Window) -> None:
        if window.size - window.held < START or window.closed_until or window.rests_until:
            self.uncommon.add(webhook_id)
        else:
            self.uncommon.discard(webhook_id)

    def put_down(self, webhook_id: UUID) -> None:
        """A row that was held is given back unsent."""
        self._note(webhook_id, self._end(webhook_id))

    def succeeded(self, webhook_id: UUID, duration_ms: int) -> None:
        window = self._end(webhook_id)
        window.succeeded(duration_ms, window.held + 1)
        self._note(webhook_id, window)

    def failed(self, webhook_id: UUID) -> None:
        window = self._end(webhook_id)
        window.failed()
        self._note(webhook_id, window)

    def charge(self, webhook_id: UUID, processor_ms: float) -> None:
        """The answer to a request of its that has ended took so much processor time to read; 0 where
        that was not more than usual."""
        if not processor_ms:
            return
        window = self.by_webhook[webhook_id]
        window.charge(processor_ms)
        self._note(webhook_id, window)

    def hangs(self, webhook_id: UUID, duration_ms: int) -> None:
        """One of its requests, still held, waits for its response."""
        window = self.by_webhook[webhook_id]
        window.hangs(duration_ms)
        self._note(webhook_id, window)

    def is_closed(self, webhook_id: UUID) -> bool:
        """Say whether so many failed in a row that the database should know at once."""
        return self.by_webhook[webhook_id].closed_until > 0

    def is_shut(self, webhook_id: UUID) -> bool:
        """Say whether nothing may be held for now, however many rows are."""
        window = self.by_webhook.get(webhook_id)
        return window is not None and window.is_shut

    def held(self, webhook_id: UUID) -> int:
        """Return how many rows are held."""
        window = self.by_webhook.get(webhook_id)
        return 0 if window is None else window.held

    def full(self, most: int) -> dict[str, tuple[int, int]]:
        """Return size and usual milliseconds of windows that let nothing more in, by webhook (hex);
        no more than `most`, the widest first."""
        full = [(w, k) for k, w in self.by_webhook.items() if w.held >= w.size]
        full.sort(key=lambda pair: -pair[0].size)
        return {k.hex: (w.size, int(w.usual_ms)) for w, k in full[:most]}

    def room(self, webhook_id: UUID, most: int = LARGEST) -> int:
        """Return how many more rows may be held, where no more than `most` may be in all; any
        thread may ask."""
        window = self.by_webhook.get(webhook_id)
        return min(START, most) if window is None else window.room(most)

    def forget_idle(self) -> None:
        """Drop windows that have held nothing for a while."""
        horizon = time.monotonic() - IDLE_SECONDS
        idle = [k for k, w in self.by_webhook.items() if not w.held and w.used_at < horizon]
        for webhook_id in idle:
            del self.by_webhook[webhook_id]
            self.uncommon.discard(webhook_id)

    def _end(self, webhook_id: UUID) -> Window:
        window = self.by_webhook[webhook_id]
        window.held -= 1
        window.used_at = time.monotonic()
        return window
