"""Find the webhooks with due rows: by a look at the latest due rows, and by a survey of all webhooks.

A look costs the same however many webhooks wait. It misses rows that became due before the time it
reaches back to: rows of long transactions, rows that were locked at the last claim, rows of webhooks
that were enabled again. The survey finds all of them. It visits every webhook with unfinished rows,
in steps, and takes only a small share of the time (webhooks/dispatch/claims.py).
"""

import time
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID

from webhooks.dispatch.lanes import Lane
from webhooks.models.owner_keys import NO_OWNER
from webhooks.postgres.sql import run

LOOK_ROWS = 256
"""How many of the latest due rows a look reads; if there are more, the worker starts a survey."""
LOOK_SECONDS = 2.0
"""How far a look reaches back; it finds the rows of transactions that were open for less."""
LONGEST_LOOK_SECONDS = 600.0
STEP_WEBHOOKS = 512
"""How many webhooks one step of a survey visits."""

# It reads the latest claimable rows, so a large backlog costs no more than a small one. (No index
# serves a comparison with clock_timestamp(), which is volatile.)
LOOK_SQL = """
SELECT extract(epoch FROM clock_timestamp())::float8, EXISTS (SELECT FROM webhooks_pause),
       recent.owner_id, recent.webhook_id, recent.is_ordered, recent.first_at, recent.rows
  FROM (SELECT) AS always_one_row
  LEFT JOIN (
    SELECT r.owner_id, r.webhook_id, r.order_key IS NOT NULL AS is_ordered,
           extract(epoch FROM min(r.next_attempt_at))::float8 AS first_at, count(*) AS rows
      FROM (
        SELECT d.owner_id, d.webhook_id, d.order_key, d.next_attempt_at
          FROM webhooks_delivery d
         WHERE d.finished_at IS NULL AND d.claimed_by IS NULL AND NOT d.is_suspect
           AND d.next_attempt_at <= statement_timestamp()
           AND d.next_attempt_at > statement_timestamp() - make_interval(secs => %(seconds)s)
         ORDER BY d.next_attempt_at DESC
         LIMIT %(rows)s
      ) r
     GROUP BY r.owner_id, r.webhook_id, r.order_key IS NOT NULL
  ) recent ON true
"""


@dataclass(slots=True)
class Look:
    """The lanes in which rows became due lately."""

    database_time: float
    """Unix seconds."""
    clock_offset: float
    """Seconds from the monotonic clock to the database's."""
    is_paused: bool
    """Whether all sending is paused (a Pause row exists)."""
    lanes: list[Lane] = field(default_factory=list)
    is_cut: bool = False
    """Whether more rows were due than a look reads."""


def look(back_seconds: float = LOOK_SECONDS) -> Look:
    """Return the lanes in which rows became due in the last `back_seconds`. One statement."""
    asked_at = time.monotonic()
    rows = run(LOOK_SQL, {"seconds": back_seconds, "rows": LOOK_ROWS}).fetchall()
    now, is_paused = rows[0][:2]
    found = Look(now, clock_offset(now, asked_at), is_paused)
    if rows[0][2] is not None:
        found.lanes = [Lane(*row[2:6]) for row in rows]
        found.is_cut = sum(row[6] for row in rows) >= LOOK_ROWS
    return found


def clock_offset(database_time: float, asked_at: float) -> float:
    """Return the seconds from the monotonic clock to the database's, which was read between
    `asked_at` and now."""
    return database_time - (asked_at + time.monotonic()) / 2


# Each step of the recursion finds the next owner and webhook in an index of unfinished rows.
SURVEY_SQL = """
WITH RECURSIVE visited (owner_id, webhook_id, first_at, position) AS (
    (SELECT d.owner_id, d.webhook_id, d.next_attempt_at, 1
       FROM webhooks_delivery d
      WHERE d.finished_at IS NULL AND d.order_key IS NULL
        AND (d.owner_id, d.webhook_id) > (%(after_owner)s, %(after_webhook)s)
      ORDER BY d.owner_id, d.webhook_id, d.next_attempt_at LIMIT 1)
    UNION ALL
    SELECT next.owner_id, next.webhook_id, next.next_attempt_at, v.position + 1
      FROM visited v
     CROSS JOIN LATERAL (
        SELECT d.owner_id, d.webhook_id, d.next_attempt_at
          FROM webhooks_delivery d
         WHERE d.finished_at IS NULL AND d.order_key IS NULL
           AND (d.owner_id, d.webhook_id) > (v.owner_id, v.webhook_id)
         ORDER BY d.owner_id, d.webhook_id, d.next_attempt_at LIMIT 1
     ) next
     WHERE v.position < %(webhooks)s
)
SELECT v.owner_id, v.webhook_id, extract(epoch FROM v.first_at)::float8, v.position,
       v.first_at <= clock_timestamp()
  FROM visited v
 WHERE v.first_at <= clock_timestamp() OR v.position = %(webhooks)s
"""

