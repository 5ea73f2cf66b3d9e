"""The quick claim of a quiet worker: one statement finds due rows, marks them and reads their webhooks.

A worker without due lanes makes it instead of a look (webhooks/dispatch/discovery.py). It takes a few
rows of the simplest webhooks: those without order, rate limit, cap of their host, open breaker or
recent recovery. It
returns all other due rows as lanes, for a usual claim.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from webhooks.dispatch import take
from webhooks.dispatch.discovery import Look, clock_offset
from webhooks.dispatch.endpoints import ENDPOINT_COLUMNS, Endpoints, with_owners
from webhooks.dispatch.lanes import Lane
from webhooks.dispatch.take import (
    MARK_DUE,
    ClaimedDelivery,
    Taken,
    keep_light,
    marked_columns,
)
from webhooks.models.endpoint_proof import host_cap
from webhooks.pace.breaker import RAMP_SECONDS
from webhooks.pace.window import START
from webhooks.postgres.sql import run
from webhooks.wire.clock import boottime

QUICK_ROWS = 32
"""How many of the latest due rows it reads; where there are more, a usual claim follows."""

QUICK_SQL = f"""
WITH recent AS MATERIALIZED (
    SELECT d.id, d.owner_id, d.webhook_id, d.order_key IS NOT NULL AS is_ordered, d.next_attempt_at,
           row_number() OVER (PARTITION BY d.webhook_id, d.order_key IS NOT NULL
                              ORDER BY d.next_attempt_at) AS place
      FROM (
        SELECT d.id, d.owner_id, d.webhook_id, d.order_key, d.next_attempt_at
          FROM webhooks_delivery d
         WHERE d.finished_at IS NULL AND d.claimed_by IS NULL AND NOT d.is_suspect
           AND d.next_attempt_at <= statement_timestamp()
           AND d.next_attempt_at > statement_timestamp() - make_interval(secs => %(seconds)s)
         ORDER BY d.next_attempt_at DESC
         LIMIT %(rows)s
      ) d
), webhook AS MATERIALIZED (
    SELECT {ENDPOINT_COLUMNS}
      FROM webhooks_webhook w
     WHERE w.id = ANY(ARRAY(SELECT webhook_id FROM recent))
), due AS (
    -- The condition on the status keeps the planner from the partial indexes of all that waits.
    SELECT d.id FROM webhooks_delivery d
     WHERE d.id = ANY(ARRAY(
            SELECT recent.id
              FROM recent
              JOIN webhook w ON w.id = recent.webhook_id
              LEFT JOIN unnest(%(webhooks)s::uuid[], %(rooms)s::int[]) AS known (webhook_id, room)
                     ON known.webhook_id = recent.webhook_id
             WHERE NOT recent.is_ordered AND recent.place <= coalesce(known.room, {START})
               AND w.is_active AND w.is_owner_active AND NOT w.is_paused AND NOT w.is_deleted
               AND w.breaker_state = 'closed'
               AND w.rate_limit IS NULL AND (w.is_verified OR NOT %(is_capped)s)
               AND coalesce(w.held_until, 0) <= extract(epoch FROM statement_timestamp())
               AND coalesce(w.breaker_changed_at, 0)
                   <= extract(epoch FROM statement_timestamp()) - {RAMP_SECONDS}
             ORDER BY recent.place
             LIMIT %(limit)s))
       AND d.status IN ('PENDING', 'RETRYING') AND d.claimed_by IS NULL AND NOT d.is_suspect
       AND d.next_attempt_at <= statement_timestamp()
       FOR UPDATE SKIP LOCKED
), {MARK_DUE}, taken AS (
    SELECT {marked_columns()}
      FROM claimed c JOIN webhooks_event e ON e.id = c.event_id
)
SELECT extract(epoch FROM clock_timestamp())::float8, EXISTS (SELECT FROM webhooks_pause),
       recent.owner_id, recent.webhook_id, recent.is_ordered,
       extract(epoch FROM recent.next_attempt_at)::float8,
       taken.*, w.*,
       (SELECT set_config('synchronous_commit', 'off', true))
  FROM (SELECT) AS always_one_row
  LEFT JOIN (recent LEFT JOIN (taken JOIN webhook w ON w.id = taken.webhook_id)
                           ON taken.id = recent.id) ON true
"""  # noqa: S608 (constants only)


@dataclass(slots=True)
class QuickClaim:
    """One run of QUICK_SQL: what it is asked, and when."""

    parameters: dict[str, Any]
    asked_at: float
    """By the monotonic clock."""
    read_at: float
    """By the clock that goes on in sleep."""


def ask(
    worker_id: UUID,
    limit: int,
    endpoints: Endpoints,
    *,
    rooms: dict[UUID, int],
    back_seconds: float,
) -> QuickClaim:
    """Begin a claim of up to `limit` of the latest due rows.

    `rooms` says how many more rows the worker may hold of webhooks; START of all others.
    """
    # A copy: the claimer may be loading others meanwhile.
    rooms = rooms | dict.fromkeys(tuple(endpoints.unreadable), 0)
    parameters = {
        "worker": worker_id,
        "limit": limit,
        "seconds": back_seconds,
        "rows": QUICK_ROWS,
        "webhooks": list(rooms),
        "rooms": list(rooms.values()),
        "bytes": take.MAX_CLAIM_BYTES,
        "is_capped": host_cap() is not None,
    }
    return QuickClaim(parameters, time.monotonic(), boottime())


def sql() -> str:
    """Return the statement, whose parameters ask() gives and whose rows read() takes."""
    return with_owners(QUICK_SQL)


def read(
    claim: QuickClaim, rows: Sequence[tuple[Any, ...]], endpoints: Endpoints
) -> tuple[list[ClaimedDelivery], Look]:
    """Return the rows that were marked as this worker's, and what is left."""
    now, is_paused = rows[0][:2]
    left = Look(now, clock_offset(now, claim.asked_at), is_paused)
    if rows[0][3] is None:
        return [], left
    left.is_cut = len(rows) >= QUICK_ROWS
    lanes: dict[tuple[UUID, bool], Lane] = {}
    marked = []
    for row in rows:
        if row[6] is not None:
            marked.append(ClaimedDelivery._make(row[6:16]))
            endpoints.take_in(row[7], row[16:-1], claim.read_at)
            continue
        lane = lanes.setdefault((row[3], row[4]), Lane(*row[2:6]))
        lane.low = min(lane.low, row[5])
    left.lanes = list(lanes.values())
    return marked, left


def take_recent(
    worker_id: UUID,
    limit: int,
    endpoints: Endpoints,
    *,
    rooms: dict[UUID, int],
    back_seconds: float,
) -> tuple[Taken, Look]:
    """Make the whole of a quick claim on this thread's connection."""
    claim = ask(worker_id, limit, endpoints, rooms=rooms, back_seconds=back_seconds)
    marked, left = read(claim, run(sql(), claim.parameters).fetchall(), endpoints)
    taken = Taken()
    taken.deliveries = keep_light(taken, worker_id, marked)
    return taken, left
