"""The desk for rows that the worker gives back unsent: in batches, without waiting for locked rows."""

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Future
from typing import NamedTuple
from uuid import UUID

from webhooks.dispatch.desk import Errand
from webhooks.dispatch.release import release, release_others

LOCKED_SECONDS = 1.0
"""How soon to try a locked row again."""
SECOND_LOOK_SECONDS = 10.0
"""How long after a look for rows that the worker does not hold to look once more: a claim whose
connection broke may still be running in Postgres, which lets it wait for a lock for five seconds."""


class ReturnBatch(NamedTuple):
    """The rows that one errand gives back."""

    ids_by_delay: dict[float, list[UUID]]
    """Seconds until the rows are due again."""
    held: Collection[UUID] | None
    """If set, the rows that the worker holds: give back all others that are marked with its id."""


class Returns:
    """The rows that one life of a worker gives back."""

    def __init__(
        self,
        submit: Callable[..., Future[list[UUID]]],
        worker_id: UUID,
        take_failure: Callable[[], bool] = lambda: False,
    ) -> None:
        """`take_failure` says whether Postgres has failed any work of the worker since its last call."""
        self._submit = submit
        self._take_failure = take_failure
        self._worker_id = worker_id
        self._errand: Errand[list[UUID]] = Errand("giving back of rows")
        self._ids_by_delay: defaultdict[float, list[UUID]] = defaultdict(list)
        self._under_way = ReturnBatch({}, None)
        self._again_at = 0.0
        self._second_look_at = math.inf
        self.has_lost_track = False
        """Whether Postgres may mark rows with the worker's id that the worker does not hold: a claim
        failed that was committed all the same, or a server was lost with results that it had confirmed."""

    def __bool__(self) -> bool:
        """Whether any row is still to be given back."""
        return bool(self._ids_by_delay) or self.has_lost_track or self._errand.is_under_way

    @property
    def is_complete(self) -> bool:
        """Whether only locked rows are left."""
        return not self._errand.is_under_way and (not self._ids_by_delay or self._again_at > 0)

    def add(self, delivery_ids: Iterable[UUID], delay_seconds: float = 0.0) -> None:
        """Give these rows back with the next batch; they are due again after the delay."""
        ids = list(delivery_ids)
        if ids:
            self._ids_by_delay[delay_seconds] += ids
            self._again_at = 0.0

    def due_at(self, *, may_look: bool) -> float:
        """Return when to order the next batch, by the monotonic clock; see order()."""
        if self._errand.is_under_way:
            return math.inf
        is_wanted = self._ids_by_delay or (self.has_lost_track and may_look)
        due_at = self._again_at if is_wanted else math.inf
        if may_look:
            due_at = min(due_at, self._second_look_at)
        return max(due_at, self._errand.not_before)

    def order(self, now: float, held: Callable[[], Collection[UUID]], *, may_look: bool) -> None:
        """Order a batch if one is due.

        `may_look` says that no claim is under way, so that `held()` returns all rows of this worker.
        """
        if now < self.due_at(may_look=may_look):
            return
        looks = may_look and (self.has_lost_track or now >= self._second_look_at)
        self._under_way = ReturnBatch(dict(self._ids_by_delay), held() if looks else None)
        self._ids_by_delay.clear()
        if looks:
            is_first, self.has_lost_track = self.has_lost_track, False
            self._second_look_at = now + SECOND_LOOK_SECONDS if is_first else math.inf
        self._errand.begin(self._submit(self._worker_id, self._under_way))

    def collect(self, now: float) -> None:
        """Handle the end of the batch under way; rows that are not given back wait again."""
        self.has_lost_track |= self._take_failure()
        ended = self._errand.collect()
        if ended is None:
            return
        if ended.value is None:
            self.has_lost_track |= self._under_way.held is not None
            for delay, ids in self._under_way.ids_by_delay.items():
                self._ids_by_delay[delay] += ids
        elif ended.value:
            self._ids_by_delay[0.0] += ended.value
            self._again_at = now + LOCKED_SECONDS


def give_back(worker_id: UUID, batch: ReturnBatch) -> list[UUID]:
    """Give rows back, on the claimer's thread; return the locked ones."""
    locked: list[UUID] = []
    for delay, ids in batch.ids_by_delay.items():
        locked += release(worker_id, ids, delay_seconds=delay)
    if batch.held is not None:
        locked += release_others(worker_id, list(batch.held))
    return locked