# Of a webhook that keeps order per object, the first row may wait while those of other objects do not.
FIRST_AT = """CASE WHEN d.object_key IS NULL THEN d.next_attempt_at ELSE (
            SELECT min(o.next_attempt_at) FROM webhooks_delivery o
             WHERE o.webhook_id = d.webhook_id AND o.finished_at IS NULL
               AND o.order_key IS NOT NULL AND o.object_key IS NOT NULL) END"""

SURVEY_ORDERED_SQL = f"""
WITH RECURSIVE visited (owner_id, webhook_id, first_at, position) AS (
    (SELECT d.owner_id, d.webhook_id, {FIRST_AT}, 1
       FROM webhooks_delivery d
      WHERE d.finished_at IS NULL AND d.order_key IS NOT NULL AND d.webhook_id > %(after_webhook)s
      ORDER BY d.webhook_id, d.epoch, d.order_key, d.id LIMIT 1)
    UNION ALL
    SELECT next.owner_id, next.webhook_id, next.first_at, v.position + 1
      FROM visited v
     CROSS JOIN LATERAL (
        SELECT d.owner_id, d.webhook_id, {FIRST_AT} AS first_at
          FROM webhooks_delivery d
         WHERE d.finished_at IS NULL AND d.order_key IS NOT NULL AND d.webhook_id > v.webhook_id
         ORDER BY d.webhook_id, d.epoch, d.order_key, d.id LIMIT 1
     ) next
     WHERE v.position < %(webhooks)s
)
SELECT v.owner_id, v.webhook_id, extract(epoch FROM v.first_at)::float8, v.position,
       v.first_at <= clock_timestamp()
  FROM visited v
 WHERE v.first_at <= clock_timestamp() OR v.position = %(webhooks)s
"""  # noqa: S608 (constants only)


class Position(NamedTuple):
    """The last webhook that a survey visited."""

    is_ordered: bool = False
    """Whether the survey is in the index of ordered rows, which comes second."""
    owner_id: Any = NO_OWNER
    webhook_id: UUID = UUID(int=0)


FIRST_POSITION = Position()


class Step(NamedTuple):
    """The result of one step of a survey."""

    lanes: list[Lane]
    """The lanes with due rows."""
    next: Position | None
    """Where the next step starts; None after the last webhook."""


def survey(position: Position) -> Step:
    """Visit the next webhooks with unfinished rows. One statement, which waits for no lock."""
    sql = SURVEY_ORDERED_SQL if position.is_ordered else SURVEY_SQL
    parameters = {
        "after_owner": position.owner_id,
        "after_webhook": position.webhook_id,
        "webhooks": STEP_WEBHOOKS,
    }
    rows = run(sql, parameters).fetchall()
    lanes = [
        Lane(owner_id, webhook_id, position.is_ordered, first_at)
        for owner_id, webhook_id, first_at, _, is_due in rows
        if is_due
    ]
    last = next((row for row in rows if row[3] == STEP_WEBHOOKS), None)
    if last is not None:
        return Step(lanes, Position(position.is_ordered, last[0], last[1]))
    return Step(lanes, None if position.is_ordered else Position(is_ordered=True))


# Signs of due rows that a look may miss: long transactions, and webhooks that were enabled again.
NEWS_SQL = """
SELECT ARRAY(SELECT extract(epoch FROM a.xact_start)::float8
               FROM pg_stat_activity a
              WHERE a.datname = current_database() AND a.backend_xid IS NOT NULL
                AND a.xact_start < clock_timestamp() - make_interval(secs => %(open)s)),
       ARRAY(SELECT w.id FROM webhooks_webhook w
              WHERE w.breaker_changed_at > statement_timestamp() - make_interval(secs => %(seconds)s)
                AND w.breaker_state = 'closed' AND w.active AND w.deleted_at IS NULL)
"""


class News(NamedTuple):
    """Signs of due rows that a look may miss."""

    writers: frozenset[float]
    """The start times of the long transactions that write (Unix seconds)."""
    resumed: list[UUID]
    """Webhooks that were enabled, or whose breaker closed, in the last seconds."""


def news(back_seconds: float) -> News:
    """Return the long transactions and the webhooks resumed in the last `back_seconds`. One
    statement."""
    parameters = {"open": LOOK_SECONDS / 2, "seconds": back_seconds}
    writers, resumed = run(NEWS_SQL, parameters).fetchone()
    return News(frozenset(writers), resumed)
