"""One claim: find due rows, decide how many of them this worker may have, and mark them.

Runs on a database thread. A look finds the rows that became due lately; the worker's known lanes
come first. Lanes of webhooks that may not get requests now are parked and cost later claims nothing.
"""

import logging
import math
import random
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple
from uuid import UUID

from webhooks.choices import BreakerState, Order
from webhooks.dispatch import discovery, guard, objects, quick, take
from webhooks.dispatch.discovery import Look, News, Position
from webhooks.dispatch.endpoints import Endpoints, Standing
from webhooks.dispatch.hosts import HostCaps
from webhooks.dispatch.lanes import Key, Lane
from webhooks.dispatch.release import cancel_deleted, release_from_order
from webhooks.dispatch.share import allot, in_turn
from webhooks.dispatch.take import Taken
from webhooks.pace import breaker
from webhooks.pace.window import LARGEST
from webhooks.postgres.sql import limited_transaction

Rank = Callable[[UUID], int]
"""The place of a webhook in a claim, the first being the least."""

logger = logging.getLogger(__name__)

LANES_PER_CLAIM = 256
"""Lanes that one claim serves; later claims serve the others."""
RUN_ROWS = 64
"""Most rows of an ordered webhook in one claim; the worker sends them one after the other."""
OFF_SECONDS = 60.0
"""How soon to look at a disabled webhook again; news tell earlier that it was enabled."""
UNREADABLE_SECONDS = 30.0
"""How soon to look again at a webhook whose secret cannot be decrypted."""
LOCKED_WEBHOOK_SECONDS = 0.05
"""How soon to look again at a webhook whose row another worker has locked."""
RATE_SECONDS = 0.02
"""How soon to look again at least if a rate limit holds rows back; its allowance grows meanwhile."""
ORDER_SECONDS = 0.05
"""How soon to look again, at first, if an ordered webhook waits for an older transaction to end."""
ORDER_SHARE = 0.125
"""Later pauses as a share of the time already waited: a transaction of an hour costs few looks."""
LONGEST_ORDER_SECONDS = 1.0
HEAD_SECONDS = 1.0
"""How soon to look again if another worker or transaction has the first row of an ordered webhook:
the rows behind it became due long ago, and no look or hint tells that they may go now."""
LONGEST_PARK_SECONDS = 60.0
"""Longest time a lane stays parked, because the reason may end early."""
BEFORE_LOW_SECONDS = 0.001
"""How far a lane's low mark stays before the last claimed due time, because times are rounded."""


@dataclass(slots=True)
class ClaimOrder:
    """A worker's order for one claim."""

    worker_id: UUID
    limit: int
    lanes: list[Lane]
    """The worker's known due lanes, in the order of their turns."""
    room_of: Callable[[UUID, int], int]
    """Returns how many more rows of a webhook this worker may hold, given the maximum in the second
    argument."""
    knows: Callable[[Key], bool] = lambda _: False
    back_seconds: float = discovery.LOOK_SECONDS
    survey_from: Position | None = None
    wants_news: bool = False
    rooms: dict[UUID, int] | None = None
    """For a quick claim: the room of each webhook that has less than START; None for a usual claim."""
    rank: Rank | None = None
    """If set, webhooks of a lower rank come first."""


class Fate(NamedTuple):
    """The next state of a lane that a claim served."""

    lane: Lane
    has_more: bool
    parked_until: float | None = None
    """Unix seconds."""
    had_room: bool = True
    """Whether the claim was allowed to take any row of it."""


@dataclass(slots=True)
class Claim:
    """The result of one claim: the rows it took and the lanes it found."""

    database_time: float
    """The time of the claim, in Unix seconds."""
    clock_offset: float
    """Seconds from the monotonic clock to the database's."""
    is_paused: bool = False
    taken: Taken = field(default_factory=Taken)
    fates: list[Fate] = field(default_factory=list)
    found: list[Lane] = field(default_factory=list)
    """Due lanes that this claim did not serve."""
    is_cut: bool = False
    """Whether it found more lanes than one claim serves."""
    is_look_cut: bool = False
    """Whether the look read only some of the rows that became due."""
    look_seconds: float = 0.0
    survey_seconds: float = 0.0
    survey_next: Position | None = None
    news: News | None = None

    @property
    def is_empty(self) -> bool:
        """Whether it found no row that could be sent now, and left no lane for a later claim."""
        if self.is_paused:
            return True
        has_more = any(fate.has_more for fate in self.fates)
        return not (self.taken.count or has_more or self.is_cut)


