"""Figures of the present: the backlog, the workers, their chores, webhooks at their limit."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from webhooks.dispatch.endpoints import with_owners
from webhooks.dispatch.life import SILENCE_BEFORE_DEATH_SECONDS
from webhooks.models import Delivery, Webhook
from webhooks.models.delivery import COUNTED_AT_MOST
from webhooks.models.owner_keys import NO_OWNER, SQL_TYPE
from webhooks.postgres.horizon import IS_IN_ORDER
from webhooks.postgres.sql import query


@dataclass(frozen=True, slots=True)
class Backlog:
    """The unfinished deliveries, counted by what they wait for."""

    due: int
    """Due deliveries that may be sent now."""
    oldest_due_seconds: float | None
    """How long the oldest of these has been due; None without any."""
    held: int
    """Due deliveries that may not be sent now: the webhook is disabled, sent Retry-After or has an
    open breaker, its owner is not active, all sending is paused, or the webhook is ordered and an
    older transaction is still running (webhooks/postgres/horizon.py)."""
    scheduled: int
    """Deliveries that are not due yet: retries, redeliveries with a rate, and what waits for another
    of its object."""
    retrying: int
    sending: int
    unfinished: int
    is_paused: bool


@dataclass(frozen=True, slots=True)
class WorkerLife:
    """A worker that has not shut down properly: a running one, or one that died recently."""

    id: UUID
    host: str
    pid: int
    started_at: datetime
    in_flight: int
    silent_seconds: float
    is_alive: bool


# Rows of a webhook that waits for its rate limit or for a slow receiver count as due.
BACKLOG_SQL = f"""
SELECT coalesce(sum(due) FILTER (WHERE is_served), 0)::bigint,
       extract(epoch FROM clock_timestamp() - min(oldest) FILTER (WHERE is_served))::float8,
       coalesce(sum(held) + sum(due) FILTER (WHERE NOT is_served), sum(held), 0)::bigint,
       coalesce(sum(scheduled), 0)::bigint, coalesce(sum(retrying), 0)::bigint,
       coalesce(sum(sending), 0)::bigint, coalesce(sum(unfinished), 0)::bigint,
       EXISTS (SELECT FROM webhooks_pause)
  FROM (SELECT *, NOT EXISTS (SELECT FROM {{owners}} u
                               WHERE u.{{key}} = owner_id AND {{is_inactive}}) AS is_served
          FROM (
    SELECT owner_id,
           count(*) FILTER (WHERE is_due AND may_go) AS due,
           min(next_attempt_at) FILTER (WHERE is_due AND may_go) AS oldest,
           count(*) FILTER (WHERE is_due AND NOT may_go) AS held,
           count(*) FILTER (WHERE NOT is_due AND claimed_by IS NULL) AS scheduled,
           count(*) FILTER (WHERE status = 'RETRYING') AS retrying,
           count(*) FILTER (WHERE status = 'SENDING') AS sending,
           count(*) AS unfinished
      FROM (SELECT w.owner_id, d.status, d.claimed_by, d.next_attempt_at,
                   d.claimed_by IS NULL AND d.next_attempt_at <= clock_timestamp() AS is_due,
                   w.active AND w.deleted_at IS NULL AND w.breaker_state = 'closed'
                       AND coalesce(w.held_until <= clock_timestamp(), true)
                       AND NOT EXISTS (SELECT FROM webhooks_pause)
                       AND (w.delivery_order <> 'all' OR d.order_key IS NULL OR {IS_IN_ORDER})
                       AS may_go
              FROM webhooks_delivery d JOIN webhooks_webhook w ON w.id = d.webhook_id
             WHERE d.finished_at IS NULL
               AND (%(owner)s::{SQL_TYPE} IS NULL OR d.owner_id = %(owner)s)
               AND (%(webhooks)s::uuid[] IS NULL OR d.webhook_id = ANY(%(webhooks)s))
           ) AS unfinished
     GROUP BY owner_id) AS by_owner) AS by_owner
