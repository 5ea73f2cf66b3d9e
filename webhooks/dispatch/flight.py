"""The rows that a worker holds: those ready to start, those in flight, and the slow requests.

Claimed rows start a few at a time, each owner in turn, so that responses are read between starts and
no owner queues behind another's backlog. Rows of an ordered webhook start one after the other. A
request without a response within SLOW_SECONDS frees its place for another: otherwise hanging
receivers could fill all places (invariant 9).
"""

import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from webhooks.dispatch.batches import Batch, Sendable, rows_of
from webhooks.dispatch.endpoints import Endpoint
from webhooks.dispatch.take import MAX_CLAIM_BYTES, ClaimedDelivery
from webhooks.pace.window import START, Windows

CLAIM_ROWS = 320
"""Most rows of one claim."""
READY_AT_CLAIM = 224
"""The worker claims again when only this many rows are ready: enough to send until the claim returns."""
MAX_NOT_SLOW = 512
"""Requests in flight that are not slow. The more there are, the fewer rows the worker claims ahead."""
MAX_IN_FLIGHT = 1536
"""Requests in flight, slow ones included."""
MAX_BYTES = 64 * 1024 * 1024
"""Payloads in flight."""
SLOW_SECONDS = 1.0


@dataclass(slots=True)
class Sent:
    """One request in flight."""

    item: Sendable
    endpoint: Endpoint
    """As it was when the request was built."""
    attempt_id: UUID
    """Of the only row, or the first of a batch."""
    started_at: float
    """The time of the start, by the monotonic clock."""
    is_slow: bool = False
    is_over: bool = False


@dataclass(slots=True)
class Run:
    """Rows of an ordered webhook, which the worker sends one after the other."""

    owner_id: UUID | None
    head: UUID
    """The delivery that is ready or in flight, or whose result is not written yet."""
    behind: deque[ClaimedDelivery]


