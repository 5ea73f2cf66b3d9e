"""Lanes: the webhooks with due deliveries, as one worker knows them. Pure.

A lane is one webhook's queue of due deliveries. It is in one of four states: due; out with a claim;
parked until a time (a breaker is open, a rate limit is spent, the webhook is disabled); or full (the
window admits nothing more until a response arrives, or until a time, because rows may also be given
back unsent). Only due lanes cost a claim anything.

Postgres is the record; this memory may be wrong in both directions. A claim that finds nothing drops
the lane; the next look or survey finds a row without a lane (webhooks/dispatch/discovery.py).
"""

import heapq
import math
from collections import OrderedDict, deque
from dataclasses import dataclass
from enum import Enum, auto
from uuid import UUID

Key = tuple[UUID, bool]
"""A webhook, and whether the lane holds its ordered rows: a webhook may have a lane of each kind."""


class State(Enum):
    DUE = auto()
    OUT = auto()
    PARKED = auto()
    FULL = auto()


WAITING = (State.PARKED, State.FULL)


@dataclass(slots=True, eq=False)
class Lane:
    """One webhook's queue of due deliveries."""

    owner_id: UUID
    webhook_id: UUID
    is_ordered: bool
    low: float = -math.inf
    """No claimable row is due before this time (Unix seconds). A claim starts here, so that it skips
    the dead index entries of rows already sent."""
    state: State = State.OUT
    until: float = 0.0
    """When a parked or full lane becomes due again, by the monotonic clock."""

    @property
    def key(self) -> Key:
        return self.webhook_id, self.is_ordered


class Lanes:
    """All lanes of a worker: the owners take turns, then the lanes of each owner."""

    def __init__(self) -> None:
        self._lanes: dict[Key, Lane] = {}
        self._due: dict[UUID, OrderedDict[Key, Lane]] = {}
        self._turns: deque[UUID] = deque()
        """The owners of due lanes, in the order of their turns."""
        self._waiting: list[tuple[float, Key]] = []
        """A heap of the parked and full lanes; an entry is void if its lane has another `until` now."""
        self._full = 0

    def __len__(self) -> int:
        return len(self._lanes)

    def knows(self, key: Key) -> bool:
        """Say whether there is a lane with this key, in any state. Any thread may call."""
        return key in self._lanes

    @property
    def has_due(self) -> bool:
        return bool(self._turns)

    @property
    def next_at(self) -> float:
        """When the next parked or full lane becomes due, by the monotonic clock; infinity for never."""
        while self._waiting:
            until, key = self._waiting[0]
            lane = self._lanes.get(key)
            if lane is not None and lane.state in WAITING and lane.until == until:
                return until
            heapq.heappop(self._waiting)
        return math.inf

    def find(self, lane: Lane) -> None:
        """Add a due lane; if it is known, only lower its low mark."""
        known = self._lanes.get(lane.key)
        if known is None:
            self._lanes[lane.key] = lane
            self._let_go(lane)
        else:
            known.low = min(known.low, lane.low)

    def take(self, most: int) -> list[Lane]:
        """Return up to `most` due lanes, one of each owner in turn.

        They are out until the claim's end requeues, parks, fills or drops each of them.
        """
        taken: list[Lane] = []
        while self._turns and len(taken) < most:
            owner_id = self._turns.popleft()
            lanes = self._due[owner_id]
            _, lane = lanes.popitem(last=False)
            lane.state = State.OUT
            taken.append(lane)
            if lanes:
                self._turns.append(owner_id)
            else:
                del self._due[owner_id]
        return taken

    def put_back(self, lane: Lane) -> None:
        """Make a lane due again: it has more due rows than were claimed."""
        self._lanes[lane.key] = lane
        self._let_go(lane)

    def drop(self, lane: Lane) -> None:
        """Forget a lane without due rows."""
        self._lanes.pop(lane.key, None)

    def park(self, lane: Lane, until: float) -> None:
        """Park a lane whose webhook may get no request before `until`, by the monotonic clock."""
        self._wait(lane, State.PARKED, until)

    def fill(self, lane: Lane, until: float) -> None:
        """Mark a lane as full until free() is called for it, or until `until`."""
        self._full += 1
        self._wait(lane, State.FULL, until)

    def free(self, key: Key) -> None:
        """Make a full lane due again, because a place in its window is free."""
        if self._full:
            lane = self._lanes.get(key)
            if lane is not None and lane.state is State.FULL:
                self._let_go(lane)

    def unpark(self, webhook_id: UUID) -> None:
        """Make the webhook's parked and full lanes due: it may get requests again."""
        for key in ((webhook_id, False), (webhook_id, True)):
            lane = self._lanes.get(key)
            if lane is not None and lane.state in WAITING:
                self._let_go(lane)

    def wake(self, now: float) -> None:
        """Make the parked and full lanes due whose time has come."""
        while self.next_at <= now:
            _, key = heapq.heappop(self._waiting)
            self._let_go(self._lanes[key])

    def _wait(self, lane: Lane, state: State, until: float) -> None:
        self._lanes[lane.key] = lane
        lane.state, lane.until = state, until
        heapq.heappush(self._waiting, (until, lane.key))

    def _let_go(self, lane: Lane) -> None:
        self._full -= lane.state is State.FULL
        lane.state = State.DUE
        lanes = self._due.get(lane.owner_id)
        if lanes is None:
            lanes = self._due[lane.owner_id] = OrderedDict()
            self._turns.append(lane.owner_id)
        lanes[lane.key] = lane
