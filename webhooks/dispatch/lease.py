"""The desk for a worker's life: its id, its beats, and whether it may still send.

A beat counts from the moment it was ordered. Other workers take over a worker's rows after
SILENCE_BEFORE_DEATH_SECONDS. The worker itself starts nothing more FENCE_SECONDS after the last beat
that Postgres confirmed, so two workers never send the same row, whichever connection is cut
(invariants 5 and 13).
"""

from collections.abc import Callable
from concurrent.futures import Future
from uuid import UUID

from webhooks.dispatch.desk import Errand
from webhooks.dispatch.flight import Flight
from webhooks.ids import new_id
from webhooks.wire.clock import boottime

BEAT_SECONDS = 2.0
FENCE_SECONDS = 8.0
FULL_WINDOWS = 100
"""Most webhooks with full windows that a beat reports."""


class Lease:
    """One life of a worker."""

    def __init__(self, submit: Callable[..., Future[bool]], worker_id: UUID | None = None) -> None:
        self.worker_id = worker_id or new_id()
        self._submit = submit
        self._errand: Errand[bool] = Errand("beat")
        self._confirmed_at = boottime()
        self._ordered_at = 0.0
        self._next_at = 0.0

    @property
    def age_seconds(self) -> float:
        """The age of the last beat that Postgres confirmed, from the moment it was ordered."""
        return boottime() - self._confirmed_at

    @property
    def is_safe(self) -> bool:
        """Whether no other worker can have taken over this worker's rows yet."""
        return self.age_seconds < FENCE_SECONDS

    def due_at(self) -> float:
        """Return when to order the next beat, by the monotonic clock."""
        if self._errand.is_under_way:
            return float("inf")
        return max(self._next_at, self._errand.not_before)

    def order(self, now: float, flight: Flight) -> None:
        """Order a beat if one is due; it reports the requests in flight and the full windows."""
        if now >= self.due_at():
            self._next_at = now + BEAT_SECONDS
            self._ordered_at = boottime()
            self._errand.begin(
                self._submit(self.worker_id, flight.count, flight.windows.full(FULL_WINDOWS))
            )

    def collect(self) -> bool | None:
        """Return whether the last beat found this worker alive, once; None before its end and after
        a failure."""
        ended = self._errand.collect()
        if ended is None or ended.value is None:
            return None
        if ended.value:
            self._confirmed_at = self._ordered_at
        return ended.value
