"""Take due rows to send: short transactions, SKIP LOCKED, only what can start now (invariant 4).

One claim visits the owners and webhooks that wait for anything, in rotation, decides in Python how
many rows each may have (`allot`), and takes them in one statement. Webhooks with a rate limit or an
open breaker are decided on under a lock of their row, so that all workers together keep the limit
and only one sends a probe. A crash after a claim leaves rows marked with a worker that no longer
beats (webhooks/dispatch/life.py).
"""

import math
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import zip_longest
from operator import itemgetter
from typing import Any, NamedTuple
from uuid import UUID

from webhooks import breaker, rate
from webhooks.breaker import Breaker
from webhooks.choices import BreakerState
from webhooks.database import limited_transaction, run
from webhooks.dispatch.window import LARGEST
from webhooks.horizon import IS_IN_ORDER

Position = tuple[UUID, UUID]
"""An owner and a webhook: how far a rotation has come."""

START_OF_ROTATION: Position = (UUID(int=0), UUID(int=0))
WEBHOOKS_PER_CLAIM = 256
"""How many waiting webhooks one claim visits; the next claim goes on behind the last of them."""
MAX_CLAIM_BYTES = 16 * 1024 * 1024
"""Payloads of one claim, which is more than the largest."""
RATE_POLL_SECONDS = 0.02
"""How soon to look again where a rate limit holds rows back; what it allows adds up meanwhile."""
ORDER_POLL_SECONDS = 0.05
"""How soon to look again where an ordered webhook waits for an older transaction to end."""


class ClaimedDelivery(NamedTuple):
    """A row that is ours to send while this worker lives."""

    id: UUID
    webhook_id: UUID
    event_id: UUID
    attempt_count: int
    attempts_before_round: int
    event_type: str
    payload: bytes


@dataclass(slots=True)
class Claim:
    """What one claim took."""

    database_time: float
    """Unix seconds, when it was made."""
    clock_offset: float
    """From the monotonic clock to the database's."""
    deliveries: list[ClaimedDelivery] = field(default_factory=list)
    next_position: Position = START_OF_ROTATION
    """Where the rotation goes on; the start when everything that waits was visited."""
    has_more: bool = False
    """Whether something due was left that could start at once."""
    full: frozenset[UUID] = frozenset()
    """Webhooks that had more due than they had room for."""
    next_at: float = math.inf
    """When the next row becomes due of what was visited, as far as it is known (Unix seconds)."""

    deleted: list[UUID] = field(default_factory=list)
    """Deleted webhooks for which something still waits."""

    @property
    def is_complete(self) -> bool:
        """Whether nothing due was left that could start now."""
        return self.next_position == START_OF_ROTATION and not self.has_more


class Waiting(NamedTuple):
    """A webhook that waits for something, and what decides whether it may have it."""

    owner_id: UUID
    webhook_id: UUID
    first_at: datetime
    """When its first row is due, or was if that one is in flight."""
    ordered: bool
    rate_limit: float | None
    breaker_state: str
    breaker_changed_at: datetime | None

    @property
    def is_guarded(self) -> bool:
        """Whether it needs a look at the webhook's row, under a lock."""
        return self.rate_limit is not None or self.breaker_state != BreakerState.CLOSED


