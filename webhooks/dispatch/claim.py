"""One claim: find what is due, decide how much of it this worker may have, and mark it.

Runs on a database thread. A look finds what became due lately; lanes that the worker knew of come
first. Webhooks that may not be sent to now are parked, so that they cost later claims nothing.
"""

import logging
import math
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID

from webhooks.choices import BreakerState
from webhooks.dispatch import discovery, guard, quick, take
from webhooks.dispatch.discovery import Look, News, Position
from webhooks.dispatch.endpoints import Endpoints, Standing
from webhooks.dispatch.lanes import Key, Lane
from webhooks.dispatch.release import cancel_deleted, release_from_order
from webhooks.dispatch.share import allot, in_turn
from webhooks.dispatch.take import Taken
from webhooks.pace import breaker
from webhooks.pace.window import LARGEST
from webhooks.postgres.sql import limited_transaction

logger = logging.getLogger(__name__)

LANES_PER_CLAIM = 256
"""How many webhooks one claim serves; the others come next."""
RUN_ROWS = 64
"""How many rows of an ordered webhook are claimed at once, to be sent one after the other."""
OFF_SECONDS = 60.0
"""When a disabled webhook is looked at again; enabling it is noticed sooner (discovery.News)."""
UNREADABLE_SECONDS = 30.0
"""When a webhook whose secret cannot be decrypted is looked at again."""
LOCKED_SECONDS = 0.05
"""When a webhook whose row another worker has locked is looked at again."""
RATE_SECONDS = 0.02
"""How soon to look again where a rate limit holds rows back; what it allows adds up meanwhile."""
ORDER_SECONDS = 0.05
"""How soon to look again where an ordered webhook waits for an older transaction to end."""
ORDER_SHARE = 0.125
"""Of the time it has waited, so that a transaction of an hour costs little."""
LONGEST_ORDER_SECONDS = 1.0
HEAD_SECONDS = 1.0
"""How soon to look again where somebody else has the first row of an ordered webhook: what is behind
it became due long ago, and nothing else would tell that it may go."""
LONGEST_PARK_SECONDS = 60.0
"""What a parked lane waits for may change meanwhile; after this time it is looked at again."""
BEFORE_LOW_SECONDS = 0.001
"""How far a lane's low mark stays behind what was claimed: times are rounded on the way."""


@dataclass(slots=True)
class Order:
    """What a worker asks of one claim."""

    worker_id: UUID
    limit: int
    lanes: list[Lane]
    """Out of the worker's memory, in turn."""
    room_of: Callable[[UUID, int], int]
    """How many more rows of a webhook may be held, where no more than a number may be in all."""
    knows: Callable[[Key], bool] = lambda _: False
    back_seconds: float = discovery.LOOK_SECONDS
    survey_from: Position | None = None
    wants_news: bool = False
    rooms: dict[UUID, int] | None = None
    """For a quick claim: how many more rows may be held of webhooks that may not have START; None
    where a usual claim is to be made."""


class Fate(NamedTuple):
    """What becomes of a lane that a claim served."""

    lane: Lane
    has_more: bool
    parked_until: float | None = None
    """Unix seconds."""
    had_room: bool = True
    """Whether any row of it might have been taken."""