@dataclass
class Flight:
    """Keeps count of the rows that a worker holds, and the windows of their webhooks."""

    windows: Windows = field(default_factory=Windows)
    count: int = 0
    """Requests in flight."""
    ready: int = 0
    """Rows claimed and not started."""
    slow: int = 0
    bytes: int = 0
    ids: set[UUID] = field(default_factory=set)
    """The ids of the deliveries held."""
    _ready_of: dict[UUID | None, deque[Sendable]] = field(default_factory=dict)
    _turns: deque[UUID | None] = field(default_factory=deque)
    """The owners with ready rows, in the order of their turns."""
    _runs: dict[UUID, Run] = field(default_factory=dict)
    """The runs of ordered webhooks."""
    _recent: deque[Sent] = field(default_factory=deque)
    _typical_bytes: float = 1024.0

    @property
    def room(self) -> int:
        """How many more rows the worker may claim now."""
        held = self.count + self.ready
        not_slow = self.count - self.slow
        by_count = min(CLAIM_ROWS, 2 * (MAX_NOT_SLOW - not_slow) - self.ready, MAX_IN_FLIGHT - held)
        by_bytes = min(MAX_BYTES - self.bytes, MAX_CLAIM_BYTES) // self._typical_bytes
        # At least one row while nothing is held, however large it is: the worker never gets stuck.
        return max(int(min(by_count, by_bytes)), 0 if held else 1)

    def room_of(self, webhook_id: UUID, most: int) -> int:
        """Return how many more rows of a webhook the worker may hold, given a maximum of `most` held.

        A webhook gets at most half of the free places, so that others find room. Any thread may call.
        """
        free = min(MAX_NOT_SLOW - self.count + self.slow, MAX_IN_FLIGHT - self.count - self.ready)
        return min(self.windows.room(webhook_id, most), max(free // 2, START))

    def took(self, deliveries: Sequence[ClaimedDelivery]) -> None:
        """Update the estimate of a payload's size, a maximum that decays."""
        if deliveries:
            largest = max(len(delivery.payload) for delivery in deliveries)
            self._typical_bytes = max(float(largest), self._typical_bytes * 0.8, 1024.0)

    def line_up(self, delivery: ClaimedDelivery, owner_id: UUID | None) -> None:
        """Hold a claimed row until its owner's turn comes."""
        self._hold(delivery)
        self._make_ready(delivery, owner_id)

    def line_up_run(self, rows: Sequence[ClaimedDelivery], owner_id: UUID | None) -> None:
        """Hold claimed rows of an ordered webhook.

        Each starts once the success of the one before is written, so that a crash repeats only the
        last one and the receiver never sees an older event after a newer one.
        """
        for delivery in rows:
            self._hold(delivery)
        self._make_ready(rows[0], owner_id)
        self._runs[rows[0].webhook_id] = Run(owner_id, rows[0].id, deque(rows[1:]))

    def gather(self, delivery: ClaimedDelivery) -> None:
        """Hold a claimed row until its batch is complete."""
        self.ids.add(delivery.id)
        self.bytes += len(delivery.payload)

    def line_up_batch(self, batch: Batch, owner_id: UUID | None) -> None:
        """Hold a batch of gathered rows, in one place of the window, until its owner's turn comes."""
        self.windows.take(batch.webhook_id)
        self._make_ready(batch, owner_id)

    def _hold(self, delivery: ClaimedDelivery) -> None:
        self.gather(delivery)
        self.windows.take(delivery.webhook_id)

    def _let_go(self, item: Sendable) -> None:
        for row in rows_of(item):
            self.ids.discard(row.id)
            self.bytes -= len(row.payload)

    def _make_ready(self, delivery: Sendable, owner_id: UUID | None) -> None:
        self.ready += 1
        rows = self._ready_of.get(owner_id)
        if rows is None:
            rows = self._ready_of[owner_id] = deque()
            self._turns.append(owner_id)
        rows.append(delivery)

    def next_ready(self, most: int) -> list[Sendable]:
        """Take the rows and batches to start next, one of each owner in turn; they stay held."""
        taken: list[Sendable] = []
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

    def put_down(self, items: Iterable[Sendable]) -> None:
        """Stop holding what was taken with next_ready() or end_run() and not started."""
        for item in items:
            self._let_go(item)
            self.windows.put_down(item.webhook_id)

    def begin(self, sent: Sent) -> None:
        """Note that the request of a ready row has started."""
        self.count += 1
        self._recent.append(sent)

    def withdraw(self, sent: Sent) -> None:
        """Note that a request was withdrawn before any of it was sent; its row stays held."""
        self.count -= 1
        self.slow -= sent.is_slow
        sent.is_over = True

    def end(self, sent: Sent, *, succeeded: bool, duration_ms: int) -> None:
        """Note the end of a request, and stop holding its row."""
        webhook_id = sent.item.webhook_id
        self.count -= 1
        self._let_go(sent.item)
        self.slow -= sent.is_slow
        sent.is_over = True
        if succeeded:
            self.windows.succeeded(webhook_id, duration_ms)
        else:
            self.windows.failed(webhook_id)

    def written(self, webhook_id: UUID, delivery_id: UUID) -> None:
        """Note that a result of an ordered webhook is written; make the next row of its run ready."""
        run = self._runs.get(webhook_id)
        if run is None or run.head != delivery_id:
            return
        if run.behind:
            delivery = run.behind.popleft()
            run.head = delivery.id
            self._make_ready(delivery, run.owner_id)
        else:
            del self._runs[webhook_id]

    def has_run(self, webhook_id: UUID) -> bool:
        """Say whether the worker holds a run of this webhook."""
        return webhook_id in self._runs

    def can_hold(self, webhook_id: UUID, *, is_ordered: bool) -> bool:
        """Say whether the worker may hold more rows of a webhook now; if ordered, only without a run."""
        if is_ordered:
            return not self.has_run(webhook_id)
        return self.windows.room(webhook_id) > 0

    def end_run(self, webhook_id: UUID) -> list[ClaimedDelivery]:
        """End the run of an ordered webhook, if there is one, because a row of it did not succeed.

        Returns the rows behind that one; they stay held.
        """
        run = self._runs.pop(webhook_id, None)
        return [] if run is None else list(run.behind)

    def end_runs(self) -> list[ClaimedDelivery]:
        """End all runs and return the rows behind their heads, which stay held."""
        rest = [delivery for run in self._runs.values() for delivery in run.behind]
        self._runs.clear()
        return rest

    def find_slow(self) -> None:
        """Count requests without a response within SLOW_SECONDS as slow, and narrow their windows."""
        now = time.monotonic()
        recent = self._recent
        while recent and (recent[0].is_over or recent[0].started_at < now - SLOW_SECONDS):
            sent = recent.popleft()
            if not sent.is_over:
                sent.is_slow = True
                self.slow += 1
                waited_ms = int((now - sent.started_at) * 1000)
                self.windows.hangs(sent.item.webhook_id, waited_ms)