# Each step of the recursion finds the next owner and webhook in the index of unfinished rows.
VISIT_SQL = """
WITH RECURSIVE visited (owner_id, webhook_id, first_at, position) AS (
    (SELECT d.owner_id, d.webhook_id, d.next_attempt_at, 1
       FROM webhooks_delivery d
      WHERE d.finished_at IS NULL
        AND (d.owner_id, d.webhook_id) > (%(after_owner)s, %(after_webhook)s)
      ORDER BY d.owner_id, d.webhook_id, d.next_attempt_at LIMIT 1)
    UNION ALL
    SELECT next.owner_id, next.webhook_id, next.next_attempt_at, v.position + 1
      FROM visited v
     CROSS JOIN LATERAL (
        SELECT d.owner_id, d.webhook_id, d.next_attempt_at
          FROM webhooks_delivery d
         WHERE d.finished_at IS NULL AND (d.owner_id, d.webhook_id) > (v.owner_id, v.webhook_id)
         ORDER BY d.owner_id, d.webhook_id, d.next_attempt_at LIMIT 1
     ) next
     WHERE v.position <= %(webhooks)s
)
SELECT extract(epoch FROM clock_timestamp())::float8, v.position,
       v.owner_id, v.webhook_id, v.first_at,
       w.ordered, w.rate_limit, w.breaker_state, w.breaker_changed_at,
       w.active AND w.deleted_at IS NULL AND NOT EXISTS (SELECT FROM webhooks_pause)
           AND coalesce(w.held_until <= clock_timestamp(), true),
       w.deleted_at IS NOT NULL OR w.id IS NULL
  FROM (SELECT) AS always_one_row
  LEFT JOIN (visited v LEFT JOIN webhooks_webhook w ON w.id = v.webhook_id) ON true
"""

CLAIM_SQL = """
WITH due AS (
    SELECT row.id
      FROM unnest(%(owners)s::uuid[], %(webhooks)s::uuid[], %(counts)s::int[], %(ordered)s::bool[])
           WITH ORDINALITY AS wanted (owner_id, webhook_id, count, ordered, position)
     CROSS JOIN LATERAL (
        SELECT d.id FROM webhooks_delivery d
         WHERE d.owner_id = wanted.owner_id AND d.webhook_id = wanted.webhook_id
           AND d.finished_at IS NULL AND d.next_attempt_at <= statement_timestamp()
           AND d.claimed_by IS NULL AND NOT d.is_suspect
           AND NOT (wanted.ordered AND d.order_key IS NOT NULL)
         ORDER BY d.next_attempt_at
         LIMIT wanted.count
           FOR UPDATE SKIP LOCKED
     ) row
     LIMIT %(limit)s
)"""

# Of an ordered webhook only the head, the first that is not finished, may go.
HEADS_SQL = f"""
SELECT d.id, d.claimed_by IS NOT NULL OR d.is_suspect, extract(epoch FROM d.next_attempt_at)::float8,
       {IS_IN_ORDER}
  FROM unnest(%(webhooks)s::uuid[]) AS wanted (webhook_id)
 CROSS JOIN LATERAL (
    SELECT d.id, d.claimed_by, d.is_suspect, d.next_attempt_at, d.epoch, d.order_key
      FROM webhooks_delivery d
     WHERE d.webhook_id = wanted.webhook_id AND d.finished_at IS NULL AND d.order_key IS NOT NULL
     ORDER BY d.epoch, d.order_key, d.id LIMIT 1
 ) d
"""  # noqa: S608 (constants only)

# Never the next one in a head's place: who comes late finds the head taken and goes away.
CLAIM_HEADS_SQL = """
WITH due AS (
    SELECT d.id FROM webhooks_delivery d
     WHERE d.id = ANY(%(ids)s) AND d.finished_at IS NULL AND d.claimed_by IS NULL
       AND NOT d.is_suspect AND d.next_attempt_at <= statement_timestamp()
       FOR UPDATE SKIP LOCKED
)"""