def claim_due(order: ClaimOrder, endpoints: Endpoints) -> Claim:
    """Mark up to `order.limit` due deliveries as SENDING by this worker and return them."""
    began_at = time.monotonic()
    taken = Taken()
    if order.rooms is None:
        looked = discovery.look(order.back_seconds)
    else:
        taken, looked = quick.take_recent(
            order.worker_id,
            order.limit,
            endpoints,
            rooms=order.rooms,
            back_seconds=order.back_seconds,
        )
    return complete_claim(order, endpoints, taken, looked, began_at)


def complete_claim(
    order: ClaimOrder, endpoints: Endpoints, taken: Taken, looked: Look, began_at: float
) -> Claim:
    """Claim rows of the lanes that the look or the quick claim found, in addition to the rows
    already taken."""
    if looked.is_cut and order.rooms is not None:
        looked = discovery.look(order.back_seconds)
    looked_at = time.monotonic()
    claim = Claim(looked.database_time, looked.clock_offset, looked.is_paused, taken)
    claim.is_look_cut, claim.look_seconds = looked.is_cut, looked_at - began_at
    found = {lane.key: lane for lane in looked.lanes}
    if order.survey_from is not None:
        step = discovery.survey(order.survey_from)
        claim.survey_next, claim.survey_seconds = step.next, time.monotonic() - looked_at
        found |= {lane.key: lane for lane in step.lanes}
    if order.wants_news:
        claim.news = discovery.news(order.back_seconds)
    if claim.is_paused:
        claim.fates = [Fate(lane, True) for lane in order.lanes]
        claim.found = list(found.values())
        return claim
    for lane in order.lanes:
        lane.low = min(lane.low, found[lane.key].low) if lane.key in found else lane.low
    fresh = in_turn([lane for key, lane in found.items() if not order.knows(key)])
    room = max(0, LANES_PER_CLAIM - len(order.lanes))
    claim.is_cut = len(fresh) > room
    serve = in_turn([*order.lanes, *fresh[:room]])
    if (rank := order.rank) is not None:
        serve.sort(key=lambda lane: rank(lane.webhook_id))
    served = {lane.key for lane in serve}
    claim.found = [lane for key, lane in found.items() if key not in served]
    if serve:
        _serve(claim, order, serve, endpoints)
    return claim


def _serve(claim: Claim, order: ClaimOrder, lanes: Sequence[Lane], endpoints: Endpoints) -> None:
    endpoints.load({lane.webhook_id for lane in lanes})
    standings = {lane.webhook_id: endpoints.standing(lane.webhook_id) for lane in lanes}
    due = []
    for lane in lanes:
        until = _parked_until(lane, standings[lane.webhook_id], endpoints, claim.database_time)
        if standings[lane.webhook_id].is_deleted:
            claim.fates.append(Fate(lane, cancel_deleted([lane.webhook_id])))
        elif until is not None:
            claim.fates.append(Fate(lane, False, until))
        elif lane.is_ordered and standings[lane.webhook_id].order == Order.NONE:
            claim.fates.append(Fate(lane, release_from_order(lane.webhook_id)))
            claim.found.append(Lane(lane.owner_id, lane.webhook_id, is_ordered=False))
        else:
            due.append(lane)
    held = _counts(claim.taken)
    rooms = {}
    for webhook_id in {lane.webhook_id for lane in due}:
        most = _most(standings[webhook_id], claim.database_time)
        room = order.room_of(webhook_id, most) * standings[webhook_id].batch_events
        rooms[webhook_id] = max(0, room - held.get(webhook_id, 0))
    wanted = allot(due, rooms, order.limit)
    guarded = [lane for lane in due if standings[lane.webhook_id].is_guarded]
    groups = [[lane for lane in due if not standings[lane.webhook_id].is_guarded]]
    # Guarded lanes: unordered and ordered ones in separate transactions, because only the claim of
    # ordered rows waits for its commit.
    groups += [[lane for lane in guarded if lane.is_ordered == kind] for kind in (False, True)]
    # In random order, because the limit may leave nothing for the last group.
    for group in random.sample(groups, len(groups)):
        if group:
            if group is groups[0]:
                _take(claim, order, group, wanted, standings)
            else:
                _take_guarded(claim, order, group, wanted, standings, _capped(group, endpoints))
    _postpone_behind(claim)


