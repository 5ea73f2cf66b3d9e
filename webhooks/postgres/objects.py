"""The first unfinished deliveries of objects, of webhooks that keep order per object.

webhooks/dispatch/objects.py says how they are claimed.
"""

from collections.abc import Collection
from uuid import UUID

from webhooks.postgres.sql import run


def of_object(row: str) -> str:
    """Return the condition of the indexes of objects' rows."""
    return f"{row}.finished_at IS NULL AND {row}.order_key IS NOT NULL AND {row}.object_key IS NOT NULL"


def head_of(row: str) -> str:
    """Return a subquery for the first unfinished row `h` of the object of a row."""
    return f"""
        SELECT h.id, h.next_attempt_at, h.claimed_by, h.status FROM webhooks_delivery h
         WHERE h.webhook_id = {row}.webhook_id AND h.object_key = {row}.object_key
           AND {of_object("h")}
         ORDER BY h.epoch, h.object_sequence LIMIT 1"""  # noqa: S608 (names of rows, in constants)


NEXT_DUE_SQL = f"""
WITH object AS MATERIALIZED (
    SELECT DISTINCT webhook_id, object_key FROM webhooks_delivery
     WHERE id = ANY(%(ids)s) AND object_key IS NOT NULL
), next AS MATERIALIZED (
    SELECT head.id
      FROM object
     CROSS JOIN LATERAL ({head_of("object")}
     ) head
     WHERE head.status = 'PENDING' AND head.claimed_by IS NULL
       AND head.next_attempt_at > statement_timestamp()
), free AS (
    SELECT d.id FROM webhooks_delivery d
     WHERE d.id = ANY(ARRAY(SELECT id FROM next)) AND d.status = 'PENDING' AND d.claimed_by IS NULL
       FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE webhooks_delivery SET next_attempt_at = clock_timestamp()
 WHERE id = ANY(ARRAY(SELECT id FROM free))
"""  # noqa: S608 (constants only)


def make_next_due(delivery_ids: Collection[UUID]) -> int:
    """Make the first unfinished row due of each object of these deliveries, unless it waits for a
    retry; return how many were postponed. In a transaction of its own, after they have finished."""
    if not delivery_ids:
        return 0
    return int(run(NEXT_DUE_SQL, {"ids": list(delivery_ids)}).rowcount)