# The lock on the worker's heartbeat keeps its burial and its claims apart: a worker that was declared
# dead claims nothing, and while a claim of before goes on the heartbeat stays (webhooks/dispatch/life.py).
TAKE_SQL = """, alive AS (
    SELECT FROM webhooks_workerheartbeat
     WHERE id = %(worker)s AND declared_dead_at IS NULL
       FOR KEY SHARE SKIP LOCKED
), claimed AS (
    UPDATE webhooks_delivery d
       SET status = 'SENDING', claimed_by = %(worker)s
     WHERE d.id = ANY(ARRAY(SELECT id FROM due)) AND EXISTS (SELECT FROM alive)
    RETURNING d.id, d.webhook_id, d.event_id, d.attempt_count, d.attempts_before_round
)
SELECT c.id, c.webhook_id, c.event_id, c.attempt_count, c.attempts_before_round, e.type,
       CASE WHEN sum(octet_length(e.payload)) OVER (ROWS UNBOUNDED PRECEDING) <= %(bytes)s
            THEN e.payload END
  FROM claimed c JOIN webhooks_event e ON e.id = c.event_id
"""

# For this transaction only: it need not wait until what was settled meanwhile is on disk. When
# Postgres crashes, a claim may be forgotten, so that its rows are sent once more; none is lost.
# Not where order counts: the head of an ordered webhook must never go out beside the next one.
WITHOUT_WAITING_SQL = """
     , (SELECT set_config('synchronous_commit', 'off', true)) AS asynchronous
"""


def claim_due(
    worker_id: UUID,
    *,
    limit: int,
    room_of: Callable[[UUID, int], int],
    after: Position = START_OF_ROTATION,
) -> Claim:
    """Mark up to `limit` due deliveries as SENDING by this worker and return them.

    `room_of` says how many more rows of a webhook this worker may hold, where no more than a number
    may be in all; `after` is where the last claim's rotation stopped.
    """
    claim, waiting = _visit(after)
    due = [one for one in waiting if one.first_at.timestamp() <= claim.database_time]
    rooms = {one.webhook_id: room_of(one.webhook_id, most_held(one, claim)) for one in due}
    wanted = allot(due, rooms, limit)
    due = in_turn(due)
    plain = [one for one in due if not one.is_guarded]
    guarded = [one for one in due if one.is_guarded and wanted[one.webhook_id]]
    _take(claim, worker_id, plain, wanted, limit)
    if guarded and len(claim.deliveries) < limit:
        _take_guarded(claim, worker_id, guarded, wanted, limit - len(claim.deliveries))
    _look_ahead(claim, waiting, rooms, wanted)
    return claim


def _visit(after: Position) -> tuple[Claim, list[Waiting]]:
    """Return the waiting webhooks that may be sent to, from `after` on."""
    parameters = {
        "after_owner": after[0],
        "after_webhook": after[1],
        "webhooks": WEBHOOKS_PER_CLAIM,
    }
    asked_at = time.monotonic()
    rows = run(VISIT_SQL, parameters).fetchall()
    claim = Claim(rows[0][0], clock_offset(rows[0][0], asked_at))
    found = sorted((row for row in rows if row[1] is not None), key=itemgetter(1))
    visited = found[:WEBHOOKS_PER_CLAIM]
    if len(found) > len(visited):
        claim.next_position = (visited[-1][2], visited[-1][3])
    claim.deleted = [row[3] for row in visited if row[10]]
    return claim, [Waiting._make(row[2:9]) for row in visited if row[9]]


def clock_offset(database_time: float, asked_at: float) -> float:
    """The database looked at its clock between our question and its answer."""
    return database_time - (asked_at + time.monotonic()) / 2


def most_held(one: Waiting, claim: Claim) -> int:
    """Return how many rows of a webhook a worker may hold: one as a probe, more and more while the
    webhook recovers."""
    if one.breaker_state != BreakerState.CLOSED:
        return 1
    changed_at = one.breaker_changed_at
    ramp = None
    if changed_at is not None:
        ramp = breaker.most_in_flight(changed_at.timestamp(), claim.database_time)
    return LARGEST if ramp is None else min(ramp, LARGEST)


