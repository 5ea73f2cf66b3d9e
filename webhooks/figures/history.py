"""What became of the deliveries *created in a time range*, and of their attempts.

The dashboard, the API and `manage.py stats` show the same figures. totals(), by_webhook(),
by_type(), failures() and series() count the same rows, found through the time-ordered primary keys,
in a bounded number of statements: the cost grows with the range, not with the table.

Reads only; nothing here is exact to the millisecond while workers write.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from webhooks.choices import DeliveryStatus
from webhooks.dispatch.life import MOST_CRASHES
from webhooks.figures.statements import query
from webhooks.ids import WEBHOOK_PREFIX, first_id_of

LAST_ID = UUID(int=2**128 - 1)

BucketSize = Literal["hour", "day"]


@dataclass(frozen=True, slots=True)
class Selection:
    """Which deliveries: those created from `since` until before `until` (None: until now).

    `owner_id` is the webhooks' owner; `webhook_ids` None means all of them.
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
    """What became of a group of deliveries. Times to delivery leave out what people sent again."""

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
    """Of the failed ones: given up because workers died while sending them."""
    attempts: int = 0
    duration_p50_ms: int | None = None
    """Of one attempt; None without any. Likewise the other three."""
    duration_p95_ms: int | None = None
    delivery_p50_ms: int | None = None
    """From the creation of a delivery to its success."""
    delivery_p95_ms: int | None = None
    last_success_at: datetime | None = None
    last_failure_at: datetime | None = None
    """When a delivery was last given up."""

    @property
    def success_rate(self) -> float | None:
        """The share, 0 to 1, of those that ended by themselves; None while none has."""
        ended = self.succeeded + self.failed
        return self.succeeded / ended if ended else None

    @property
    def delivered_rate(self) -> float | None:
        """The share, 0 to 1, of those tried: what is still retried counts as not delivered."""
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
    """A webhook and what became of its deliveries."""

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
    """Attempts that failed in one way."""

    kind: str
    """A FailureKind."""
    response_code: int | None
    attempts: int
    deliveries: int
    webhooks: int
    last_at: datetime


@dataclass(frozen=True, slots=True)
class Bucket:
    """The deliveries created in one hour or day (UTC); `open` is what has not ended."""

    starts_at: datetime
    deliveries: int
    succeeded: int
    failed: int
    cancelled: int
    open: int


# Folded away by the planner where the parameter is null: Django binds parameters on the client.
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
    """Return the figures of all selected deliveries together. One statement."""
    rows = query(TOTALS_SQL, {**selection.parameters(), "limit": 1})
    return Figures(*rows[0][1:]) if rows else Figures()


def by_webhook(selection: Selection, *, limit: int = 100) -> list[WebhookFigures]:
    """Return the figures of each webhook with selected deliveries, the busiest first.

    A page that lists webhooks names them in `selection.webhook_ids`; who is missing in the answer
    had no deliveries. Two statements.
    """
    rows = query(BY_WEBHOOK_SQL, {**selection.parameters(), "limit": limit})
    about: dict[UUID, tuple[str, str, str]] = {
        id_: (name, url, state)
        for id_, name, url, state in query(WEBHOOKS_SQL, {"ids": [row[0] for row in rows]})
    }
    return [WebhookFigures(row[0], *about[row[0]], Figures(*row[1:])) for row in rows]


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
    """Return how attempts failed, by kind and response code, the most frequent first."""
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
    """Return the selected deliveries by hour or day of creation, empty ones included, oldest first.

    The first and the last bucket hold only what the selection holds of them. One statement.
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
    """Return series() by the hour for each webhook with deliveries, without the empty hours."""
    buckets: dict[UUID, list[Bucket]] = {}
    for webhook_id, *columns in query(SERIES_BY_WEBHOOK_SQL, selection.parameters()):
        buckets.setdefault(webhook_id, []).append(Bucket(*columns))
    return buckets


LAST_ERRORS_SQL = """
SELECT chosen.id, last.failure_kind, last.response_code, last.error
  FROM unnest(%(webhooks)s::uuid[]) AS chosen (id),
       LATERAL (SELECT failure_kind, response_code, error FROM webhooks_delivery
                 WHERE webhook_id = chosen.id AND id >= %(first)s AND failure_kind <> ''
                 ORDER BY id DESC LIMIT 1) AS last
