"""Figures of the deliveries *created in a time range*, and of their attempts.

The dashboard, the API and `manage.py stats` show the same figures. totals(), by_webhook(),
by_type(), failures() and series() count the same rows in a bounded number of statements. They find
the rows by their time-ordered primary keys, so that the cost grows with the range, not with the
table. All functions only read, and may miss writes of the same moment.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from webhooks.choices import DeliveryStatus
from webhooks.dispatch.life import MOST_CRASHES
from webhooks.ids import WEBHOOK_PREFIX, first_id_of
from webhooks.postgres.sql import query

LAST_ID = UUID(int=2**128 - 1)

BucketSize = Literal["hour", "day"]


@dataclass(frozen=True, slots=True)
class Selection:
    """Deliveries created from `since` (included) to `until` (excluded; None means now).

    `owner_id` is the owner of the webhooks; None means all owners. `webhook_ids` None means all
    webhooks.
    """

    since: datetime
    until: datetime | None = None
    owner_id: UUID | None = None
    webhook_ids: tuple[UUID, ...] | None = None

    def parameters(self) -> dict[str, Any]:
        return {
            "first": first_id_of(self.since),
            "last": LAST_ID if self.until is None else first_id_of(self.until),
            "owner": self.owner_id,
            "webhooks": None if self.webhook_ids is None else list(self.webhook_ids),
            "most_crashes": MOST_CRASHES,
        }


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of a group of deliveries. Times to delivery leave out redelivered ones."""

    deliveries: int = 0
    pending: int = 0
    sending: int = 0
    retrying: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    sent: int = 0
    """Deliveries with at least one attempt."""
    parked: int = 0
    """Failed deliveries that were given up because workers crashed while sending them."""
    attempts: int = 0
    duration_p50_ms: int | None = None
    """The median duration of an attempt; like the 95th percentile, None without attempts."""
    duration_p95_ms: int | None = None
    delivery_p50_ms: int | None = None
    """The median time from creation to success; like the 95th percentile, None without any."""
    delivery_p95_ms: int | None = None
    last_success_at: datetime | None = None
    last_failure_at: datetime | None = None
    """The time at which a delivery last became FAILED."""

    @property
    def success_rate(self) -> float | None:
        """Succeeded / (succeeded + failed), 0 to 1; None if both are 0."""
        ended = self.succeeded + self.failed
        return self.succeeded / ended if ended else None

    @property
    def delivered_rate(self) -> float | None:
        """Succeeded / (succeeded + failed + retrying), 0 to 1; None if all are 0."""
        tried = self.succeeded + self.failed + self.retrying
        return self.succeeded / tried if tried else None

    @property
    def by_status(self) -> dict[str, int]:
        return {
            DeliveryStatus.PENDING.value: self.pending,
            DeliveryStatus.SENDING.value: self.sending,
            DeliveryStatus.RETRYING.value: self.retrying,
            DeliveryStatus.SUCCESS.value: self.succeeded,
            DeliveryStatus.FAILED.value: self.failed,
            DeliveryStatus.CANCELLED.value: self.cancelled,
        }


@dataclass(frozen=True, slots=True)
class WebhookFigures:
    """A webhook and the figures of its deliveries."""

    id: UUID
    name: str
    url: str
    state: str
    """`active`, `failing` (its breaker is not closed), `disabled` or `deleted`."""
    figures: Figures

    @property
    def public_id(self) -> str:
        return WEBHOOK_PREFIX + self.id.hex


@dataclass(frozen=True, slots=True)
class FailureFigures:
    """Failed attempts with the same failure kind and response code."""

    kind: str
    """A FailureKind."""
    response_code: int | None
    attempts: int
    deliveries: int
    webhooks: int
    last_at: datetime


@dataclass(frozen=True, slots=True)
class Bucket:
    """The deliveries created in one hour or day (UTC); `open` counts the unfinished ones."""

    starts_at: datetime
    deliveries: int
    succeeded: int
    failed: int
    cancelled: int
    open: int