def allot(due: Sequence[Waiting], rooms: Mapping[UUID, int], limit: int) -> dict[UUID, int]:
    """Deal `limit` rows out: to the owners first, then to each owner's webhooks, within their room.

    Twice what would be even, since most have less than their share due; the limit keeps it fair
    together with the order in which they are served (in_turn).
    """
    webhooks_of = Counter(one.owner_id for one in due)
    share = 2 * limit / max(1, len(webhooks_of))
    return {
        one.webhook_id: min(rooms[one.webhook_id], math.ceil(share / webhooks_of[one.owner_id]))
        for one in due
    }


def in_turn(due: Sequence[Waiting]) -> list[Waiting]:
    """Return the webhooks as they are served: one of each owner, then another of each, and so on.

    Chance decides who comes first, so that nobody is always the one whom the limit cuts off.
    """
    by_owner: defaultdict[UUID, list[Waiting]] = defaultdict(list)
    for one in random.sample(due, len(due)):
        by_owner[one.owner_id].append(one)
    turns = zip_longest(*by_owner.values())
    return [one for turn in turns for one in turn if one is not None]


def _take(
    claim: Claim,
    worker_id: UUID,
    webhooks: Sequence[Waiting],
    counts: Mapping[UUID, int],
    limit: int,
) -> None:
    """Claim rows of these webhooks, up to `counts` of each and `limit` of all."""
    webhooks = [one for one in webhooks if counts[one.webhook_id] > 0]
    if not webhooks:
        return
    if heads := _find_heads(claim, [one.webhook_id for one in webhooks if one.ordered]):
        hold(claim, worker_id, CLAIM_HEADS_SQL + TAKE_SQL, {"ids": heads})
    parameters = {
        "owners": [one.owner_id for one in webhooks],
        "webhooks": [one.webhook_id for one in webhooks],
        "counts": [counts[one.webhook_id] for one in webhooks],
        "ordered": [one.ordered for one in webhooks],
        "limit": limit,
    }
    sql = CLAIM_SQL + TAKE_SQL
    if not any(one.ordered for one in webhooks):
        sql += WITHOUT_WAITING_SQL
    if hold(claim, worker_id, sql, parameters) == limit:
        claim.has_more = True


def hold(claim: Claim, worker_id: UUID, sql: str, parameters: Mapping[str, Any]) -> int:
    """Take rows and return how many; those whose payloads are too much at once are given back."""
    room = MAX_CLAIM_BYTES - sum(len(delivery.payload) for delivery in claim.deliveries)
    if room <= 0:
        claim.has_more = True
        return 0
    always = {"worker": worker_id, "bytes": room}
    rows = list(map(ClaimedDelivery._make, run(sql, {**parameters, **always})))
    claim.deliveries.extend(row for row in rows if row.payload is not None)
    if too_heavy := [row.id for row in rows if row.payload is None]:
        release(worker_id, too_heavy)
        claim.has_more = True
    return len(rows)


def _find_heads(claim: Claim, webhook_ids: list[UUID]) -> list[UUID]:
    """Return the heads of ordered webhooks that may go now, and note when others may.

    An event may go when all older transactions have ended: what they still commit comes first
    (invariant 13). Older is the smaller id, not the smaller number of the sequence: a transaction
    may take its number before, and its id after another one.
    """
    if not webhook_ids:
        return []
    heads = []
    for head, is_taken, due_at, is_in_order in run(HEADS_SQL, {"webhooks": webhook_ids}):
        if is_taken:
            continue
        if due_at > claim.database_time:
            claim.next_at = min(claim.next_at, due_at)
        elif is_in_order:
            heads.append(head)
        else:
            claim.next_at = min(claim.next_at, claim.database_time + ORDER_POLL_SECONDS)
    return heads


# Webhooks with a rate limit or a breaker that is not closed.

LOCK_SQL = """
SELECT w.id, w.rate_limit, extract(epoch FROM w.rate_ready_at)::float8,
       w.breaker_state, w.breaker_failures, w.breaker_probes,
       extract(epoch FROM w.breaker_changed_at)::float8,
       extract(epoch FROM w.breaker_probe_at)::float8,
       extract(epoch FROM w.failing_since)::float8
  FROM webhooks_webhook w
 WHERE w.id = ANY(%(webhooks)s) AND w.active AND w.deleted_at IS NULL
 ORDER BY w.id
   FOR NO KEY UPDATE SKIP LOCKED
"""

