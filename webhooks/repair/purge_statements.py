"""The statements of a purge. Each deletes, erases or counts, and returns the position of the next batch
with the numbers of deliveries, attempts and events."""

from webhooks.figures.cells import reopen_sql
from webhooks.models.owner_keys import SQL_TYPE

# A redelivery may lock the same rows in another order. No statement here waits for a lock of rows that
# others lock, so that no deadlock is possible; the next run handles the locked rows.
DELETE_SQL = f"""
WITH page AS MATERIALIZED (
    SELECT id, event_id, status, finished_at FROM webhooks_delivery
     WHERE id > %(after)s AND id < %(last)s
     ORDER BY id LIMIT %(batch)s
), expired AS MATERIALIZED (
    SELECT d.id, d.event_id, d.attempt_count FROM webhooks_delivery d JOIN page USING (id)
     WHERE d.finished_at < %(before)s AND d.status = ANY(%(statuses)s)
       FOR UPDATE OF d SKIP LOCKED
), locked AS MATERIALIZED (
    SELECT e.id, e.fanout_count, counted.count
      FROM webhooks_event e
      JOIN (SELECT event_id, count(*) FROM expired GROUP BY 1) AS counted ON counted.event_id = e.id
       FOR UPDATE OF e SKIP LOCKED
), expiring AS MATERIALIZED (
    SELECT first_id, end_id FROM webhooks_expiringpartition WHERE NOT by_rows FOR SHARE
), purged AS MATERIALIZED (
    SELECT expired.id, expired.attempt_count,
           EXISTS (SELECT FROM expiring x WHERE expired.id >= x.first_id AND expired.id < x.end_id)
           AS is_expiring
      FROM expired JOIN locked ON locked.id = expired.event_id
), takeovers AS (
    DELETE FROM webhooks_redeliverytakeover t USING purged WHERE t.delivery_id = purged.id
), attempts AS (
    DELETE FROM webhooks_attempt a USING purged
     WHERE a.delivery_id = purged.id AND NOT purged.is_expiring
       AND a.delivery_id > %(after)s AND a.delivery_id < %(last)s
    RETURNING 1
), deliveries AS (
    DELETE FROM webhooks_delivery d USING purged WHERE d.id = purged.id
    RETURNING d.id, d.webhook_id, d.owner_id
), reopened AS ({reopen_sql("deliveries")}
), events AS (
    DELETE FROM webhooks_event e USING locked
     WHERE e.id = locked.id AND locked.fanout_count <= locked.count RETURNING 1
), recounted AS (
    UPDATE webhooks_event e SET fanout_count = locked.fanout_count - locked.count
      FROM locked
     WHERE e.id = locked.id AND locked.fanout_count > locked.count
)
SELECT (SELECT id FROM page ORDER BY id DESC LIMIT 1),
       (SELECT count(*) FROM deliveries),
       (SELECT count(*) FROM attempts)
           + (SELECT coalesce(sum(attempt_count), 0) FROM purged WHERE is_expiring),
       (SELECT count(*) FROM events)
"""  # noqa: S608 (constants only)

# Events that had no matching webhook, or whose deliveries an earlier run deleted.
DELETE_UNWANTED_SQL = """
WITH page AS MATERIALIZED (
    SELECT id FROM webhooks_event
     WHERE id > %(after)s AND id < %(last)s
     ORDER BY id LIMIT %(batch)s
), expired AS MATERIALIZED (
    SELECT e.id FROM webhooks_event e JOIN page USING (id)
     WHERE e.fanout_count = 0
       AND NOT EXISTS (SELECT FROM webhooks_delivery d WHERE d.event_id = e.id)
       FOR UPDATE OF e SKIP LOCKED
), events AS (
    DELETE FROM webhooks_event e USING expired WHERE e.id = expired.id RETURNING 1
)
SELECT (SELECT id FROM page ORDER BY id DESC LIMIT 1), 0, 0, (SELECT count(*) FROM events)
"""

