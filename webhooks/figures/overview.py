"""The figures of the operators' home and queue pages. All functions only read."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from webhooks.figures.cells import FROM_SQL, percentiles_sql
from webhooks.figures.history import STEP_SECONDS, Bucket, BucketSize, Figures, Selection
from webhooks.ids import first_id_of
from webhooks.postgres.sql import query

LAST_ERRORS_SQL = """
SELECT chosen.id, last.failure_kind, last.response_code, last.error
  FROM unnest(%(webhooks)s::uuid[]) AS chosen (id),
       LATERAL (SELECT failure_kind, response_code, error FROM webhooks_delivery
                 WHERE webhook_id = chosen.id AND id >= %(first)s AND failure_kind <> ''
                 ORDER BY id DESC LIMIT 1) AS last
"""


@dataclass(frozen=True, slots=True)
class LastError:
    """The error of a webhook's most recent failed or retrying delivery."""

    kind: str
    response_code: int | None
    error: str


def last_errors(since: datetime, webhook_ids: tuple[UUID, ...]) -> dict[UUID, LastError]:
    """Return the last error of each webhook with an error in deliveries created since then.

    Webhooks without one are missing. One statement.
    """
    parameters = {"first": first_id_of(since), "webhooks": list(webhook_ids)}
    return {
        webhook_id: LastError(*columns)
        for webhook_id, *columns in query(LAST_ERRORS_SQL, parameters)
    }


WORST_WEBHOOKS_SQL = """
SELECT webhook_id, sum(deliveries)::bigint, sum(succeeded)::bigint,
       sum(failed)::bigint AS failed, sum(retrying)::bigint AS retrying
  FROM counts GROUP BY 1
HAVING sum(failed + retrying) > 0
 ORDER BY sum(failed + retrying) DESC, 1
 LIMIT %(limit)s
"""
WORST_SQL = FROM_SQL + WORST_WEBHOOKS_SQL


def worst(selection: Selection, *, limit: int) -> dict[UUID, Figures]:
    """Return the webhooks with the most failed and retrying deliveries, the worst first.

    The figures hold only the counts of deliveries, succeeded, failed and retrying: the others would
    double the cost. Two statements.
    """
    return {
        webhook_id: Figures(
            deliveries=deliveries, succeeded=succeeded, failed=failed, retrying=retrying
        )
        for webhook_id, deliveries, succeeded, failed, retrying in query(
            WORST_SQL, {**selection.parameters(), "limit": limit}
        )
    }


_TIMED_SQL = """, counted AS (
    SELECT date_trunc(%(size)s, starts_at, 'UTC') AS starts_at,
           sum(deliveries)::bigint AS deliveries, sum(succeeded)::bigint AS succeeded,
           sum(failed)::bigint AS failed, sum(cancelled)::bigint AS cancelled,
           sum(retrying)::bigint AS retrying
      FROM counts GROUP BY 1
), waited AS ({waits}
)
SELECT starts_at, coalesce(deliveries, 0), coalesce(succeeded, 0), coalesce(failed, 0),
       coalesce(cancelled, 0), coalesce(deliveries - succeeded - failed - cancelled, 0),
       coalesce(retrying, 0), p50, p95
  FROM generate_series(date_trunc(%(size)s, %(since)s, 'UTC'),
                       coalesce(%(until)s::timestamptz - interval '1 microsecond',
                                clock_timestamp()),
                       make_interval(secs => %(step)s)) AS starts_at
  LEFT JOIN counted USING (starts_at)
  LEFT JOIN waited ON waited.what = starts_at
 ORDER BY 1
"""
TIMED_SQL = FROM_SQL + _TIMED_SQL.format(
    waits=percentiles_sql("date_trunc(%(size)s, starts_at, 'UTC')", "waits")
)


@dataclass(frozen=True, slots=True)
class Hour:
    """A bucket of one hour or day and the times from its deliveries' creation to their success."""

    bucket: Bucket
    retrying: int
    delivery_p50_ms: int | None
    """None without successes. Like the next one, it leaves out redelivered deliveries."""
    delivery_p95_ms: int | None


def hours(selection: Selection, size: BucketSize = "hour") -> list[Hour]:
    """Return series(), with the times to delivery. Two statements."""
    parameters = selection.parameters(by_hour=size == "hour") | {
        "size": size,
        "step": STEP_SECONDS[size],
        "since": selection.since,
        "until": selection.until,
    }
    return [Hour(Bucket(*row[:6]), *row[6:]) for row in query(TIMED_SQL, parameters)]


def events_since(since: datetime) -> int:
    """Return the number of events triggered since a time. One statement."""
    sql = "SELECT count(*) FROM webhooks_event WHERE id >= %(first)s"
    return int(query(sql, {"first": first_id_of(since)})[0][0])


PARKED_SQL = """
SELECT count(*) FROM webhooks_delivery
 WHERE id >= %(first)s AND status = 'FAILED' AND crash_count > 0
"""


def parked_since(since: datetime) -> int:
    """Return the number of deliveries created since a time and given up after worker crashes.

    One statement.
    """
    return int(query(PARKED_SQL, {"first": first_id_of(since)})[0][0])