"""


@dataclass(frozen=True, slots=True)
class LastError:
    """What the latest delivery that failed, for good or for now, ran into."""

    kind: str
    response_code: int | None
    error: str


def last_errors(since: datetime, webhook_ids: tuple[UUID, ...]) -> dict[UUID, LastError]:
    """Return the last error of each of some webhooks that had one since then. One statement."""
    parameters = {"first": first_id_of(since), "webhooks": list(webhook_ids)}
    return {
        webhook_id: LastError(*columns)
        for webhook_id, *columns in query(LAST_ERRORS_SQL, parameters)
    }


WORST_OF_THEM_SQL = """
SELECT webhook_id, count(*),
       count(*) FILTER (WHERE status = 'SUCCESS'),
       count(*) FILTER (WHERE status = 'FAILED') AS failed,
       count(*) FILTER (WHERE status = 'RETRYING') AS retrying
  FROM chosen GROUP BY 1
HAVING count(*) FILTER (WHERE status IN ('FAILED', 'RETRYING')) > 0
 ORDER BY count(*) FILTER (WHERE status IN ('FAILED', 'RETRYING')) DESC, 1
 LIMIT %(limit)s
"""
WORST_SQL = CHOSEN_SQL + WORST_OF_THEM_SQL


def worst(selection: Selection, *, limit: int) -> dict[UUID, Figures]:
    """Return the webhooks with the most deliveries failed or retried, the worst first.

    Only the counts of the figures are there: what they leave out costs as much again. One statement.
    """
    return {
        webhook_id: Figures(
            deliveries=deliveries, succeeded=succeeded, failed=failed, retrying=retrying
        )
        for webhook_id, deliveries, succeeded, failed, retrying in query(
            WORST_SQL, {**selection.parameters(), "limit": limit}
        )
    }


TIMED_SQL = """, counted AS (
    SELECT date_trunc('hour', created_at, 'UTC') AS starts_at, count(*) AS deliveries,
           count(*) FILTER (WHERE status = 'SUCCESS') AS succeeded,
           count(*) FILTER (WHERE status = 'FAILED') AS failed,
           count(*) FILTER (WHERE status = 'CANCELLED') AS cancelled,
           count(*) FILTER (WHERE status = 'RETRYING') AS retrying,
           percentile_disc(ARRAY[0.5, 0.95]) WITHIN GROUP (
               ORDER BY (1000 * extract(epoch FROM delivered_at - created_at))::int8)
               FILTER (WHERE round = 1 AND delivered_at IS NOT NULL) AS waits
      FROM chosen GROUP BY 1
)
SELECT starts_at, coalesce(deliveries, 0), coalesce(succeeded, 0), coalesce(failed, 0),
       coalesce(cancelled, 0), coalesce(deliveries - succeeded - failed - cancelled, 0),
       coalesce(retrying, 0), waits[1], waits[2]
  FROM generate_series(date_trunc('hour', %(since)s, 'UTC'),
                       coalesce(%(until)s::timestamptz - interval '1 microsecond',
                                clock_timestamp()),
                       interval '1 hour') AS starts_at
  LEFT JOIN counted USING (starts_at)
 ORDER BY 1
"""
HOURS_SQL = CHOSEN_SQL + TIMED_SQL


@dataclass(frozen=True, slots=True)
class Hour:
    """A Bucket of one hour, and how long its deliveries took until their success."""

    bucket: Bucket
    retrying: int
    delivery_p50_ms: int | None
    """None without any. What people sent again is left out, here and below."""
    delivery_p95_ms: int | None


def hours(selection: Selection) -> list[Hour]:
    """Return series() by the hour with the times to delivery. One statement."""
    parameters = selection.parameters() | {"since": selection.since, "until": selection.until}
    return [Hour(Bucket(*row[:6]), *row[6:]) for row in query(HOURS_SQL, parameters)]


def events_since(since: datetime) -> int:
    """Return how many events were triggered since a time. One statement."""
    sql = "SELECT count(*) FROM webhooks_event WHERE id >= %(first)s"
    return int(query(sql, {"first": first_id_of(since)})[0][0])


PARKED_SQL = """
SELECT count(*) FROM webhooks_delivery
 WHERE id >= %(first)s AND status = 'FAILED' AND crash_count > 0
"""


def parked_since(since: datetime) -> int:
    """Return how many deliveries created since then were given up because workers died while
    sending them. One statement."""
    return int(query(PARKED_SQL, {"first": first_id_of(since)})[0][0])