def _postpone_behind(claim: Claim) -> None:
    """Postpone due rows that wait for others of their object; behind them may be rows that do not."""
    behind, claim.taken.behind = claim.taken.behind, {}
    more = {behind[delivery_id] for delivery_id in objects.postpone(list(behind))}
    claim.fates = [
        fate._replace(has_more=True)
        if fate.lane.is_ordered and fate.lane.webhook_id in more and fate.parked_until is None
        else fate
        for fate in claim.fates
    ]


def _parked_until(lane: Lane, standing: Standing, endpoints: Endpoints, now: float) -> float | None:
    """Return when to look again at a webhook that may not get requests now (Unix seconds); None if
    it may."""
    if standing.is_paused:
        return _rounded(now)
    if not standing.is_on:
        return _rounded(now + OFF_SECONDS)
    if endpoints.last(lane.webhook_id) is None:
        return _rounded(now + UNREADABLE_SECONDS)
    until = standing.held_until or 0.0
    is_open = standing.breaker_state != BreakerState.CLOSED
    if is_open and breaker.is_probe_ahead(standing.breaker_probe_at, now):
        until = max(until, standing.breaker_probe_at or 0.0)
    return _rounded(min(until, now + LONGEST_PARK_SECONDS)) if until > now else None


def _most(standing: Standing, now: float) -> int:
    return most_held(standing.breaker_state, standing.breaker_changed_at, now)


def most_held(breaker_state: str, breaker_changed_at: float | None, now: float) -> int:
    """Return how many rows of a webhook a worker may hold: one probe while the breaker is not
    closed, a growing number after it has closed."""
    if breaker_state != BreakerState.CLOSED:
        return 1
    ramp = breaker.most_in_flight(breaker_changed_at, now)
    return LARGEST if ramp is None else min(ramp, LARGEST)


def _take(
    claim: Claim,
    order: ClaimOrder,
    lanes: Iterable[Lane],
    wanted: Mapping[Key, int],
    standings: Mapping[UUID, Standing],
) -> None:
    """Mark rows of these lanes, up to `wanted` of each, and append the fate of each lane."""
    lanes = list(lanes)
    asked = [lane for lane in lanes if wanted[lane.key] > 0]
    due = [lane for lane in asked if not lane.is_ordered]
    ordered = [lane for lane in asked if lane.is_ordered and not _is_by_object(lane, standings)]
    by_object = [lane for lane in asked if _is_by_object(lane, standings)]
    taken = claim.taken
    if due:
        counts = [wanted[lane.key] for lane in due]
        take.take_due(taken, order.worker_id, due, counts, order.limit - taken.count)
    if ordered:
        ids = [lane.webhook_id for lane in ordered]
        counts = [min(wanted[lane.key], RUN_ROWS) for lane in ordered]
        take.take_runs(taken, order.worker_id, ids, counts)
    more: set[UUID] = set()
    if by_object:
        ids = [lane.webhook_id for lane in by_object]
        counts = [wanted[lane.key] for lane in by_object]
        left = order.limit - taken.count
        more = objects.take_objects(taken, order.worker_id, ids, counts, left)
    last_at: dict[UUID, float] = {}
    count_of: dict[UUID, int] = {}
    for delivery in taken.deliveries:
        last_at[delivery.webhook_id] = max(last_at.get(delivery.webhook_id, 0.0), delivery.due_at)
        count_of[delivery.webhook_id] = count_of.get(delivery.webhook_id, 0) + 1
    for lane in lanes:
        if _is_by_object(lane, standings):
            claim.fates.append(_fate_of_objects(claim, lane, wanted[lane.key], more))
            continue
        if lane.is_ordered:
            claim.fates.append(_fate_of_run(claim, lane, wanted[lane.key]))
            continue
        if lane.webhook_id in last_at:
            lane.low = last_at[lane.webhook_id] - BEFORE_LOW_SECONDS
        has_more = taken.is_cut or count_of.get(lane.webhook_id, 0) >= wanted[lane.key]
        claim.fates.append(Fate(lane, has_more, had_room=wanted[lane.key] > 0))


def _is_by_object(lane: Lane, standings: Mapping[UUID, Standing]) -> bool:
    return lane.is_ordered and standings[lane.webhook_id].order == Order.OBJECT


