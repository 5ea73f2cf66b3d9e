"""The desk for claims: when to claim next, how many rows, and which lanes are due.

`due_at()` alone decides when: at once if a known lane is due or a hint came, otherwise when a parked
lane's time comes, at the next look (POLL_SECONDS), or at the next step of a survey. Surveys take at
most SURVEY_SHARE of the time, however many webhooks wait.
"""

import math
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from uuid import UUID

from webhooks.dispatch import discovery
from webhooks.dispatch.claim import Claim, ClaimOrder, Fate, Rank
from webhooks.dispatch.desk import Errand
from webhooks.dispatch.discovery import Position
from webhooks.dispatch.flight import Flight
from webhooks.dispatch.lanes import Lanes
from webhooks.pace.outage import PROBE_SECONDS
from webhooks.pace.window import FAILING_SECONDS, START

POLL_SECONDS = 1.0
LANES_PER_ORDER = 224
"""Known lanes that one claim serves; lanes that a look finds come on top (claim.LANES_PER_CLAIM)."""
QUICK_WEBHOOKS = 64
"""Webhooks with less than START room that a quick claim accepts; with more, the claim is a usual one."""
SURVEY_SHARE = 0.004
STEP_PAUSE = 8
"""Pause before the next step of a survey, as a multiple of the last step's time; claims run in it."""
LONGEST_SURVEY_PAUSE_SECONDS = 300.0
FULL_SECONDS = 5.0
"""Longest time until a full lane is due again: its rows may have been given back unsent, or its
webhook may have changed from ordered to unordered."""
LOOK_OVERLAP_SECONDS = 1.0
"""How far a look reaches back at least beyond the time of the previous look."""


@dataclass(slots=True)
class Survey:
    """The position of the survey, and the time of its next step."""

    position: Position | None = discovery.FIRST_POSITION
    """None between two surveys."""
    next_at: float = 0.0
    seconds: float = 0.0
    """How long the steps of this survey took so far."""
    is_wanted_again: bool = False
    """Whether rows became due that this survey may have passed already."""

    def want(self, at: float) -> None:
        """Begin a survey at that time at the latest, or after the one that is under way."""
        if self.position is None:
            self.next_at = min(self.next_at, at)
        else:
            self.is_wanted_again = True

    def step_ended(self, seconds: float, position: Position | None, now: float) -> None:
        """Note the end of a step, and compute the time of the next one."""
        self.seconds += seconds
        self.position = position
        if position is None:
            pause = self.seconds / SURVEY_SHARE
            self.next_at = now + min(max(pause, POLL_SECONDS), LONGEST_SURVEY_PAUSE_SECONDS)
            self.seconds = 0.0
            if self.is_wanted_again:
                self.is_wanted_again, self.next_at = False, now + STEP_PAUSE * seconds
        else:
            self.next_at = now + STEP_PAUSE * seconds


