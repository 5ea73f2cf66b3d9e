"""Order per object: claim the first rows of objects, and keep those behind them out of the way.

The events of one object go in the order in which they were stored: by (epoch, sequence). A transaction
that changes an object locks its row before it stores the event, and until it commits; so that order is
the order of the commits, and every snapshot that sees an event sees those before it. No row waits for
strangers' transactions, as those of webhooks in one order do (webhooks/postgres/horizon.py).

A worker holds one row of an object at a time: the first that is not finished. A claim that meets rows
behind it postpones them, so that later claims do not meet them again. Whoever finishes the first row
makes the next one due. Both look once more after they have committed, because neither waits for the
other; and a row is postponed for at most LONGEST_SECONDS, in case nobody comes to look.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from uuid import UUID

from webhooks.dispatch.take import (
    MARK_DUE,
    MAX_CLAIM_BYTES,
    ClaimedDelivery,
    Taken,
    keep_light,
    marked_columns,
)
from webhooks.postgres.objects import head_of, make_next_due, of_object
from webhooks.postgres.sql import run

READ_AHEAD = 16
"""How many more due rows a claim reads than twice those that it wants: some may be behind others."""
SHORTEST_SECONDS = 10.0
"""How long a row is postponed behind one that may be finished at any time."""
LONGEST_SECONDS = 300.0
AFTER_HEAD_SECONDS = 5.0
"""How much longer than the row before it, where that waits for a retry."""

# It waits for its commit, as the claim of a run does: if Postgres forgot it, two workers would send
# rows of one object. It reads nothing of a webhook whose first row has no place among those of an
# object yet, because the webhook's order was changed: nothing may pass that row.
CLAIM_OBJECTS_SQL = f"""
WITH candidate AS MATERIALIZED (
    SELECT row.id, row.webhook_id, row.is_head, row.next_attempt_at
      FROM unnest(%(webhooks)s::uuid[], %(counts)s::int[]) AS wanted (webhook_id, count)
     CROSS JOIN LATERAL (
        SELECT c.id, c.webhook_id, c.next_attempt_at, c.id = head.id AS is_head,
               row_number() OVER (PARTITION BY c.id = head.id ORDER BY c.next_attempt_at) AS number
          FROM (
            SELECT d.id, d.webhook_id, d.object_key, d.next_attempt_at FROM webhooks_delivery d
             WHERE d.webhook_id = wanted.webhook_id AND {of_object("d")}
               AND d.next_attempt_at <= statement_timestamp()
               AND d.claimed_by IS NULL AND d.is_suspect::int = 0
             ORDER BY d.next_attempt_at
             LIMIT 2 * wanted.count + {READ_AHEAD}
          ) c
         CROSS JOIN LATERAL ({head_of("c")}
         ) head
         WHERE (
            SELECT f.object_key FROM webhooks_delivery f
             WHERE f.webhook_id = wanted.webhook_id
               AND f.finished_at IS NULL AND f.order_key IS NOT NULL
             ORDER BY f.epoch, f.order_key, f.id LIMIT 1) IS NOT NULL
     ) row
     WHERE NOT row.is_head OR row.number <= wanted.count
), due AS (
    -- The condition on the status keeps the planner from the partial indexes of all that waits.
    SELECT d.id FROM webhooks_delivery d
     WHERE d.id = ANY(ARRAY(SELECT id FROM candidate WHERE is_head LIMIT %(limit)s))
       AND d.status IN ('PENDING', 'RETRYING') AND d.claimed_by IS NULL AND NOT d.is_suspect
       AND d.next_attempt_at <= statement_timestamp()
       FOR UPDATE SKIP LOCKED
), {MARK_DUE}
SELECT candidate.id, candidate.webhook_id, candidate.is_head,
       NULL::uuid, NULL::uuid, NULL::uuid, NULL::int, NULL::int, NULL::text, NULL::bytea,
       NULL::float8, NULL::varchar[], NULL::text
  FROM candidate
UNION ALL
SELECT NULL, NULL, NULL,
       {marked_columns()}
  FROM claimed c JOIN webhooks_event e ON e.id = c.event_id