SPEND_SQL = """
UPDATE webhooks_webhook w
   SET rate_ready_at = to_timestamp(s.ready_at), breaker_state = s.state,
       breaker_probe_at = to_timestamp(s.probe_at)
  FROM unnest(%(webhooks)s::uuid[], %(ready_at)s::float8[], %(states)s::text[],
              %(probe_at)s::float8[]) AS s (webhook_id, ready_at, state, probe_at)
 WHERE w.id = s.webhook_id
"""


class Guard(NamedTuple):
    """The locked row of a webhook that is guarded."""

    rate_limit: float | None
    ready_at: float | None
    breaker: Breaker


def lock_guards(webhook_ids: Sequence[UUID]) -> dict[UUID, Guard]:
    """Lock those of these webhooks that nobody else has locked, until the transaction ends."""
    rows = run(LOCK_SQL, {"webhooks": list(webhook_ids)})
    return {row[0]: Guard(row[1], row[2], Breaker._make(row[3:])) for row in rows}


def _take_guarded(
    claim: Claim,
    worker_id: UUID,
    guarded: Sequence[Waiting],
    wanted: Mapping[UUID, int],
    limit: int,
) -> None:
    now = claim.database_time
    with limited_transaction():
        guards = lock_guards([one.webhook_id for one in guarded])
        counts = {}
        for webhook_id, guard in guards.items():
            counts[webhook_id] = min(wanted[webhook_id], allowed(guard, now, claim))
        already = len(claim.deliveries)
        _take(claim, worker_id, [one for one in guarded if one.webhook_id in guards], counts, limit)
        taken = Counter(delivery.webhook_id for delivery in claim.deliveries[already:])
        if taken:
            spend({webhook_id: guards[webhook_id] for webhook_id in taken}, taken, now)


def allowed(guard: Guard, now: float, claim: Claim) -> int:
    """Return how many requests a guarded webhook may have now; notes when it may have the next."""
    count = 1_000_000
    if guard.breaker.state != BreakerState.CLOSED:
        if breaker.probing(guard.breaker, now) is None:
            claim.next_at = min(claim.next_at, guard.breaker.probe_at or now)
            return 0
        count = 1
    if guard.rate_limit is not None:
        allowed = rate.allowance(guard.rate_limit, guard.ready_at, now)
        claim.next_at = min(claim.next_at, max(allowed.next_at, now + RATE_POLL_SECONDS))
        count = min(count, allowed.requests)
    return count


def spend(guards: Mapping[UUID, Guard], taken: Mapping[UUID, int], now: float) -> None:
    ready_at, states, probe_at = [], [], []
    for webhook_id, guard in guards.items():
        state = guard.breaker
        if state.state != BreakerState.CLOSED:
            state = breaker.probing(state, now) or state
        states.append(str(state.state))
        probe_at.append(state.probe_at)
        ready_at.append(
            None
            if guard.rate_limit is None
            else rate.spend(guard.rate_limit, guard.ready_at, now, taken[webhook_id])
        )
    run(
        SPEND_SQL,
        {
            "webhooks": list(guards),
            "ready_at": ready_at,
            "states": states,
            "probe_at": probe_at,
        },
    )


def _look_ahead(
    claim: Claim,
    waiting: Sequence[Waiting],
    rooms: Mapping[UUID, int],
    wanted: Mapping[UUID, int],
) -> None:
    """Note what was left: webhooks cut short, and when the next row becomes due."""
    for one in waiting:
        due_at = one.first_at.timestamp()
        if due_at > claim.database_time:
            claim.next_at = min(claim.next_at, due_at)
    taken = Counter(delivery.webhook_id for delivery in claim.deliveries)
    cut = {
        one.webhook_id
        for one in waiting
        if one.webhook_id in rooms
        and not (one.is_guarded or one.ordered)
        and taken[one.webhook_id] >= wanted[one.webhook_id]
    }
    claim.full = frozenset(
        webhook_id for webhook_id, room in rooms.items() if taken[webhook_id] >= room
    )
    claim.has_more |= not cut <= claim.full