"""  # noqa: S608 (constants only)


def backlog(owner_id: UUID | None = None, webhook_ids: tuple[UUID, ...] | None = None) -> Backlog:
    """Return the backlog of all webhooks, or only of an owner's or the given ones. One statement."""
    parameters = {
        "owner": owner_id,
        "webhooks": None if webhook_ids is None else list(webhook_ids),
    }
    return Backlog(*query(with_owners(BACKLOG_SQL), parameters)[0])


def waiting(webhook: Webhook) -> int:
    """Return how many deliveries of a webhook are not finished, COUNTED_AT_MOST + 1 at most.

    Two statements, each from a partial index: as fast beside millions of finished ones.
    """
    rows = Delivery.objects.filter(
        owner_id=webhook.owner_id or NO_OWNER, webhook=webhook, finished_at=None
    )
    most = COUNTED_AT_MOST + 1
    counts = (
        rows.filter(order_key__isnull=is_unordered).order_by()[:most].count()
        for is_unordered in (True, False)
    )
    return min(sum(counts), most)


WORKERS_SQL = """
SELECT id, host, pid, started_at, in_flight, silent_seconds,
       declared_dead_at IS NULL AND silent_seconds <= %(silence)s
  FROM (SELECT *, greatest(extract(epoch FROM clock_timestamp() - beat_at), 0)::float8
                      AS silent_seconds
          FROM webhooks_workerheartbeat) AS worker
 ORDER BY started_at, id
"""


def workers() -> list[WorkerLife]:
    """Return the running workers and those that died recently, oldest first. One statement."""
    return [
        WorkerLife(*row) for row in query(WORKERS_SQL, {"silence": SILENCE_BEFORE_DEATH_SECONDS})
    ]


@dataclass(frozen=True, slots=True)
class FullWindow:
    """A webhook with as many requests in flight as allowed, so that its deliveries wait."""

    workers: int
    """The number of workers in which the webhook is at its limit."""
    requests: int
    """The limit of requests in flight, summed over these workers."""
    usual_ms: int
    """The usual response time of its receiver."""


FULL_WINDOW_SQL = """
SELECT count(*)::int, coalesce(sum((full_windows -> %(webhook)s ->> 0)::int), 0)::int,
       coalesce(max((full_windows -> %(webhook)s ->> 1)::int), 0)::int
  FROM webhooks_workerheartbeat
 WHERE full_windows ? %(webhook)s AND declared_dead_at IS NULL
   AND beat_at > clock_timestamp() - make_interval(secs => %(silence)s)
"""


def full_window(webhook_id: UUID) -> FullWindow | None:
    """Return a webhook's full window as of the workers' last heartbeats; None if it is not full.

    One statement.
    """
    parameters = {"webhook": webhook_id.hex, "silence": SILENCE_BEFORE_DEATH_SECONDS}
    found = FullWindow(*query(FULL_WINDOW_SQL, parameters)[0])
    return found if found.workers else None


@dataclass(frozen=True, slots=True)
class ChoreState:
    """The schedule of a housekeeping chore, and the results of its last runs."""

    name: str
    due_seconds: float
    """How long it has been due without running; negative before it is due."""
    started_at: datetime | None
    finished_at: datetime | None
    """When a run last finished."""
    failures: int
    """Consecutive runs that failed or never ended."""
    last_error: str
    is_under_way: bool

    @property
    def is_overdue(self) -> bool:
        return self.due_seconds > CHORE_OVERDUE_SECONDS


CHORE_OVERDUE_SECONDS = 120.0
"""Workers read the schedule every 30 seconds."""

# Every worker runs a local chore by itself: its due time is only the end of a pause after a failure.
CHORES_SQL = """
SELECT name, CASE WHEN claimed_by IS NOT NULL AND leased_until IS NULL THEN 0.0 ELSE
           extract(epoch FROM clock_timestamp() - greatest(due_at, leased_until)) END::float8,
       started_at, finished_at, failures, last_error,
       coalesce(leased_until > clock_timestamp(), false)
  FROM webhooks_chore ORDER BY name
"""


def chores() -> list[ChoreState]:
    """Return the chores that workers have run, by name. One statement."""
    return [ChoreState(*row) for row in query(CHORES_SQL, {})]