"""  # noqa: S608 (constants only)


def take_objects(
    taken: Taken, worker_id: UUID, webhook_ids: Sequence[UUID], counts: Sequence[int], limit: int
) -> set[UUID]:
    """Mark the first rows of objects of these webhooks, up to `counts` of each and `limit` of all.

    Returns the webhooks of which more may be due. Once its transaction is committed, the caller must
    postpone the rows that it notes in `taken.behind`.
    """
    room = MAX_CLAIM_BYTES - taken.bytes
    if not webhook_ids or room <= 0 or limit <= 0:
        taken.is_cut |= bool(webhook_ids)
        return set(webhook_ids)
    parameters = {
        "webhooks": list(webhook_ids),
        "counts": list(counts),
        "limit": limit,
        "bytes": room,
        "worker": worker_id,
    }
    marked: list[ClaimedDelivery] = []
    read = set()
    for delivery_id, webhook_id, is_head, *row in run(CLAIM_OBJECTS_SQL, parameters):
        if delivery_id is None:
            marked.append(ClaimedDelivery._make(row))
            continue
        read.add(webhook_id)
        if not is_head:
            taken.behind[delivery_id] = webhook_id
    taken.is_cut |= len(marked) == limit
    taken.of_objects += keep_light(taken, worker_id, marked)
    marked_of = Counter(delivery.webhook_id for delivery in marked)
    more = {k for k, count in zip(webhook_ids, counts, strict=True) if marked_of[k] >= count}
    if idle := set(webhook_ids) - read:
        more |= _give_places(taken, idle)
    return more


POSTPONE_SQL = f"""
WITH behind AS MATERIALIZED (
    SELECT d.id, CASE WHEN head.claimed_by IS NULL THEN head.next_attempt_at END AS head_at,
           head.status
      FROM webhooks_delivery d
     CROSS JOIN LATERAL ({head_of("d")}
     ) head
     WHERE d.id = ANY(%(ids)s) AND {of_object("d")} AND d.id <> head.id
), free AS (
    SELECT d.id FROM webhooks_delivery d
     WHERE d.id = ANY(ARRAY(SELECT id FROM behind))
       AND d.status IN ('PENDING', 'RETRYING') AND d.claimed_by IS NULL
       FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE webhooks_delivery d
   SET next_attempt_at = statement_timestamp() + least(
           greatest(make_interval(secs => {SHORTEST_SECONDS}),
                    behind.head_at - statement_timestamp()
                        + make_interval(secs => {AFTER_HEAD_SECONDS})),
           make_interval(secs => {LONGEST_SECONDS}))
  FROM behind
 WHERE d.id = behind.id AND d.id = ANY(ARRAY(SELECT id FROM free))
RETURNING d.id
"""  # noqa: S608 (constants only)


def postpone(delivery_ids: Collection[UUID]) -> list[UUID]:
    """Make rows behind others of their object due later, until those are finished; return which.

    Not in a transaction of the caller: until it ended, whoever finishes one of those could not see
    that these wait for it.
    """
    if not delivery_ids:
        return []
    postponed = [row[0] for row in run(POSTPONE_SQL, {"ids": list(delivery_ids)})]
    # Whoever finished one of those meanwhile may not have seen that these wait for it.
    make_next_due(postponed)
    return postponed


# A change of the webhook's order.

MIXED_SQL = """
SELECT wanted.webhook_id
  FROM unnest(%(webhooks)s::uuid[]) AS wanted (webhook_id)
 CROSS JOIN LATERAL (
    SELECT f.object_key FROM webhooks_delivery f
     WHERE f.webhook_id = wanted.webhook_id
       AND f.finished_at IS NULL AND f.order_key IS NOT NULL
     ORDER BY f.epoch, f.order_key, f.id LIMIT 1
 ) first
 WHERE first.object_key IS NULL
"""
GIVEN_ROWS = 1000
GIVE_PLACES_SQL = """
UPDATE webhooks_delivery d
   SET object_key = hashtextextended(nullif(e.object_reference, ''), 0),
       object_sequence = CASE WHEN e.object_reference <> '' THEN e.sequence END,
       epoch = CASE WHEN e.object_reference <> '' THEN d.epoch END,
       order_key = CASE WHEN e.object_reference <> '' THEN d.order_key END
  FROM webhooks_event e
 WHERE e.id = d.event_id AND d.id = ANY(ARRAY(
    SELECT d.id FROM webhooks_delivery d
     WHERE d.webhook_id = %(webhook)s AND d.finished_at IS NULL AND d.order_key IS NOT NULL
       AND d.object_key IS NULL AND d.claimed_by IS NULL
     ORDER BY d.epoch, d.order_key, d.id
     LIMIT %(rows)s
       FOR NO KEY UPDATE SKIP LOCKED))
"""


def _give_places(taken: Taken, webhook_ids: Collection[UUID]) -> set[UUID]:
    """Give deliveries that were stored while all of their webhook's went in one order their places
    among those of their objects; return the webhooks of which some got them."""
    given = set()
    for (webhook_id,) in run(MIXED_SQL, {"webhooks": list(webhook_ids)}).fetchall():
        if run(GIVE_PLACES_SQL, {"webhook": webhook_id, "rows": GIVEN_ROWS}).rowcount:
            given.add(webhook_id)
        else:
            # Somebody else sends the first one, or has locked it.
            taken.waits_for_head.add(webhook_id)
    return given