def _fate_of_objects(claim: Claim, lane: Lane, wanted: int, more: Collection[UUID]) -> Fate:
    if lane.webhook_id in claim.taken.waits_for_head:
        return Fate(lane, False, _rounded(claim.database_time + HEAD_SECONDS))
    has_more = wanted == 0 or claim.taken.is_cut or lane.webhook_id in more
    return Fate(lane, has_more, had_room=wanted > 0)


def _fate_of_run(claim: Claim, lane: Lane, wanted: int) -> Fate:
    if (due_at := claim.taken.waits_for_others.get(lane.webhook_id)) is not None:
        waited_seconds = claim.database_time - due_at
        pause = min(max(ORDER_SECONDS, waited_seconds * ORDER_SHARE), LONGEST_ORDER_SECONDS)
        return Fate(lane, False, claim.database_time + pause)
    if lane.webhook_id in claim.taken.waits_for_head:
        return Fate(lane, False, _rounded(claim.database_time + HEAD_SECONDS))
    # The lane becomes due again when the run has ended. If the first row is not due, nothing is left.
    has_more = lane.webhook_id in claim.taken.runs or wanted == 0 or claim.taken.is_cut
    return Fate(lane, has_more, had_room=wanted > 0)


def _rounded(moment: float) -> float:
    """Return the next full second, so that one claim looks at many parked lanes."""
    return float(math.ceil(moment))


def _capped(lanes: Iterable[Lane], endpoints: Endpoints) -> dict[UUID, str]:
    """Return the URLs of the webhooks whose hosts have a cap."""
    ids = {lane.webhook_id for lane in lanes}
    known = ((id_, endpoints.last(id_)) for id_ in ids if endpoints.standing(id_).is_capped)
    return {id_: endpoint.url for id_, endpoint in known if endpoint is not None}


def _take_guarded(
    claim: Claim,
    order: ClaimOrder,
    lanes: Sequence[Lane],
    wanted: Mapping[Key, int],
    standings: Mapping[UUID, Standing],
    capped: Mapping[UUID, str],
) -> None:
    now = claim.database_time
    with limited_transaction():
        guards = guard.lock_guards(lane.webhook_id for lane in lanes)
        hosts = HostCaps({id_: url for id_, url in capped.items() if id_ in guards}, now)
        allowed = {}
        for webhook_id in (lane.webhook_id for lane in lanes if lane.webhook_id in guards):
            limit = hosts.limit(webhook_id, guard.allowance(guards[webhook_id], now))
            if limit is not None:
                allowed[webhook_id] = limit
        before = _counts(claim.taken)
        may: list[Lane] = []
        counts = {}
        for lane in lanes:
            if lane.webhook_id not in allowed:
                claim.fates.append(Fate(lane, False, now + LOCKED_WEBHOOK_SECONDS))
            elif not allowed[lane.webhook_id].requests:
                claim.fates.append(
                    Fate(lane, False, _next_at(allowed[lane.webhook_id].next_at, now))
                )
            else:
                may.append(lane)
                counts[lane.key] = min(wanted[lane.key], allowed[lane.webhook_id].requests)
        first = len(claim.fates)
        _take(claim, order, may, counts, standings)
        taken = {k: n - before.get(k, 0) for k, n in _counts(claim.taken).items() if k in guards}
        taken = {k: n for k, n in taken.items() if n}
        if taken:
            guard.spend({webhook_id: guards[webhook_id] for webhook_id in taken}, taken, now)
            hosts.spend(taken)
    for number in range(first, len(claim.fates)):
        lane, has_more, *_ = claim.fates[number]
        limit = allowed[lane.webhook_id]
        is_run = lane.is_ordered and not _is_by_object(lane, standings)
        if has_more and taken.get(lane.webhook_id, 0) >= limit.requests and not is_run:
            claim.fates[number] = Fate(lane, False, _next_at(limit.next_at, now))


def _counts(taken: Taken) -> dict[UUID, int]:
    counts: dict[UUID, int] = {k: len(rows) for k, rows in taken.runs.items()}
    for delivery in chain(taken.deliveries, taken.of_objects):
        counts[delivery.webhook_id] = counts.get(delivery.webhook_id, 0) + 1
    return counts


def _next_at(next_at: float, now: float) -> float:
    return max(min(next_at, now + LONGEST_PARK_SECONDS), now + RATE_SECONDS)
