"""Windows: how many rows of one webhook a worker may hold (invariant 9). Pure except for the clock.

A window follows its receiver's capacity, like congestion control. Each response within the receiver's
usual time widens it by two (so it triples per round trip), a late response narrows it by one, a
failure or a hanging request halves it. Its limit follows from Little's law: for the same rate, a
receiver that takes 300 ms needs a hundred times as many requests in flight as one that takes 3 ms. A
window that is not full does not widen.

The worker's free places bound it from outside (Flight.room_of): a webhook may take half of the free
places, so that it gives way when other webhooks need them.
"""

import time
from collections import defaultdict
from dataclasses import dataclass, field
from uuid import UUID

from webhooks.pace import breaker

START = 4
LARGE = 128
"""The limit for receivers that respond quickly."""
LARGEST = 384
"""The limit for receivers that respond in time, but slowly."""
RATE_PER_SECOND = 1280
"""The rate, in requests per second, that the window of a slow receiver allows."""
JITTER_MS = 50
"""A response that takes this long beyond twice the usual time is late."""
FAILING_SECONDS = 1.0
REST_PER_READ_SECOND = 50.0
"""How long nothing more is sent to a receiver, for each second of processor time that its answer took
to read; only answers that took much more than usual are charged for."""
IDLE_SECONDS = 60.0
"""The time after which an empty window is dropped."""


@dataclass(slots=True)
class Window:
    """The window of one webhook."""

    size: int = START
    held: int = 0
    usual_ms: float = 0.0
    """The receiver's fastest response times; 0 before the first response."""
    streak: int = 0
    """Failures in a row."""
    failing_until: float = 0.0
    """By the monotonic clock; until then the database learns that the breaker has to open."""
    rests_until: float = 0.0
    """The monotonic time until which its receiver is paused for costly responses."""
    used_at: float = 0.0

    @property
    def largest(self) -> int:
        """The limit of its size."""
        return int(min(max(RATE_PER_SECOND * self.usual_ms / 1000, LARGE), LARGEST))

    @property
    def is_shut(self) -> bool:
        """Whether nothing more may be held, until the database knows of the failures, or its
        receiver has paid for dear answers."""
        until = max(self.failing_until, self.rests_until)
        return bool(until) and time.monotonic() < until

    def room(self, most: int) -> int:
        """Return how many more rows may be held, `most` in total."""
        if self.is_shut:
            return 0
        return max(0, min(self.size, most) - self.held)

    def succeeded(self, duration_ms: int, held: int) -> None:
        """A request succeeded while `held` rows were held."""
        self.streak = 0
        self.failing_until = 0.0
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
        """A request failed: halve the window, or close it while the breaker is about to open."""
        self.narrow()
        self.streak += 1
        if self.streak % breaker.THRESHOLD == 0:
            self.failing_until = time.monotonic() + FAILING_SECONDS

    def hangs(self, duration_ms: int) -> None:
        """A request has waited this long so far."""
        if not self.usual_ms or not self._is_in_time(duration_ms):
            self.narrow()

    def charge(self, processor_ms: float) -> None:
        """Reading a response took this much processor time: narrow the window and pause it."""
        self.narrow()
        rest = processor_ms / 1000 * REST_PER_READ_SECOND
        self.rests_until = max(self.rests_until, time.monotonic()) + rest

    def narrow(self) -> None:
        self.size = max(self.size // 2, 1)

    def _is_in_time(self, duration_ms: int) -> bool:
        return duration_ms <= 2 * self.usual_ms + JITTER_MS


@dataclass
class Windows:
    """The windows of all webhooks that this worker has seen recently."""

    by_webhook: dict[UUID, Window] = field(default_factory=lambda: defaultdict(Window))
    uncommon: set[UUID] = field(default_factory=set)
    """Webhooks that may hold fewer than START more rows now."""

    def take(self, webhook_id: UUID) -> None:
        window = self.by_webhook[webhook_id]
        window.held += 1
        self._note(webhook_id, window)

    def _note(self, webhook_id: UUID, window: Window) -> None:
        if window.size - window.held < START or window.failing_until or window.rests_until:
            self.uncommon.add(webhook_id)
        else:
            self.uncommon.discard(webhook_id)

    def put_down(self, webhook_id: UUID) -> None:
        """A held row was returned unsent."""
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
        """Reading the response of a finished request took this much processor time; 0 if no more than
        usual."""
        if not processor_ms:
            return
        window = self.by_webhook[webhook_id]
        window.charge(processor_ms)
        self._note(webhook_id, window)

    def hangs(self, webhook_id: UUID, duration_ms: int) -> None:
        """A held request of the webhook still waits for its response."""
        window = self.by_webhook[webhook_id]
        window.hangs(duration_ms)
        self._note(webhook_id, window)

    def is_failing(self, webhook_id: UUID) -> bool:
        """Say whether so many failed in a row that the database should know at once."""
        return self.by_webhook[webhook_id].failing_until > 0

    def is_shut(self, webhook_id: UUID) -> bool:
        """Return whether the window is closed, however many rows it holds."""
        window = self.by_webhook.get(webhook_id)
        return window is not None and window.is_shut

    def held(self, webhook_id: UUID) -> int:
        """Return the number of held rows."""
        window = self.by_webhook.get(webhook_id)
        return 0 if window is None else window.held

    def full(self, most: int) -> dict[str, tuple[int, int]]:
        """Return size and usual milliseconds of full windows by webhook (hex), at most `most`, the
        widest first."""
        full = [(w, k) for k, w in self.by_webhook.items() if w.held >= w.size]
        full.sort(key=lambda pair: -pair[0].size)
        return {k.hex: (w.size, int(w.usual_ms)) for w, k in full[:most]}

    def room(self, webhook_id: UUID, most: int = LARGEST) -> int:
        """Return how many more rows of a webhook may be held, `most` in total. Thread-safe."""
        window = self.by_webhook.get(webhook_id)
        return min(START, most) if window is None else window.room(most)

    def forget_idle(self) -> None:
        """Drop windows that have been empty for a while."""
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