class Claims:
    """Claims of one life of a worker. Only hint() may be called from other threads."""

    def __init__(
        self, submit: Callable[[ClaimOrder], Future[Claim]], worker_id: UUID, flight: Flight
    ) -> None:
        self._submit = submit
        self._worker_id = worker_id
        self._flight = flight
        self._errand: Errand[Claim] = Errand("claim")
        self._lanes = Lanes()
        self._survey = Survey()
        self._look_at = 0.0
        self._looked_at = -math.inf
        self._claimed_at = -math.inf
        self._news_at = 0.0
        self._writers: frozenset[float] = frozenset()
        """Start times of the long transactions at the last claim (Unix seconds)."""
        self._back_seconds = discovery.LOOK_SECONDS
        self._failing_until = 0.0
        self._is_paused = False
        self._is_quiet = False
        self._clock_offset = math.inf
        """Seconds from the monotonic clock to the database's, as of the last claim."""

    # Inputs.

    def hint(self) -> None:
        """Note that a delivery may be due; safe from any thread."""
        self._look_at = 0.0

    def freed(self, webhook_id: UUID, *, is_ordered: bool = False) -> None:
        """Note that the worker holds one row of the webhook less; if ordered, no row of its run."""
        self._lanes.free((webhook_id, is_ordered))

    def resumed(self, webhook_ids: Iterable[UUID]) -> None:
        """Note that these webhooks may get requests again."""
        for webhook_id in webhook_ids:
            self._lanes.unpark(webhook_id)

    # When.

    @property
    def is_under_way(self) -> bool:
        return self._errand.is_under_way

    @property
    def has_backlog(self) -> bool:
        """Whether a known lane is still due after the last claim."""
        return self._lanes.has_due and not self._is_paused

    def is_idle(self, now: float) -> bool:
        """Say whether a whole survey found no delivery that could be sent."""
        is_over = self._survey.position is None and not self._errand.is_under_way
        return self._is_quiet and is_over and not self.has_backlog and now >= self._failing_until

    def look_everywhere(self) -> None:
        """Begin a survey now, to find out whether any delivery is left."""
        if self._survey.position is None:
            self._survey.position = discovery.FIRST_POSITION
            self._is_quiet = True
        self._survey.next_at = 0.0

    def room(self, unwritten: int) -> int:
        """Return how many more rows may be claimed.

        Unwritten results do not reduce the room; SuspectClaims counts them.
        """
        return self._flight.room

    def due_at(self, now: float, *, is_out: bool) -> float:
        """Return when to order the next claim, by the monotonic clock.

        `is_out` says that our network is down, so that the worker claims single probes.
        """
        if self._errand.is_under_way:
            return math.inf
        due_at = 0.0
        if not self._lanes.has_due:
            due_at = min(self._look_at, self._lanes.next_at, self._survey.next_at)
        if is_out:
            due_at = max(due_at, self._claimed_at + PROBE_SECONDS)
        if self._is_paused:
            due_at = max(due_at, self._claimed_at + POLL_SECONDS)
        return max(due_at, self._errand.not_before)

    def order(self, now: float, *, limit: int, rank: Rank | None = None) -> None:
        """Start a claim of up to `limit` rows on the claimer's thread; webhooks of a lower `rank` come
        first."""
        self._lanes.wake(now)
        back = max(self._back_seconds, now - self._looked_at + LOOK_OVERLAP_SECONDS)
        if discovery.LONGEST_LOOK_SECONDS < back < math.inf:
            self._survey.want(now)
        is_survey_due = now >= self._survey.next_at
        if is_survey_due and self._survey.position is None:
            self._survey.position = discovery.FIRST_POSITION
        lanes = self._lanes.take(LANES_PER_ORDER)
        order = ClaimOrder(
            self._worker_id,
            limit,
            lanes,
            self._flight.room_of,
            knows=self._lanes.knows,
            back_seconds=min(back, discovery.LONGEST_LOOK_SECONDS),
            survey_from=self._survey.position if is_survey_due else None,
            wants_news=now >= self._news_at,
            # A quick claim knows no ranks.
            rooms=None if lanes or rank else self._rooms(),
            rank=rank,
        )
        self._order = order
        self._claimed_at = now
        self._look_at = now + POLL_SECONDS
        if order.wants_news:
            self._news_at = now + POLL_SECONDS
        self._errand.begin(self._submit(order))

    def _rooms(self) -> dict[UUID, int] | None:
        """Return the rooms that a quick claim needs; None if there are too many for one."""
        known = self._flight.windows.uncommon
        if len(known) > QUICK_WEBHOOKS:
            return None
        return {webhook_id: self._flight.room_of(webhook_id, START) for webhook_id in known}

    # Results.

    def collect(self) -> Claim | None:
        """Return the ordered claim once it has succeeded; None before that and after a failure."""
        ended = self._errand.collect()
        if ended is None:
            return None
        now = time.monotonic()
        if ended.value is None:
            for lane in self._order.lanes:
                self._lanes.put_back(lane)
            self._look_at = 0.0
            return None
        claim = ended.value
        self._looked_at = self._claimed_at
        self._back_seconds = discovery.LOOK_SECONDS
        self._take_clock(claim)
        self._is_paused = claim.is_paused
        self._is_quiet &= claim.is_empty
        if self._order.survey_from is not None:
            self._survey.step_ended(claim.survey_seconds, claim.survey_next, now)
        if claim.is_look_cut:
            self._survey.want(now + 10 * claim.look_seconds)
        self._take_news(claim)
        return claim

    def _can_hold(self, fate: Fate) -> bool:
        """Return whether another claim could take rows: the last claim had room, or the worker
        holds no row of the webhook now."""
        webhook_id, is_ordered = fate.lane.key
        may_hold = self._flight.can_hold(webhook_id, is_ordered=is_ordered)
        return may_hold and (fate.had_room or not self._flight.windows.held(webhook_id))

    def settle_lanes(self, claim: Claim) -> None:
        """Park, drop, fill or requeue each lane of a claim, after its rows were lined up."""
        now = time.monotonic()
        for fate in claim.fates:
            lane = fate.lane
            if fate.parked_until is not None:
                self._lanes.park(lane, fate.parked_until - claim.clock_offset)
            elif not fate.has_more:
                self._lanes.drop(lane)
            elif self._flight.windows.is_shut(lane.webhook_id):
                self._failing_until = now + FAILING_SECONDS
                self._lanes.park(lane, self._failing_until)
            elif self._can_hold(fate):
                self._lanes.put_back(lane)
            else:
                self._lanes.fill(lane, now + FULL_SECONDS)
        for lane in claim.found:
            self._lanes.find(lane)

    def _take_clock(self, claim: Claim) -> None:
        """If the database's clock jumped forward, look further back: rows became due earlier than a
        normal look reaches."""
        step_seconds = claim.clock_offset - self._clock_offset
        self._clock_offset = claim.clock_offset
        if step_seconds > LOOK_OVERLAP_SECONDS:
            self._look_back(discovery.LOOK_SECONDS + step_seconds)

    def _look_back(self, seconds: float) -> None:
        """Look at once, and at least that far back."""
        self._back_seconds = max(self._back_seconds, seconds)
        self._look_at = 0.0

    def _take_news(self, claim: Claim) -> None:
        if claim.news is None:
            return
        self.resumed(claim.news.resumed)
        ended, self._writers = self._writers - claim.news.writers, claim.news.writers
        if ended:
            # Their rows carry due times from the start of the transaction, before a normal look.
            self._look_back(claim.database_time - min(ended) + LOOK_OVERLAP_SECONDS)
