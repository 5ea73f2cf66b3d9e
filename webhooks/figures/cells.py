"""Where all figures of the past come from: deliveries, and the roll-ups of whole hours.

FROM_SQL begins each statement of the figures. It reads the hours within [rolled_from, rolled_to)
from roll-ups, those within [days_from, days_to) from roll-ups of days, and everything else from the
deliveries themselves: also reopened hours. So the figures are the same with and without roll-ups.
"""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from webhooks.ids import first_id_of
from webhooks.models.owner_keys import SQL_TYPE
from webhooks.postgres.sql import query

HOUR_SECONDS = 3600
DAY_HOURS = 24


def hour_of(moment: datetime) -> int:
    """Return the hour of a time, in hours since 1970."""
    return int(moment.timestamp() // HOUR_SECONDS)


def hour_start(hour: int) -> datetime:
    """Return the beginning of an hour."""
    return datetime.fromtimestamp(hour * HOUR_SECONDS, UTC)


def hour_of_id_sql(name: str) -> str:
    """Return the SQL expression for the hour of a UUIDv7."""
    text = f"{name}::text"
    bits = f"('x' || substr({text}, 1, 8) || substr({text}, 10, 4))::bit(48)::bigint"
    return f"({bits} / {HOUR_SECONDS * 1000})::int"


def _first_id_sql(hour: str) -> str:
    return (
        f"(lpad(to_hex({hour}::bigint * {HOUR_SECONDS * 1000}), 12, '0') || repeat('0', 20))::uuid"
    )


def rolled_parameters(
    first: UUID, last: UUID, since: datetime, until: datetime | None, *, by_hour: bool
) -> dict[str, Any]:
    """Return the parameters of FROM_SQL that say which hours come from roll-ups. One statement.

    `by_hour` says that the figures of single hours are wanted, so that no day serves.
    """
    rows = query("SELECT first_hour, end_hour FROM webhooks_rolledup")
    start, end = rows[0] if rows else (0, 0)
    # Whole hours only.
    start = max(start, hour_of(since + timedelta(hours=1) - timedelta(milliseconds=1)))
    end = end if until is None else min(end, hour_of(until))
    if start >= end:
        return dict.fromkeys(ROLLED_NAMES, 0) | {"rolled_first": last, "rolled_last": last}
    days_from, days_to = -(-start // DAY_HOURS) * DAY_HOURS, end // DAY_HOURS * DAY_HOURS
    if by_hour or days_from >= days_to:
        days_from = days_to = end
    return {
        "rolled_from": start,
        "rolled_to": end,
        "days_from": days_from,
        "days_to": days_to,
        "rolled_first": first_id_of(hour_start(start)),
        "rolled_last": first_id_of(hour_start(end)),
    }


ROLLED_NAMES = ("rolled_from", "rolled_to", "days_from", "days_to")
COLUMNS = """d.id, d.webhook_id, d.owner_id, d.event_type, d.status, d.attempt_count, d.round,
           d.crash_count, d.created_at, d.delivered_at, d.finished_at"""

# The planner drops a condition whose parameter is null, because Django binds on the client.
_SELECTED = f"""(%(owner)s::{SQL_TYPE} IS NULL OR {{row}}.owner_id = %(owner)s)
       AND (%(webhooks)s::uuid[] IS NULL OR {{row}}.webhook_id = ANY(%(webhooks)s))"""

CHOSEN_SQL = f"""
WITH chosen AS (
    SELECT {COLUMNS} FROM webhooks_delivery d
     WHERE d.id >= %(first)s AND d.id < %(rolled_first)s
       AND {_SELECTED.format(row="d")}
    UNION ALL
    SELECT {COLUMNS} FROM webhooks_delivery d
     WHERE d.id >= %(rolled_last)s AND d.id < %(last)s
       AND {_SELECTED.format(row="d")}
    UNION ALL
    SELECT {COLUMNS}
      FROM (SELECT DISTINCT r.webhook_id, r.hour FROM webhooks_reopenedhour r
             WHERE r.hour >= %(rolled_from)s AND r.hour < %(rolled_to)s
               AND {_SELECTED.format(row="r")}) AS reopened
      JOIN LATERAL (
            SELECT * FROM webhooks_delivery d
             WHERE d.webhook_id = reopened.webhook_id
               AND d.id >= {_first_id_sql("reopened.hour")}
               AND d.id < {_first_id_sql("(reopened.hour + 1)")}) AS d ON true
)"""  # noqa: S608 (constants only)

# What each part adds, by webhook, event type and hour of creation.
COUNTS_SQL = """
    SELECT webhook_id, event_type, date_trunc('hour', created_at, 'UTC') AS starts_at,
           count(*) AS deliveries,
           count(*) FILTER (WHERE status = 'PENDING') AS pending,
           count(*) FILTER (WHERE status = 'SENDING') AS sending,
           count(*) FILTER (WHERE status = 'RETRYING') AS retrying,
           count(*) FILTER (WHERE status = 'SUCCESS') AS succeeded,
           count(*) FILTER (WHERE status = 'FAILED') AS failed,
           count(*) FILTER (WHERE status = 'CANCELLED') AS cancelled,
           count(*) FILTER (WHERE attempt_count > 0) AS sent,
           count(*) FILTER (WHERE status = 'FAILED' AND crash_count >= %(most_crashes)s) AS parked,
           max(delivered_at) AS last_success_at,
           max(finished_at) FILTER (WHERE status = 'FAILED') AS last_failure_at
      FROM chosen GROUP BY 1, 2, 3"""
WAITS_SQL = """
    SELECT webhook_id, event_type, date_trunc('hour', created_at, 'UTC') AS starts_at,
           (1000 * extract(epoch FROM delivered_at - created_at))::int8 AS ms, count(*) AS count
      FROM chosen WHERE round = 1 AND delivered_at IS NOT NULL GROUP BY 1, 2, 3, 4"""
DURATIONS_SQL = """
    SELECT webhook_id, event_type, date_trunc('hour', created_at, 'UTC') AS starts_at,
           a.duration_ms::int8 AS ms, count(*) AS count
      FROM chosen JOIN webhooks_attempt a ON a.delivery_id = chosen.id
     WHERE a.delivery_id >= %(first)s AND a.delivery_id < %(last)s
     GROUP BY 1, 2, 3, 4"""
FAILED_SQL = """
    SELECT webhook_id, event_type, date_trunc('hour', created_at, 'UTC') AS starts_at,
           a.failure_kind AS kind, a.response_code AS code, count(*) AS attempts,
           count(DISTINCT chosen.id) AS deliveries, max(a.started_at) AS last_at
      FROM chosen JOIN webhooks_attempt a ON a.delivery_id = chosen.id
     WHERE a.delivery_id >= %(first)s AND a.delivery_id < %(last)s AND a.failure_kind <> ''
     GROUP BY 1, 2, 3, 4, 5"""

_IS_CLOSED = """NOT EXISTS (SELECT FROM webhooks_reopenedhour r
                        WHERE r.webhook_id = h.webhook_id AND r.hour >= h.hour
                          AND r.hour < h.hour + h.hours)"""

FROM_SQL = f"""{CHOSEN_SQL}, rolled AS (
    SELECT h.* FROM webhooks_hourfigures h
     WHERE h.hours = {DAY_HOURS} AND h.hour >= %(days_from)s AND h.hour < %(days_to)s
       AND {_SELECTED.format(row="h")} AND {_IS_CLOSED}
    UNION ALL
    SELECT h.* FROM webhooks_hourfigures h
     WHERE h.hours = 1 AND h.hour >= %(rolled_from)s AND h.hour < %(days_from)s
       AND {_SELECTED.format(row="h")} AND {_IS_CLOSED}
    UNION ALL
    SELECT h.* FROM webhooks_hourfigures h
     WHERE h.hours = 1 AND h.hour >= %(days_to)s AND h.hour < %(rolled_to)s
       AND {_SELECTED.format(row="h")} AND {_IS_CLOSED}
    UNION ALL
    SELECT h.*
      FROM (SELECT DISTINCT r.webhook_id, r.hour / {DAY_HOURS} * {DAY_HOURS} AS day
              FROM webhooks_reopenedhour r
             WHERE r.hour >= %(days_from)s AND r.hour < %(days_to)s
               AND {_SELECTED.format(row="r")}) AS reopened
      JOIN webhooks_hourfigures h
        ON h.webhook_id = reopened.webhook_id AND h.hours = 1
       AND h.hour >= reopened.day AND h.hour < reopened.day + {DAY_HOURS}
     WHERE {_IS_CLOSED}
), counts AS ({COUNTS_SQL}
    UNION ALL
    SELECT webhook_id, event_type, starts_at, deliveries, 0, 0, 0, succeeded, failed, cancelled,
           sent, parked, last_success_at, last_failure_at
      FROM rolled
), waits AS ({WAITS_SQL}
    UNION ALL
    SELECT webhook_id, event_type, starts_at, one.ms, one.count
      FROM rolled, unnest(waits_ms, wait_counts) AS one (ms, count)
), durations AS ({DURATIONS_SQL}
    UNION ALL
    SELECT webhook_id, event_type, starts_at, one.ms, one.count
      FROM rolled, unnest(durations_ms, duration_counts) AS one (ms, count)
), failures AS ({FAILED_SQL}
    UNION ALL
    SELECT webhook_id, event_type, starts_at, one ->> 0, (one ->> 1)::int, (one ->> 2)::bigint,
           (one ->> 3)::bigint, (one ->> 4)::timestamptz
      FROM rolled, jsonb_array_elements(failures) AS one
)"""  # noqa: S608 (constants only)


def percentiles_sql(what: str, source: str) -> str:
    """Return the SELECT of the median and the 95th percentile of `source` (waits or durations) in
    milliseconds, and of their number, for each value of the expression `what`."""
    return f"""
    SELECT what, min(ms) FILTER (WHERE upto >= 0.5 * total) AS p50,
           min(ms) FILTER (WHERE upto >= 0.95 * total) AS p95, max(total)::bigint AS total
      FROM (SELECT what, ms, sum(count) OVER (PARTITION BY what ORDER BY ms) AS upto,
                   sum(count) OVER (PARTITION BY what) AS total
              FROM (SELECT {what} AS what, ms, sum(count) AS count FROM {source} GROUP BY 1, 2)
                   AS spread) AS spread
     GROUP BY 1"""  # noqa: S608 (constants only)


def reopen_sql(source: str, id_name: str = "id") -> str:
    """Return the INSERT that reopens the hours of the deliveries of a relation, which has their id,
    webhook_id and owner_id. It takes no lock that another such statement waits for."""
    return f"""
    INSERT INTO webhooks_reopenedhour (webhook_id, owner_id, hour, due_at)
    SELECT DISTINCT webhook_id, owner_id, {hour_of_id_sql(id_name)},
           statement_timestamp() + interval '1 minute'
      FROM {source}"""  # noqa: S608 (constants only)
