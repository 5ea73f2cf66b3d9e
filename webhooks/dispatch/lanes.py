"""The webhooks for which something is due, as one worker knows them. Pure.

A lane is one webhook's queue of due deliveries. It is due, or it is out with a claim, or it is parked
until a time (a breaker is open, a rate limit is spent, the webhook is disabled), or it is full (its
window lets nothing more in until a response arrives, or until a time: rows may also be given back
unsent). Only due lanes cost a claim anything.

Postgres is the record; this is a memory that may be wrong in both directions. A lane without any
due row is dropped by the claim that finds nothing; a row without a lane is found by the next look
or survey (webhooks/dispatch/discovery.py).
"""

import heapq
import math
from collections import OrderedDict, deque
from dataclasses import dataclass
from enum import Enum, auto
from uuid import UUID

Key = tuple[UUID, bool]
"""A webhook, and whether it is its queue of rows that go in order: a webhook may have both."""


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
    """Nothing that may be claimed was due before this (Unix seconds): a claim starts here, so that
    it does not walk over the dead index entries of what was sent."""
    state: State = State.OUT
    until: float = 0.0
    """Of a lane that is parked or full, by the monotonic clock."""

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
        """A heap of what is parked or full; entries whose lane no longer waits until then are passed
        over."""
        self._full = 0

    def __len__(self) -> int:
        return len(self._lanes)

    def knows(self, key: Key) -> bool:
        """Say whether there is a lane, in any state; any thread may ask."""
        return key in self._lanes

    @property
    def has_due(self) -> bool:
        return bool(self._turns)

    @property
    def next_at(self) -> float:
        """When the next lane that waits becomes due, by the monotonic clock; infinity for never."""
        while self._waiting:
            until, key = self._waiting[0]
            lane = self._lanes.get(key)
            if lane is not None and lane.state in WAITING and lane.until == until:
                return until
            heapq.heappop(self._waiting)
        return math.inf

    def find(self, lane: Lane) -> None:
        """Something is due for a webhook, from `lane.low` on."""
        known = self._lanes.get(lane.key)
        if known is None:
            self._lanes[lane.key] = lane
            self._let_go(lane)
        else:
            known.low = min(known.low, lane.low)

    def take(self, most: int) -> list[Lane]:
        """Return up to `most` due lanes, one of each owner in turn; they are out until the claim
        puts each of them somewhere."""
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
        """More is due than was claimed."""
        self._lanes[lane.key] = lane
        self._let_go(lane)

    def drop(self, lane: Lane) -> None:
        """Nothing more is due."""
        self._lanes.pop(lane.key, None)

    def park(self, lane: Lane, until: float) -> None:
        """Nothing may be sent before `until`, by the monotonic clock."""
        self._wait(lane, State.PARKED, until)

    def fill(self, lane: Lane, until: float) -> None:
        """Nothing more may be held until a response frees a place; look again at `until`."""
        self._full += 1
        self._wait(lane, State.FULL, until)

    def free(self, key: Key) -> None:
        """A place was freed for this lane, if it is there and full."""
        if self._full:
            lane = self._lanes.get(key)
            if lane is not None and lane.state is State.FULL:
                self._let_go(lane)

    def unpark(self, webhook_id: UUID) -> None:
        """The webhook may be sent to again."""
        for key in ((webhook_id, False), (webhook_id, True)):
            lane = self._lanes.get(key)
            if lane is not None and lane.state in WAITING:
                self._let_go(lane)

    def wake(self, now: float) -> None:
        """Let the lanes go whose time has come."""
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