@dataclass(slots=True)
class Claim:
    """What one claim found and took."""

    database_time: float
    """Unix seconds, when it was made."""
    clock_offset: float
    """From the monotonic clock to the database's."""
    is_paused: bool = False
    taken: Taken = field(default_factory=Taken)
    fates: list[Fate] = field(default_factory=list)
    found: list[Lane] = field(default_factory=list)
    """Due, and not served by this claim."""
    is_cut: bool = False
    """Whether more lanes were found than one claim serves."""
    is_look_cut: bool = False
    """Whether a look saw only part of what became due."""
    look_seconds: float = 0.0
    survey_seconds: float = 0.0
    survey_next: Position | None = None
    news: News | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing due was found that could be sent now, or could be found by looking on."""
        if self.is_paused:
            return True
        has_more = any(fate.has_more for fate in self.fates)
        return not (self.taken.count or has_more or self.is_cut)


def claim_due(order: Order, endpoints: Endpoints) -> Claim:
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
    return go_on(order, endpoints, taken, looked, began_at)


def go_on(order: Order, endpoints: Endpoints, taken: Taken, looked: Look, began_at: float) -> Claim:
    """Take what a look, or a quick claim that took something, has found beside that."""
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
    served = {lane.key for lane in serve}
    claim.found = [lane for key, lane in found.items() if key not in served]
    if serve:
        _serve(claim, order, serve, endpoints)
    return claim


def _serve(claim: Claim, order: Order, lanes: Sequence[Lane], endpoints: Endpoints) -> None:
    endpoints.load({lane.webhook_id for lane in lanes})
    standings = {lane.webhook_id: endpoints.standing(lane.webhook_id) for lane in lanes}
    due = []
    for lane in lanes:
        until = _parked_until(lane, standings[lane.webhook_id], endpoints, claim.database_time)
        if standings[lane.webhook_id].is_deleted:
            claim.fates.append(Fate(lane, cancel_deleted([lane.webhook_id])))
        elif until is not None:
            claim.fates.append(Fate(lane, False, until))
        elif lane.is_ordered and not standings[lane.webhook_id].ordered:
            claim.fates.append(Fate(lane, release_from_order(lane.webhook_id)))
            claim.found.append(Lane(lane.owner_id, lane.webhook_id, is_ordered=False))
        else:
            due.append(lane)
    held = _counts(claim.taken)
    rooms = {}
    for webhook_id in {lane.webhook_id for lane in due}:
        most = _most(standings[webhook_id], claim.database_time)
        rooms[webhook_id] = max(0, order.room_of(webhook_id, most) - held.get(webhook_id, 0))
    wanted = allot(due, rooms, order.limit)
    guarded = [lane for lane in due if standings[lane.webhook_id].is_guarded]
    groups = [[lane for lane in due if not standings[lane.webhook_id].is_guarded]]
    # Each kind in a transaction of its own: only one of them waits for its commit.
    groups += [[lane for lane in guarded if lane.is_ordered == kind] for kind in (False, True)]
    # The limit may cut the last ones off.
    for group in random.sample(groups, len(groups)):
        if group:
            takes = _take if group is groups[0] else _take_guarded
            takes(claim, order, group, wanted, standings)


def _parked_until(lane: Lane, standing: Standing, endpoints: Endpoints, now: float) -> float | None:
    """Return when a webhook that may not be sent to now is to be looked at again (Unix seconds)."""
    if standing.is_paused:
        return _rounded(now)
    if not standing.is_on:
        return _rounded(now + OFF_SECONDS)
    if endpoints.last(lane.webhook_id) is None:
        return _rounded(now + UNREADABLE_SECONDS)
    until = standing.held_until or 0.0
    if standing.breaker_state != BreakerState.CLOSED:
        until = max(until, standing.breaker_probe_at or 0.0)
    return _rounded(min(until, now + LONGEST_PARK_SECONDS)) if until > now else None


def _most(standing: Standing, now: float) -> int:
    return most_held(standing.breaker_state, standing.breaker_changed_at, now)


def most_held(breaker_state: str, breaker_changed_at: float | None, now: float) -> int:
    """Return how many rows of a webhook a worker may hold: one as a probe, more and more while the
    webhook recovers."""
    if breaker_state != BreakerState.CLOSED:
        return 1
    ramp = breaker.most_in_flight(breaker_changed_at, now)
    return LARGEST if ramp is None else min(ramp, LARGEST)


def _take(
    claim: Claim,
    order: Order,
    lanes: Iterable[Lane],
    wanted: Mapping[Key, int],
    standings: Mapping[UUID, Standing],
) -> None:
    """Mark rows of these lanes, up to `wanted` of each, and note what becomes of each lane."""
    lanes = list(lanes)
    asked = [lane for lane in lanes if wanted[lane.key] > 0]
    due = [lane for lane in asked if not lane.is_ordered]
    ordered = [lane for lane in asked if lane.is_ordered]
    taken = claim.taken
    if due:
        counts = [wanted[lane.key] for lane in due]
        take.take_due(taken, order.worker_id, due, counts, order.limit - taken.count)
    if ordered:
        ids = [lane.webhook_id for lane in ordered]
        counts = [min(wanted[lane.key], RUN_ROWS) for lane in ordered]
        take.take_runs(taken, order.worker_id, ids, counts)
    last_at: dict[UUID, float] = {}
    count_of: dict[UUID, int] = {}
    for delivery in taken.deliveries:
        last_at[delivery.webhook_id] = max(last_at.get(delivery.webhook_id, 0.0), delivery.due_at)
        count_of[delivery.webhook_id] = count_of.get(delivery.webhook_id, 0) + 1
    for lane in lanes:
        if lane.is_ordered:
            claim.fates.append(_fate_of_run(claim, lane, wanted[lane.key]))
            continue
        if lane.webhook_id in last_at:
            lane.low = last_at[lane.webhook_id] - BEFORE_LOW_SECONDS
        has_more = taken.is_cut or count_of.get(lane.webhook_id, 0) >= wanted[lane.key]
        claim.fates.append(Fate(lane, has_more, had_room=wanted[lane.key] > 0))


def _fate_of_run(claim: Claim, lane: Lane, wanted: int) -> Fate:
    if (due_at := claim.taken.waits_for_others.get(lane.webhook_id)) is not None:
        waited_seconds = claim.database_time - due_at
        pause = min(max(ORDER_SECONDS, waited_seconds * ORDER_SHARE), LONGEST_ORDER_SECONDS)
        return Fate(lane, False, claim.database_time + pause)
    if lane.webhook_id in claim.taken.waits_for_head:
        return Fate(lane, False, _rounded(claim.database_time + HEAD_SECONDS))
    # More of it is looked for when the run has ended; where the first row is not due, there is
    # nothing to look for.
    has_more = lane.webhook_id in claim.taken.runs or wanted == 0 or claim.taken.is_cut
    return Fate(lane, has_more, had_room=wanted > 0)


def _rounded(moment: float) -> float:
    """Return the next full second: what is looked at again then is looked at in one claim."""
    return float(math.ceil(moment))


def _take_guarded(
    claim: Claim,
    order: Order,
    lanes: Sequence[Lane],
    wanted: Mapping[Key, int],
    standings: Mapping[UUID, Standing],
) -> None:
    now = claim.database_time
    with limited_transaction():
        guards = guard.lock_guards(lane.webhook_id for lane in lanes)
        allowed = {webhook_id: guard.allowance(row, now) for webhook_id, row in guards.items()}
        before = _counts(claim.taken)
        may: list[Lane] = []
        counts = {}
        for lane in lanes:
            if lane.webhook_id not in guards:
                claim.fates.append(Fate(lane, False, now + LOCKED_SECONDS))
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
    for number in range(first, len(claim.fates)):
        lane, has_more, *_ = claim.fates[number]
        limit = allowed[lane.webhook_id]
        if has_more and taken.get(lane.webhook_id, 0) >= limit.requests and not lane.is_ordered:
            claim.fates[number] = Fate(lane, False, _next_at(limit.next_at, now))


def _counts(taken: Taken) -> dict[UUID, int]:
    counts: dict[UUID, int] = {k: len(rows) for k, rows in taken.runs.items()}
    for delivery in taken.deliveries:
        counts[delivery.webhook_id] = counts.get(delivery.webhook_id, 0) + 1
    return counts


def _next_at(next_at: float, now: float) -> float:
    return max(min(next_at, now + LONGEST_PARK_SECONDS), now + RATE_SECONDS)
