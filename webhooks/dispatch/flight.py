"""What a worker holds: what is ready to go, what is in flight, and which requests have become slow.

Claimed rows start a few at a time, each owner in turn, so that answers are read in between and
nobody waits behind a crowd. A request that is not answered within SLOW_SECONDS gives its place to others: hanging receivers
could otherwise fill all places with requests that nobody answers (invariant 9).
"""

import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from webhooks.dispatch.claim import MAX_CLAIM_BYTES, ClaimedDelivery
from webhooks.dispatch.endpoints import Endpoint
from webhooks.dispatch.window import Windows

CLAIM_ROWS = 320
"""Most rows of one claim."""
READY_AT_CLAIM = 224
"""Rows still ready to go when the next claim is made: what goes out until it has come back."""
MAX_QUICK = 512
"""Requests in flight that are not slow. The more there are, the fewer rows are claimed ahead."""
MAX_IN_FLIGHT = 1536
"""Requests in flight, slow ones included."""
MAX_BYTES = 64 * 1024 * 1024
"""Payloads in flight."""
SLOW_SECONDS = 1.0


@dataclass(slots=True)
class Sent:
    """One request in flight."""

    delivery: ClaimedDelivery
    endpoint: Endpoint
    """As it was when the request was built."""
    attempt_id: UUID
    started_at: float
    """By the monotonic clock."""
    is_slow: bool = False
    is_over: bool = False


@dataclass
class Flight:
    """The book of what a worker holds, and the windows of its webhooks."""

    windows: Windows = field(default_factory=Windows)
    count: int = 0
    """Requests in flight."""
    ready: int = 0
    """Rows claimed and not started."""
    slow: int = 0
    bytes: int = 0
    ids: set[UUID] = field(default_factory=set)
    """Of the deliveries held."""
    _ready_of: dict[UUID | None, deque[ClaimedDelivery]] = field(default_factory=dict)
    _turns: deque[UUID | None] = field(default_factory=deque)
    """The owners for which something is ready, in the order of their turns."""
    _recent: deque[Sent] = field(default_factory=deque)
    _typical_bytes: float = 1024.0

    @property
    def room(self) -> int:
        """How many more rows may be claimed now."""
        held = self.count + self.ready
        quick = self.count - self.slow
        by_count = min(CLAIM_ROWS, 2 * (MAX_QUICK - quick) - self.ready, MAX_IN_FLIGHT - held)
        by_bytes = min(MAX_BYTES - self.bytes, MAX_CLAIM_BYTES) // self._typical_bytes
        # Never stuck: one row at least while nothing is held, however large.
        return max(int(min(by_count, by_bytes)), 0 if held else 1)

    def took(self, deliveries: Sequence[ClaimedDelivery]) -> None:
        """Learn from a claim how large payloads are; large ones are remembered for a while."""
        if deliveries:
            largest = max(len(delivery.payload) for delivery in deliveries)
            self._typical_bytes = max(float(largest), self._typical_bytes * 0.8, 1024.0)

    def line_up(self, delivery: ClaimedDelivery, owner_id: UUID | None) -> None:
        """Hold a claimed row until its owner's turn comes."""
        self.ready += 1
        self.ids.add(delivery.id)
        self.bytes += len(delivery.payload)
        self.windows.take(delivery.webhook_id)
        rows = self._ready_of.get(owner_id)
        if rows is None:
            rows = self._ready_of[owner_id] = deque()
            self._turns.append(owner_id)
        rows.append(delivery)

    def next_ready(self, most: int) -> list[ClaimedDelivery]:
        """Take what is to start next, one row of each owner in turn; the rows stay held."""
        taken: list[ClaimedDelivery] = []
        while self._turns and len(taken) < most:
            owner_id = self._turns.popleft()
            rows = self._ready_of[owner_id]
            taken.append(rows.popleft())
            if rows:
                self._turns.append(owner_id)
            else:
                del self._ready_of[owner_id]
        self.ready -= len(taken)
        return taken

    def put_down(self, deliveries: Iterable[ClaimedDelivery]) -> None:
        """Hold these rows, taken with next_ready() and not started, no longer."""
        for delivery in deliveries:
            self.ids.discard(delivery.id)
            self.bytes -= len(delivery.payload)
            self.windows.put_down(delivery.webhook_id)

    def begin(self, sent: Sent) -> None:
        """A row that was ready is being sent."""
        self.count += 1
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

    def withdraw(self, sent: Sent) -> None:
        """A request was taken back before any of it was sent."""
        self.count -= 1
        self.slow -= sent.is_slow
        sent.is_over = True
        self.put_down([sent.delivery])

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