# The attempts that deliveries of expiring partitions left behind, where many are to be kept.
DELETE_LEFT_BEHIND_SQL = """
WITH page AS MATERIALIZED (
    SELECT DISTINCT delivery_id AS id FROM webhooks_attempt
     WHERE delivery_id > %(after)s AND delivery_id < %(last)s
     ORDER BY delivery_id LIMIT %(batch)s
), left_behind AS MATERIALIZED (
    SELECT id FROM page WHERE NOT EXISTS (SELECT FROM webhooks_delivery d WHERE d.id = page.id)
), attempts AS (
    DELETE FROM webhooks_attempt a USING left_behind
     WHERE a.delivery_id = left_behind.id
       AND a.delivery_id > %(after)s AND a.delivery_id < %(last)s
)
SELECT (SELECT id FROM page ORDER BY id DESC LIMIT 1), 0, 0, 0
"""

# The statement must lock all deliveries of an event, so that no redelivery sends one meanwhile.
ERASE_SQL = f"""
WITH page AS MATERIALIZED (
    SELECT id FROM webhooks_event
     WHERE id > %(after)s AND id < %(last)s
       AND (%(owner)s::{SQL_TYPE} IS NULL OR owner_id = %(owner)s)
     ORDER BY id LIMIT %(batch)s
), expired AS MATERIALIZED (
    SELECT e.id, e.fanout_count FROM webhooks_event e JOIN page USING (id)
     WHERE e.payload <> '' AND NOT EXISTS (
        SELECT FROM webhooks_delivery d
         WHERE d.event_id = e.id AND (d.finished_at IS NULL OR d.finished_at >= %(before)s
                                      OR d.status <> ALL(%(statuses)s)))
       FOR NO KEY UPDATE OF e SKIP LOCKED
), locked AS MATERIALIZED (
    SELECT d.id, d.event_id FROM webhooks_delivery d JOIN expired ON d.event_id = expired.id
     WHERE d.finished_at < %(before)s AND d.status = ANY(%(statuses)s)
       FOR UPDATE OF d SKIP LOCKED
), purged AS MATERIALIZED (
    SELECT expired.id FROM expired
     WHERE (SELECT count(*) FROM locked WHERE locked.event_id = expired.id) >= expired.fanout_count
), attempts AS (
    UPDATE webhooks_attempt a
       SET request_head = '', response_head = NULL, response_body = NULL
      FROM locked JOIN purged ON purged.id = locked.event_id
     WHERE a.delivery_id = locked.id
    RETURNING 1
), events AS (
    UPDATE webhooks_event e SET payload = '' FROM purged WHERE e.id = purged.id RETURNING 1
)
SELECT (SELECT id FROM page ORDER BY id DESC LIMIT 1),
       0, (SELECT count(*) FROM attempts), (SELECT count(*) FROM events)
"""  # noqa: S608 (a constant)

COUNT_SQL = """
WITH expired AS MATERIALIZED (
    SELECT id, event_id FROM webhooks_delivery
     WHERE id < %(last)s AND finished_at < %(before)s AND status = ANY(%(statuses)s)
)
SELECT (SELECT count(*) FROM expired),
       (SELECT count(*) FROM webhooks_attempt a JOIN expired ON expired.id = a.delivery_id),
       (SELECT count(*) FROM webhooks_event e
          JOIN (SELECT event_id, count(*) FROM expired GROUP BY 1) AS gone ON gone.event_id = e.id
         WHERE e.fanout_count <= gone.count)
     + (SELECT count(*) FROM webhooks_event e
         WHERE e.id < %(last)s AND e.fanout_count = 0 AND %(all_statuses)s)
"""

COUNT_ERASED_SQL = f"""
WITH expired AS MATERIALIZED (
    SELECT e.id FROM webhooks_event e
     WHERE e.id < %(last)s AND e.payload <> ''
       AND (%(owner)s::{SQL_TYPE} IS NULL OR e.owner_id = %(owner)s)
       AND NOT EXISTS (
        SELECT FROM webhooks_delivery d
         WHERE d.event_id = e.id AND (d.finished_at IS NULL OR d.finished_at >= %(before)s
                                      OR d.status <> ALL(%(statuses)s)))
)
SELECT 0,
       (SELECT count(*) FROM expired JOIN webhooks_delivery d ON d.event_id = expired.id
          JOIN webhooks_attempt a ON a.delivery_id = d.id),
       (SELECT count(*) FROM expired)
"""  # noqa: S608 (a constant)
