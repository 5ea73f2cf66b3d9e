"""The desk for claims: when to claim next, how much, and what is known to be due.

`due_at()` is the one answer to "when?": at once while a known lane is due or a hint came, otherwise
when a parked lane's time comes, at the next look (POLL_SECONDS), or at the next step of a survey. A
survey is made so seldom that it takes SURVEY_SHARE of the time at most, however many webhooks wait.
"""

import math
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from uuid import UUID

from webhooks.dispatch import discovery
from webhooks.dispatch.claim import Claim, Fate, Order
from webhooks.dispatch.desk import Errand
from webhooks.dispatch.discovery import Position
from webhooks.dispatch.flight import Flight
from webhooks.dispatch.lanes import Lanes
from webhooks.pace.outage import PROBE_SECONDS
from webhooks.pace.window import CLOSED_SECONDS, START

POLL_SECONDS = 1.0
LANES_PER_ORDER = 224
"""Of those in memory; what a look finds is served with them (claim.LANES_PER_CLAIM)."""
QUICK_WEBHOOKS = 64
"""A quick claim is told about no more webhooks than that."""
SURVEY_SHARE = 0.004
STEP_PAUSE = 8
"""Times what a step of a survey took, before the next one: claims go on in between."""
LONGEST_SURVEY_PAUSE_SECONDS = 300.0
FULL_SECONDS = 5.0
"""When a full lane is looked at again at the latest: what filled it may have been given back unsent,
or its webhook may have changed from ordered to unordered."""
LOOK_OVERLAP_SECONDS = 1.0
"""How much further than to the last look a look reaches back at least."""


