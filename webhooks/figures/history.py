"""Figures of the deliveries *created in a time range*, and of their attempts.

The dashboard, the API and `manage.py stats` show the same figures. totals(), by_webhook(),
by_type(), failures() and series() count the same rows in a bounded number of statements, each after
one that asks which hours are rolled up (webhooks/figures/cells.py). They find the other rows by their
time-ordered primary keys, so that the cost grows with the range, not with the table. All functions only read, and may miss writes of the same moment.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from webhooks.choices import DeliveryStatus
from webhooks.dispatch.life import MOST_CRASHES
from webhooks.figures.cells import FROM_SQL, percentiles_sql, rolled_parameters
from webhooks.ids import WEBHOOK_PREFIX, first_id_of
from webhooks.postgres.sql import query

LAST_ID = UUID(int=2**128 - 1)

BucketSize = Literal["hour", "day"]
STEP_SECONDS = {"hour": 3_600, "day": 86_400}
"""Seconds, because to Postgres a day is shorter or longer when the session's clocks change."""


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

    def parameters(self, *, by_hour: bool = False) -> dict[str, Any]:
        """Return the parameters of FROM_SQL; see rolled_parameters(). One statement."""
        first = first_id_of(self.since)
        last = LAST_ID if self.until is None else first_id_of(self.until)
        rolled = rolled_parameters(first, last, self.since, self.until, by_hour=by_hour)
        return rolled | {
            "first": first,
            "last": last,
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


# The columns behind `what` are the fields of Figures, in their order.
COUNTED_SQL = """, counted AS (
    SELECT {group} AS what, sum(deliveries)::bigint AS deliveries, sum(pending)::bigint AS pending,
           sum(sending)::bigint AS sending, sum(retrying)::bigint AS retrying,
           sum(succeeded)::bigint AS succeeded, sum(failed)::bigint AS failed,
           sum(cancelled)::bigint AS cancelled, sum(sent)::bigint AS sent,
           sum(parked)::bigint AS parked, max(last_success_at) AS last_success_at,
           max(last_failure_at) AS last_failure_at
      FROM counts GROUP BY 1
), tried AS ({durations}
), waited AS ({waits}
)
SELECT what, deliveries, pending, sending, retrying, succeeded, failed, cancelled, sent, parked,
       coalesce(tried.total, 0), tried.p50, tried.p95, waited.p50, waited.p95,
       last_success_at, last_failure_at
  FROM counted LEFT JOIN tried USING (what) LEFT JOIN waited USING (what)
 ORDER BY deliveries DESC, what
 LIMIT %(limit)s
"""


def _counted_sql(group: str) -> str:
    durations, waits = (percentiles_sql(group, source) for source in ("durations", "waits"))
    return FROM_SQL + COUNTED_SQL.format(group=group, durations=durations, waits=waits)


TOTALS_SQL = _counted_sql("1")
BY_WEBHOOK_SQL = _counted_sql("webhook_id")
BY_TYPE_SQL = _counted_sql("event_type")


def totals(selection: Selection) -> Figures:
    """Return the figures of all selected deliveries; zeros if there are none. Two statements."""
    rows = query(TOTALS_SQL, {**selection.parameters(), "limit": 1})
    return Figures(*rows[0][1:]) if rows else Figures()


def by_webhook(selection: Selection, *, limit: int = 100) -> list[WebhookFigures]:
    """Return the figures of each webhook with selected deliveries, the busiest `limit` ones first.

    To get the figures of certain webhooks, set `selection.webhook_ids`; webhooks without deliveries
    are missing in the result. Three statements.
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
    """Return the figures of each event type with selected deliveries. Two statements."""
    rows = query(BY_TYPE_SQL, {**selection.parameters(), "limit": None})
    return {row[0]: Figures(*row[1:]) for row in rows}


FAILURES_SQL = (
    FROM_SQL
    + """
SELECT kind, code, sum(attempts)::bigint, sum(deliveries)::bigint, count(DISTINCT webhook_id),
       max(last_at)
  FROM failures GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2
"""
)


def failures(selection: Selection) -> list[FailureFigures]:
    """Return the failed attempts by kind and response code, most frequent first. Two statements."""
    return [FailureFigures(*row) for row in query(FAILURES_SQL, selection.parameters())]


BUCKETS_SQL = """, counted AS (
    SELECT date_trunc(%(size)s, starts_at, 'UTC') AS starts_at,
           sum(deliveries)::bigint AS deliveries, sum(succeeded)::bigint AS succeeded,
           sum(failed)::bigint AS failed, sum(cancelled)::bigint AS cancelled
      FROM counts GROUP BY 1
)
SELECT starts_at, coalesce(deliveries, 0), coalesce(succeeded, 0), coalesce(failed, 0),
       coalesce(cancelled, 0), coalesce(deliveries - succeeded - failed - cancelled, 0)
  FROM generate_series(date_trunc(%(size)s, %(since)s, 'UTC'),
                       coalesce(%(until)s::timestamptz - interval '1 microsecond',
                                clock_timestamp()),
                       make_interval(secs => %(step)s)) AS starts_at
  LEFT JOIN counted USING (starts_at)
 ORDER BY 1
"""
SERIES_SQL = FROM_SQL + BUCKETS_SQL


def series(selection: Selection, size: BucketSize = "hour") -> list[Bucket]:
    """Return a bucket for each hour or day of the selection, oldest first, empty ones included.

    The first and the last bucket count only deliveries within the selection. Two statements.
    """
    parameters = selection.parameters(by_hour=size == "hour") | {
        "size": size,
        "step": STEP_SECONDS[size],
        "since": selection.since,
        "until": selection.until,
    }
    return [Bucket(*row) for row in query(SERIES_SQL, parameters)]


HOURS_BY_WEBHOOK_SQL = """
SELECT webhook_id, starts_at, sum(deliveries)::bigint, sum(succeeded)::bigint,
       sum(failed)::bigint, sum(cancelled)::bigint, sum(pending + sending + retrying)::bigint
  FROM counts GROUP BY 1, 2 ORDER BY 1, 2
"""
SERIES_BY_WEBHOOK_SQL = FROM_SQL + HOURS_BY_WEBHOOK_SQL


def series_by_webhook(selection: Selection) -> dict[UUID, list[Bucket]]:
    """Return the hourly buckets of each webhook, without the empty ones. Two statements."""
    buckets: dict[UUID, list[Bucket]] = {}
    for webhook_id, *columns in query(SERIES_BY_WEBHOOK_SQL, selection.parameters(by_hour=True)):
        buckets.setdefault(webhook_id, []).append(Bucket(*columns))
    return buckets