# Rows that are given back.

RELEASE_SQL = """
UPDATE webhooks_delivery
   SET status = CASE WHEN attempt_count > attempts_before_round THEN 'RETRYING' ELSE 'PENDING' END,
       next_attempt_at = next_attempt_at + make_interval(secs => %(delay)s),
       claimed_by = NULL
 WHERE id = ANY(%(ids)s) AND claimed_by = %(worker)s
"""


def release(worker_id: UUID, delivery_ids: list[UUID], *, delay_seconds: float = 0) -> None:
    """Give rows back that were claimed and not started; they spend no attempt."""
    run(RELEASE_SQL, {"delay": delay_seconds, "ids": delivery_ids, "worker": worker_id})


# What a worker holds that nobody else has locked just now, and what somebody has.
HELD_SQL = """
WITH held AS MATERIALIZED (
    SELECT id, claimed_by FROM webhooks_delivery
     WHERE finished_at IS NULL AND claimed_by = ANY(%(workers)s) AND NOT id = ANY(%(kept)s)
), free AS (
    SELECT d.id, d.is_suspect FROM webhooks_delivery d JOIN held ON held.id = d.id
     WHERE d.finished_at IS NULL AND d.claimed_by = held.claimed_by
       FOR NO KEY UPDATE OF d SKIP LOCKED
)
SELECT held.id, held.claimed_by, free.is_suspect, free.id IS NULL
  FROM held LEFT JOIN free ON free.id = held.id
"""


class HeldDelivery(NamedTuple):
    """A row that is marked as a worker's."""

    id: UUID
    worker_id: UUID
    is_suspect: bool | None
    """None where it is locked."""
    is_locked: bool
    """By somebody else, so that it has to be looked for again."""


def lock_held(worker_ids: Sequence[UUID], *, kept: Sequence[UUID] = ()) -> list[HeldDelivery]:
    """Return what is marked as these workers', but for `kept`, and lock it until the transaction ends.

    Waits for no lock. No index leads to a worker's rows, since it would cost every claim: this
    reads all rows that are not finished, half a second for a million of them.
    """
    parameters = {"workers": list(worker_ids), "kept": list(kept)}
    return [HeldDelivery._make(row) for row in run(HELD_SQL, parameters)]


def release_others(worker_id: UUID, held: Sequence[UUID]) -> int:
    """Give back what is marked as this worker's and is not among what it holds.

    When the connection breaks, a claim may have been committed without its worker ever knowing.
    Returns how many rows somebody has locked, which are still to be given back.
    """
    with limited_transaction():
        others = lock_held([worker_id], kept=held)
        release(worker_id, [row.id for row in others if not row.is_locked])
    return sum(row.is_locked for row in others)


CANCEL_SQL = """
UPDATE webhooks_delivery
   SET status = 'CANCELLED', finished_at = clock_timestamp(), next_attempt_at = NULL,
       error = 'The webhook was deleted.'
 WHERE id = ANY(ARRAY(
    SELECT d.id FROM webhooks_delivery d
     WHERE d.webhook_id = ANY(%(webhooks)s) AND d.finished_at IS NULL AND d.claimed_by IS NULL
     LIMIT 5000
       FOR UPDATE SKIP LOCKED))
"""


def cancel_deleted(webhook_ids: list[UUID]) -> None:
    """Cancel some of what waits for deleted webhooks; later claims find the rest."""
    run(CANCEL_SQL, {"webhooks": webhook_ids})
