"""Mark due rows as this worker's: the statements of a claim (invariant 4).

The transactions are short, skip locked rows and take only rows that can start now. A crash after a
claim leaves rows marked with a worker that no longer beats (webhooks/dispatch/life.py).
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, NamedTuple
from uuid import UUID

from webhooks.dispatch.lanes import Lane
from webhooks.dispatch.release import release
from webhooks.models.owner_keys import SQL_TYPE
from webhooks.postgres.horizon import IS_IN_ORDER
from webhooks.postgres.sql import run

MAX_CLAIM_BYTES = 16 * 1024 * 1024
"""Payloads of one claim, which is more than the largest."""


class ClaimedDelivery(NamedTuple):
    """A row that is ours to send while this worker lives."""

    id: UUID
    webhook_id: UUID
    event_id: UUID
    attempt_count: int
    attempts_before_round: int
    event_type: str
    payload: bytes
    due_at: float = 0.0
    """Unix seconds."""
    form: list[str | None] | None = None
    """The form, its event's object reference, the parameters of the form, the version of the event's data
    and, with order per object, the event's place in it; None is the standard form without such an
    order, which needs nothing."""
    traceparent: str | None = None
    """Of the span that stored its event; None without tracing."""

    @property
    def is_of_object(self) -> bool:
        """Whether it goes in the order of its object's events."""
        return self.form is not None and self.form[4] is not None


@dataclass(slots=True)
class Taken:
    """What a claim has marked so far."""

    deliveries: list[ClaimedDelivery] = field(default_factory=list)
    """To start in any order."""
    of_objects: list[ClaimedDelivery] = field(default_factory=list)
    """To start in any order: each is the first of its object."""
    runs: dict[UUID, list[ClaimedDelivery]] = field(default_factory=dict)
    """By webhook, to start one after the other."""
    behind: dict[UUID, UUID] = field(default_factory=dict)
    """Due rows behind others of their object, and their webhooks: to be postponed."""
    bytes: int = 0
    is_cut: bool = False
    """Whether a limit, of rows or of bytes, left something behind."""
    unreturned: list[UUID] = field(default_factory=list)
    """Rows to give back that another transaction has locked meanwhile."""
    waits_for_others: dict[UUID, float] = field(default_factory=dict)
    """Ordered webhooks whose first row waits for an older transaction to end, and since when it has
    been due (Unix seconds)."""
    waits_for_head: set[UUID] = field(default_factory=set)
    """Ordered webhooks whose first row is due but not free: claimed by another worker, a suspect, or
    locked."""

    @property
    def count(self) -> int:
        return len(self.deliveries) + len(self.of_objects) + sum(map(len, self.runs.values()))


FORM_COLUMN = """CASE WHEN c.form IS NOT NULL OR c.object_key IS NOT NULL
            THEN ARRAY[c.form, e.object_reference,
                 (SELECT f.spec FROM webhooks_storedform f WHERE f.key = c.form), e.version::text,
                 CASE WHEN c.object_key IS NOT NULL
                      THEN (((e.epoch - 1) << 48) + e.sequence)::text END]::text[] END"""
"""ClaimedDelivery.form of a claimed row `c` and its event `e`: one column, null nearly always. The
place of an event in one number: 2^48 events of the first epoch come before those of the second."""

# The lock on the worker's heartbeat keeps its burial and its claims apart: a worker that was declared
# dead claims nothing, and while a claim of before goes on the heartbeat stays (webhooks/dispatch/life.py).
MARK_DUE = """alive AS (
    SELECT FROM webhooks_workerheartbeat
     WHERE id = %(worker)s AND declared_dead_at IS NULL
       FOR KEY SHARE SKIP LOCKED
), claimed AS (
    UPDATE webhooks_delivery d
       SET status = 'SENDING', claimed_by = %(worker)s
     WHERE d.id = ANY(ARRAY(SELECT id FROM due)) AND EXISTS (SELECT FROM alive)
    RETURNING d.id, d.webhook_id, d.event_id, d.attempt_count, d.attempts_before_round,
              d.next_attempt_at, d.epoch, d.order_key, d.form, d.object_key
)"""
"""The end of every claim: mark the rows of `due`, which it has locked, as the worker's (`claimed`)."""