# The planner drops a condition whose parameter is null, because Django binds on the client.
CHOSEN_SQL = """
WITH chosen AS (
    SELECT d.id, d.webhook_id, d.event_type, d.status, d.attempt_count, d.round, d.crash_count,
           d.created_at, d.delivered_at, d.finished_at
      FROM webhooks_delivery d
     WHERE d.id >= %(first)s AND d.id < %(last)s
       AND (%(owner)s::uuid IS NULL OR d.owner_id = %(owner)s)
       AND (%(webhooks)s::uuid[] IS NULL OR d.webhook_id = ANY(%(webhooks)s))
)"""

# The columns behind `what` are the fields of Figures, in their order.
COUNTED_SQL = """, counted AS (
    SELECT {group} AS what,
           count(*) AS deliveries,
           count(*) FILTER (WHERE status = 'PENDING') AS pending,
           count(*) FILTER (WHERE status = 'SENDING') AS sending,
           count(*) FILTER (WHERE status = 'RETRYING') AS retrying,
           count(*) FILTER (WHERE status = 'SUCCESS') AS succeeded,
           count(*) FILTER (WHERE status = 'FAILED') AS failed,
           count(*) FILTER (WHERE status = 'CANCELLED') AS cancelled,
           count(*) FILTER (WHERE attempt_count > 0) AS sent,
           count(*) FILTER (WHERE status = 'FAILED' AND crash_count >= %(most_crashes)s) AS parked,
           percentile_disc(ARRAY[0.5, 0.95]) WITHIN GROUP (
               ORDER BY (1000 * extract(epoch FROM delivered_at - created_at))::int8)
               FILTER (WHERE round = 1 AND delivered_at IS NOT NULL) AS waits,
           max(delivered_at) AS last_success_at,
           max(finished_at) FILTER (WHERE status = 'FAILED') AS last_failure_at
      FROM chosen GROUP BY 1
), tried AS (
    SELECT {group} AS what, count(*) AS attempts,
           percentile_disc(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY a.duration_ms) AS durations
      FROM chosen JOIN webhooks_attempt a ON a.delivery_id = chosen.id
     WHERE a.id >= %(first)s
     GROUP BY 1
)
SELECT what, deliveries, pending, sending, retrying, succeeded, failed, cancelled, sent, parked,
       coalesce(attempts, 0), durations[1], durations[2], waits[1], waits[2],
       last_success_at, last_failure_at
  FROM counted LEFT JOIN tried USING (what)
 ORDER BY deliveries DESC, what
 LIMIT %(limit)s
"""

TOTALS_SQL = CHOSEN_SQL + COUNTED_SQL.format(group="1")
BY_WEBHOOK_SQL = CHOSEN_SQL + COUNTED_SQL.format(group="webhook_id")
BY_TYPE_SQL = CHOSEN_SQL + COUNTED_SQL.format(group="event_type")


def totals(selection: Selection) -> Figures:
    """Return the figures of all selected deliveries; zeros if there are none. One statement."""
    rows = query(TOTALS_SQL, {**selection.parameters(), "limit": 1})
    return Figures(*rows[0][1:]) if rows else Figures()


def by_webhook(selection: Selection, *, limit: int = 100) -> list[WebhookFigures]:
    """Return the figures of each webhook with selected deliveries, the busiest `limit` ones first.

    To get the figures of certain webhooks, set `selection.webhook_ids`; webhooks without deliveries
    are missing in the result. Two statements.
    """
    rows = query(BY_WEBHOOK_SQL, {**selection.parameters(), "limit": limit})
    webhooks: dict[UUID, tuple[str, str, str]] = {
        id_: (name, url, state)
        for id_, name, url, state in query(WEBHOOKS_SQL, {"ids": [row[0] for row in rows]})
    }
    return [WebhookFigures(row[0], *webhooks[row[0]], Figures(*row[1:])) for row in rows]