@dataclass(slots=True)
class Survey:
    """How far the survey has come, and when its next step is due."""

    position: Position | None = discovery.START
    """None between two surveys."""
    next_at: float = 0.0
    seconds: float = 0.0
    """What the survey has taken so far."""
    is_wanted_again: bool = False
    """Whether something became due that it may have passed already."""

    def want(self, at: float) -> None:
        """Begin a survey at that time at the latest; behind one that is under way."""
        if self.position is None:
            self.next_at = min(self.next_at, at)
        else:
            self.is_wanted_again = True

    def took(self, seconds: float, position: Position | None, now: float) -> None:
        """A step ended."""
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
        self, submit: Callable[[Order], Future[Claim]], worker_id: UUID, flight: Flight
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
        """When the transactions began that had been open for a while (Unix seconds)."""
        self._back_seconds = discovery.LOOK_SECONDS
        self._closed_until = 0.0
        self._is_paused = False
        self._is_quiet = False
        self._clock_offset = math.inf
        """From the monotonic clock to the database's, by the last claim."""

    # Inputs.

    def hint(self) -> None:
        """Something may be due; safe from any thread."""
        self._look_at = 0.0

    def freed(self, webhook_id: UUID, *, is_ordered: bool = False) -> None:
        """A row of the webhook is held no longer; of an ordered one, no row of its run is."""
        self._lanes.free((webhook_id, is_ordered))

    def resumed(self, webhook_ids: Iterable[UUID]) -> None:
        """Webhooks may be sent to again."""
        for webhook_id in webhook_ids:
            self._lanes.unpark(webhook_id)

    # When.

    @property
    def is_under_way(self) -> bool:
        return self._errand.is_under_way

    @property
    def has_backlog(self) -> bool:
        """Whether more is due than this worker could take at once."""
        return self._lanes.has_due and not self._is_paused

    def is_idle(self, now: float) -> bool:
        """Say whether a whole survey found nothing that could be sent."""
        is_over = self._survey.position is None and not self._errand.is_under_way
        return self._is_quiet and is_over and not self.has_backlog and now >= self._closed_until

    def look_everywhere(self) -> None:
        """Begin a survey now, to find out whether anything is left."""
        if self._survey.position is None:
            self._survey.position = discovery.START
            self._is_quiet = True
        self._survey.next_at = 0.0

    def room(self, unwritten: int) -> int:
        """Return how many more rows may be claimed; unwritten results are no part of it."""
        return self._flight.room

    def due_at(self, now: float, *, is_out: bool) -> float:
        """Return when the next claim is to be ordered, by the monotonic clock; `is_out` says that
        the network is away, so that single probes go out."""
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

    def order(self, now: float, *, limit: int) -> None:
        """Order a claim of up to `limit` rows."""
        self._lanes.wake(now)
        back = max(self._back_seconds, now - self._looked_at + LOOK_OVERLAP_SECONDS)
        if discovery.LONGEST_LOOK_SECONDS < back < math.inf:
            self._survey.want(now)
        is_survey_due = now >= self._survey.next_at
        if is_survey_due and self._survey.position is None:
            self._survey.position = discovery.START
        lanes = self._lanes.take(LANES_PER_ORDER)
        order = Order(
            self._worker_id,
            limit,
            lanes,
            self._flight.room_of,
            knows=self._lanes.knows,
            back_seconds=min(back, discovery.LONGEST_LOOK_SECONDS),
            survey_from=self._survey.position if is_survey_due else None,
            wants_news=now >= self._news_at,
            rooms=None if lanes else self._rooms(),
        )
        self._order = order
        self._claimed_at = now
        self._look_at = now + POLL_SECONDS
        if order.wants_news:
            self._news_at = now + POLL_SECONDS
        self._errand.begin(self._submit(order))

    def _rooms(self) -> dict[UUID, int] | None:
        """Return the rooms that a quick claim has to know, or None where it had to know too many."""
        known = self._flight.windows.uncommon
        if len(known) > QUICK_WEBHOOKS:
            return None
        return {webhook_id: self._flight.room_of(webhook_id, START) for webhook_id in known}

    # What came back.

    def collect(self) -> Claim | None:
        """Return the claim that was ordered, once it has ended well."""
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
            self._survey.took(claim.survey_seconds, claim.survey_next, now)
        if claim.is_look_cut:
            self._survey.want(now + 10 * claim.look_seconds)
        self._take_news(claim)
        return claim

    def _can_hold(self, fate: Fate) -> bool:
        """Say whether a claim that is made now might take more: the last one had room, or what
        took the room is gone."""
        webhook_id, is_ordered = fate.lane.key
        may_hold = self._flight.can_hold(webhook_id, is_ordered=is_ordered)
        return may_hold and (fate.had_room or not self._flight.windows.held(webhook_id))

    def settle_lanes(self, claim: Claim) -> None:
        """Put each lane of a claim where it belongs, after its rows were lined up."""
        now = time.monotonic()
        for fate in claim.fates:
            lane = fate.lane
            if fate.parked_until is not None:
                self._lanes.park(lane, fate.parked_until - claim.clock_offset)
            elif not fate.has_more:
                self._lanes.drop(lane)
            elif self._flight.windows.is_shut(lane.webhook_id):
                self._closed_until = now + CLOSED_SECONDS
                self._lanes.park(lane, self._closed_until)
            elif self._can_hold(fate):
                self._lanes.put_back(lane)
            else:
                self._lanes.fill(lane, now + FULL_SECONDS)
        for lane in claim.found:
            self._lanes.find(lane)

    def _take_clock(self, claim: Claim) -> None:
        """Where the database's clock was set forward, much became due before a look reaches back."""
        step_seconds = claim.clock_offset - self._clock_offset
        self._clock_offset = claim.clock_offset
        if step_seconds > LOOK_OVERLAP_SECONDS:
            self._look_back(discovery.LOOK_SECONDS + step_seconds)

    def _look_back(self, seconds: float) -> None:
        """Look at once, and so far back at least."""
        self._back_seconds = max(self._back_seconds, seconds)
        self._look_at = 0.0

    def _take_news(self, claim: Claim) -> None:
        if claim.news is None:
            return
        self.resumed(claim.news.resumed)
        ended, self._writers = self._writers - claim.news.writers, claim.news.writers
        if ended:
            # What they committed became due, as its rows say, before a look reaches back.
            self._look_back(claim.database_time - min(ended) + LOOK_OVERLAP_SECONDS)