def marked_columns(window: str = "ROWS UNBOUNDED PRECEDING") -> str:
    """Return the columns of ClaimedDelivery, of a marked row `c` and its event `e`.

    A row whose payload would exceed the `bytes` of the claim comes without it; `window` says which
    rows come before.
    """
    return f"""c.id, c.webhook_id, c.event_id, c.attempt_count, c.attempts_before_round, e.type,
       CASE WHEN sum(octet_length(e.payload)) OVER ({window}) <= %(bytes)s
            THEN e.payload END AS payload,
       extract(epoch FROM c.next_attempt_at)::float8 AS due_at, {FORM_COLUMN} AS form, e.traceparent"""


# The commit is not waited for: when Postgres crashes, a claim may be forgotten, so that its rows are
# sent once more; none is lost.
CLAIM_SQL = f"""
WITH due AS (
    SELECT row.id
      FROM unnest(%(owners)s::{SQL_TYPE}[], %(webhooks)s::uuid[], %(counts)s::int[], %(lows)s::float8[])
           WITH ORDINALITY AS wanted (owner_id, webhook_id, count, low, position)
     CROSS JOIN LATERAL (
        SELECT d.id FROM webhooks_delivery d
         WHERE d.owner_id = wanted.owner_id AND d.webhook_id = wanted.webhook_id
           AND d.finished_at IS NULL AND d.order_key IS NULL
           AND d.next_attempt_at >= to_timestamp(wanted.low)
           AND d.next_attempt_at <= statement_timestamp()
           -- Not "NOT d.is_suspect", which would let the planner walk the index of all webhooks.
           AND d.claimed_by IS NULL AND d.is_suspect::int = 0
         ORDER BY d.next_attempt_at
         LIMIT wanted.count
           FOR UPDATE SKIP LOCKED
     ) row
     LIMIT %(limit)s
), {MARK_DUE}
SELECT {marked_columns()}
  FROM claimed c JOIN webhooks_event e ON e.id = c.event_id,
       (SELECT set_config('synchronous_commit', 'off', true)) AS asynchronous
"""  # noqa: S608 (constants only)

# Takes the first unfinished rows of an ordered webhook, up to the first one that may not go. It waits
# for its commit: if Postgres forgot the claim, another worker would send a row at the same time.
CLAIM_RUNS_SQL = f"""
WITH run AS MATERIALIZED (
    SELECT first.id, first.webhook_id, first.position,
           bool_and(first.is_in_order) OVER rows_before AS is_in_order,
           bool_and(first.is_free) OVER rows_before AS is_free, first.is_due,
           first.next_attempt_at
      FROM unnest(%(webhooks)s::uuid[], %(counts)s::int[]) AS wanted (webhook_id, count)
     CROSS JOIN LATERAL (
        SELECT d.id, d.webhook_id, d.next_attempt_at,
               row_number() OVER (ORDER BY d.epoch, d.order_key, d.id) AS position,
               {IS_IN_ORDER} AS is_in_order,
               d.claimed_by IS NULL AND NOT d.is_suspect
                   AND d.next_attempt_at <= greatest(statement_timestamp(), d.created_at) AS is_free,
               d.next_attempt_at <= greatest(statement_timestamp(), d.created_at) AS is_due
          FROM (
            SELECT * FROM webhooks_delivery d
             WHERE d.webhook_id = wanted.webhook_id
               AND d.finished_at IS NULL AND d.order_key IS NOT NULL
             ORDER BY d.epoch, d.order_key, d.id
             LIMIT wanted.count
          ) d
     ) first
    WINDOW rows_before AS (PARTITION BY first.webhook_id ORDER BY first.position)
), due AS (
    -- The condition on the status keeps the planner from the partial indexes of all that waits.
    SELECT d.id FROM webhooks_delivery d
     WHERE d.id = ANY(ARRAY(SELECT id FROM run WHERE is_free AND is_in_order))
       AND d.status IN ('PENDING', 'RETRYING') AND d.claimed_by IS NULL AND NOT d.is_suspect
       AND d.next_attempt_at <= greatest(statement_timestamp(), d.created_at)
       FOR UPDATE SKIP LOCKED
), {MARK_DUE}
-- All that were read, then all that were marked: a join of the two may be planned as rows times rows.
SELECT run.webhook_id, run.position, run.is_free, run.is_in_order, run.is_due,
       run.id, NULL::uuid, NULL::uuid, NULL::int, NULL::int, NULL::text, NULL::bytea,
       extract(epoch FROM run.next_attempt_at)::float8, NULL::text[], NULL::text
  FROM run
UNION ALL
SELECT NULL, NULL, true, true, true,
       {marked_columns("ORDER BY c.webhook_id, c.epoch, c.order_key, c.id")}
  FROM claimed c JOIN webhooks_event e ON e.id = c.event_id
 ORDER BY 1, 2
"""  # noqa: S608 (constants only)