WEBHOOKS_SQL = """
SELECT id, name, url,
       CASE WHEN deleted_at IS NOT NULL THEN 'deleted' WHEN NOT active THEN 'disabled'
            WHEN breaker_state <> 'closed' THEN 'failing' ELSE 'active' END
  FROM webhooks_webhook WHERE id = ANY(%(ids)s)
"""


def by_type(selection: Selection) -> dict[str, Figures]:
    """Return the figures of each event type with selected deliveries. One statement."""
    rows = query(BY_TYPE_SQL, {**selection.parameters(), "limit": None})
    return {row[0]: Figures(*row[1:]) for row in rows}


FAILED_SQL = """
SELECT a.failure_kind, a.response_code, count(*), count(DISTINCT chosen.id),
       count(DISTINCT chosen.webhook_id), max(a.started_at)
  FROM chosen JOIN webhooks_attempt a ON a.delivery_id = chosen.id
 WHERE a.id >= %(first)s AND a.failure_kind <> ''
 GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2
"""
FAILURES_SQL = CHOSEN_SQL + FAILED_SQL


def failures(selection: Selection) -> list[FailureFigures]:
    """Return the failed attempts by kind and response code, most frequent first. One statement."""
    return [FailureFigures(*row) for row in query(FAILURES_SQL, selection.parameters())]


BUCKETS_SQL = """, counted AS (
    SELECT date_trunc(%(size)s, created_at, 'UTC') AS starts_at, count(*) AS deliveries,
           count(*) FILTER (WHERE status = 'SUCCESS') AS succeeded,
           count(*) FILTER (WHERE status = 'FAILED') AS failed,
           count(*) FILTER (WHERE status = 'CANCELLED') AS cancelled
      FROM chosen GROUP BY 1
)
SELECT starts_at, coalesce(deliveries, 0), coalesce(succeeded, 0), coalesce(failed, 0),
       coalesce(cancelled, 0), coalesce(deliveries - succeeded - failed - cancelled, 0)
  FROM generate_series(date_trunc(%(size)s, %(since)s, 'UTC'),
                       coalesce(%(until)s::timestamptz - interval '1 microsecond',
                                clock_timestamp()),
                       %(step)s) AS starts_at
  LEFT JOIN counted USING (starts_at)
 ORDER BY 1
"""
SERIES_SQL = CHOSEN_SQL + BUCKETS_SQL


def series(selection: Selection, size: BucketSize = "hour") -> list[Bucket]:
    """Return a bucket for each hour or day of the selection, oldest first, empty ones included.

    The first and the last bucket count only deliveries within the selection. One statement.
    """
    parameters = selection.parameters() | {
        "size": size,
        "step": timedelta(days=1) if size == "day" else timedelta(hours=1),
        "since": selection.since,
        "until": selection.until,
    }
    return [Bucket(*row) for row in query(SERIES_SQL, parameters)]


HOURS_BY_WEBHOOK_SQL = """
SELECT webhook_id, date_trunc('hour', created_at, 'UTC'), count(*),
       count(*) FILTER (WHERE status = 'SUCCESS'),
       count(*) FILTER (WHERE status = 'FAILED'),
       count(*) FILTER (WHERE status = 'CANCELLED'),
       count(*) FILTER (WHERE status NOT IN ('SUCCESS', 'FAILED', 'CANCELLED'))
  FROM chosen GROUP BY 1, 2 ORDER BY 1, 2
"""
SERIES_BY_WEBHOOK_SQL = CHOSEN_SQL + HOURS_BY_WEBHOOK_SQL


def series_by_webhook(selection: Selection) -> dict[UUID, list[Bucket]]:
    """Return the hourly buckets of each webhook, without the empty ones. One statement."""
    buckets: dict[UUID, list[Bucket]] = {}
    for webhook_id, *columns in query(SERIES_BY_WEBHOOK_SQL, selection.parameters()):
        buckets.setdefault(webhook_id, []).append(Bucket(*columns))
    return buckets