def take_due(
    taken: Taken, worker_id: UUID, lanes: Sequence[Lane], counts: Sequence[int], limit: int
) -> None:
    """Mark rows of these lanes, up to `counts` of each and `limit` of all."""
    room = MAX_CLAIM_BYTES - taken.bytes
    if not lanes or room <= 0 or limit <= 0:
        taken.is_cut |= bool(lanes)
        return
    parameters = {
        "owners": [lane.owner_id for lane in lanes],
        "webhooks": [lane.webhook_id for lane in lanes],
        "counts": list(counts),
        "lows": [lane.low for lane in lanes],
        "limit": limit,
        "bytes": room,
        "worker": worker_id,
    }
    rows = list(map(ClaimedDelivery._make, run(CLAIM_SQL, parameters)))
    taken.is_cut |= len(rows) == limit
    taken.deliveries += keep_light(taken, worker_id, rows)


def take_runs(
    taken: Taken, worker_id: UUID, webhook_ids: Sequence[UUID], counts: Sequence[int]
) -> None:
    """Mark the first rows of ordered webhooks, up to `counts` of each, that may go now.

    A row may go when all older transactions have ended: what they still commit comes first
    (invariant 13), and only behind a row that goes with it.
    """
    room = MAX_CLAIM_BYTES - taken.bytes
    if not webhook_ids or room <= 0:
        taken.is_cut |= bool(webhook_ids)
        return
    parameters = {
        "webhooks": list(webhook_ids),
        "counts": list(counts),
        "bytes": room,
        "worker": worker_id,
    }
    read: defaultdict[UUID, list[Any]] = defaultdict(list)
    marked: dict[UUID, ClaimedDelivery] = {}
    for row in run(CLAIM_RUNS_SQL, parameters):
        if row[0] is not None:
            read[row[0]].append(row)
        else:
            marked[row[5]] = ClaimedDelivery._make(row[5:])
    for webhook_id, rows in read.items():
        is_free, is_in_order, is_due = rows[0][2:5]
        if is_free and not is_in_order:
            taken.waits_for_others[webhook_id] = ClaimedDelivery._make(rows[0][5:]).due_at
        # Another worker may have changed rows between the reading and the locking: behind a gap
        # nothing may go.
        ids = [row[5] for row in rows]
        first = [marked[id] for id in takewhile(marked.__contains__, ids)]
        if behind := [id for id in ids[len(first) :] if id in marked]:
            taken.unreturned += release(worker_id, behind)
        light = list(takewhile(lambda row: row.payload is not None, first))
        if heavy := [row.id for row in first[len(light) :]]:
            taken.unreturned += release(worker_id, heavy)
            taken.is_cut = True
        if not first and is_due and webhook_id not in taken.waits_for_others:
            taken.waits_for_head.add(webhook_id)
        if light:
            taken.runs[webhook_id] = light
            taken.bytes += sum(len(row.payload) for row in light)


def keep_light(taken: Taken, worker_id: UUID, rows: list[ClaimedDelivery]) -> list[ClaimedDelivery]:
    """Return rows whose payloads fit into memory together; the others are given back."""
    light = [row for row in rows if row.payload is not None]
    if heavy := [row.id for row in rows if row.payload is None]:
        taken.unreturned += release(worker_id, heavy)
        taken.is_cut = True
    taken.bytes += sum(len(row.payload) for row in light)
    return light
