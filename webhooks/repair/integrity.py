"""The audit: verify from the rows alone that no delivery is lost or stuck.

Each event has as many deliveries as its fan-out counted; each delivery's columns agree with one
another and with its attempts; no delivery is in flight at a dead worker; no row refers to a deleted
one. Three passes walk the primary keys in pages. Each page is one statement and so one snapshot:
memory and locks do not grow with the tables, and workers continue meanwhile.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

from django.db import connection, transaction

from webhooks.dispatch.life import SILENCE_BEFORE_DEATH_SECONDS
from webhooks.ids import ATTEMPT_PREFIX, DELIVERY_PREFIX, EVENT_PREFIX
from webhooks.outbox import wakeup
from webhooks.repair import rollups

PAGE = 20_000
LEASE_SECONDS = SILENCE_BEFORE_DEATH_SECONDS + 5
"""Within this time, other workers reclaim a dead worker's deliveries."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A condition that every row must meet."""

    name: str
    description: str
    """A description of the rows that break the rule."""
    mend: str
    """The command that repairs such a row; `{id}` stands for its public id."""


LOST = Rule(
    "lost",
    "Deliveries in a state that no worker will ever claim",
    "manage.py doctor --mend",
)
STUCK = Rule(
    "stuck",
    "Deliveries in flight at a dead worker",
    "manage.py doctor --mend",
)
MISSING = Rule(
    "missing",
    "Events with fewer deliveries than matching webhooks",
    "manage.py redeliver --missing --event {id}",
)
SURPLUS = Rule("surplus", "Events with more deliveries than their count", "manage.py doctor --mend")
MISCOUNTED = Rule(
    "miscounted",
    "Deliveries whose attempt count differs from the recorded attempts",
    "manage.py doctor --mend",
)
DISAGREEING = Rule(
    "disagreeing",
    "Deliveries whose status contradicts their other columns",
    "manage.py redeliver {id} --force",
)
EVENTLESS = Rule(
    "eventless", "Deliveries without an event, which cannot be sent", "manage.py doctor --mend"
)
ORPHANED = Rule("orphaned", "Attempts without a delivery", "manage.py doctor --mend")

RULES = (LOST, STUCK, MISSING, SURPLUS, MISCOUNTED, DISAGREEING, EVENTLESS, ORPHANED)


@dataclass(frozen=True, slots=True)
class Fault:
    """A row that breaks a rule."""

    rule: Rule
    id: str
    """The public id of the event, delivery or attempt."""
    detail: str


EVENTS_SQL = """
WITH page AS MATERIALIZED (
    SELECT id, fanout_count FROM webhooks_event
     WHERE id > %(after)s ORDER BY id LIMIT %(page)s
)
SELECT (SELECT id FROM page ORDER BY id DESC LIMIT 1), wrong.*
  FROM (SELECT) AS always_one_row
  LEFT JOIN (
    SELECT CASE WHEN found.count < page.fanout_count THEN 'missing' ELSE 'surplus' END,
           page.id, found.count || ' of ' || page.fanout_count || ' deliveries exist'
      FROM page
     CROSS JOIN LATERAL (
        SELECT count(*) FROM webhooks_delivery d WHERE d.event_id = page.id
     ) AS found
     WHERE found.count <> page.fanout_count
     ORDER BY page.id
  ) AS wrong ON true
"""

DELIVERIES_SQL = """
WITH page AS MATERIALIZED (
    SELECT id, event_id, status, attempt_count, next_attempt_at, finished_at, claimed_by
      FROM webhooks_delivery
     WHERE id > %(after)s ORDER BY id LIMIT %(page)s
), examined AS (
    SELECT page.*, tried.count AS tried, tried.last,
           status IN ('PENDING', 'SENDING', 'RETRYING') AS is_open,
           NOT EXISTS (SELECT FROM webhooks_event e WHERE e.id = page.event_id) AS is_eventless,
           claimed_by IS NOT NULL AND NOT EXISTS (
               SELECT FROM webhooks_workerheartbeat w
                WHERE w.id = page.claimed_by
                  AND w.beat_at > clock_timestamp() - make_interval(secs => %(lease)s)
           ) AS is_stuck
      FROM page
     CROSS JOIN LATERAL (
        SELECT count(*), coalesce(max(a.number), 0) AS last
          FROM webhooks_attempt a WHERE a.delivery_id = page.id
     ) AS tried
)
SELECT (SELECT id FROM page ORDER BY id DESC LIMIT 1), wrong.*
  FROM (SELECT) AS always_one_row
  LEFT JOIN (
    SELECT CASE
             WHEN is_eventless THEN 'eventless'
             WHEN is_stuck THEN 'stuck'
             WHEN is_open AND (finished_at IS NOT NULL OR next_attempt_at IS NULL)
               OR status = 'SENDING' AND claimed_by IS NULL THEN 'lost'
             WHEN tried <> attempt_count OR last <> attempt_count THEN 'miscounted'
             WHEN NOT is_open AND finished_at IS NULL
               OR claimed_by IS NOT NULL AND status <> 'SENDING'
               OR status = 'SUCCESS' AND attempt_count = 0 THEN 'disagreeing'
           END AS rule,
           id,
           concat_ws(', ', status, attempt_count || ' attempts counted', tried || ' recorded',
                     'claimed by ' || claimed_by,
                     CASE WHEN is_open AND next_attempt_at IS NULL THEN 'never due' END,
                     CASE WHEN is_open AND finished_at IS NOT NULL THEN 'marked finished'
                          WHEN NOT is_open AND finished_at IS NULL THEN 'not marked finished' END)
      FROM examined
     ORDER BY id
  ) AS wrong ON wrong.rule IS NOT NULL
"""

ATTEMPTS_SQL = """
WITH page AS MATERIALIZED (
    SELECT id, delivery_id FROM webhooks_attempt
     WHERE id > %(after)s ORDER BY id LIMIT %(page)s
)
SELECT (SELECT id FROM page ORDER BY id DESC LIMIT 1), wrong.*
  FROM (SELECT) AS always_one_row
  LEFT JOIN (
    SELECT 'orphaned', page.id, 'delivery ' || page.delivery_id
      FROM page
     WHERE NOT EXISTS (SELECT FROM webhooks_delivery d WHERE d.id = page.delivery_id)
       -- A purge will drop these with their partition.
       AND NOT EXISTS (SELECT FROM webhooks_expiringpartition p
                        WHERE page.delivery_id >= p.first_id AND page.delivery_id < p.end_id)
     ORDER BY page.id
  ) AS wrong ON true
"""

PASSES = (
    (EVENTS_SQL, EVENT_PREFIX),
    (DELIVERIES_SQL, DELIVERY_PREFIX),
    (ATTEMPTS_SQL, ATTEMPT_PREFIX),
)


def find_faults() -> Iterator[Fault]:
    """Check all events, deliveries and attempts, and yield each row that breaks a rule.

    Raises Django's database errors.
    """
    for sql, prefix in PASSES:
        yield from _walk(sql, prefix)


def _walk(sql: str, prefix: str) -> Iterator[Fault]:
    rules = {rule.name: rule for rule in RULES}
    after: UUID | None = UUID(int=0)
    while after is not None:
        with connection.cursor() as cursor:
            cursor.execute(sql, {"after": after, "page": PAGE, "lease": LEASE_SECONDS})
            rows = cursor.fetchall()
        for _, name, id_, detail in rows:
            if name is not None:
                yield Fault(rules[name], prefix + id_.hex, detail)
        after = rows[0][0]


# A worker stores its heartbeat before its first claim, so no heartbeat means no worker.
MEND_STUCK_SQL = """
UPDATE webhooks_delivery d
   SET status = CASE WHEN attempt_count > attempts_before_round THEN 'RETRYING' ELSE 'PENDING' END,
       claimed_by = NULL, is_suspect = true,
       next_attempt_at = coalesce(next_attempt_at, clock_timestamp())
 WHERE finished_at IS NULL AND claimed_by IS NOT NULL AND NOT EXISTS (
    SELECT FROM webhooks_workerheartbeat w
     WHERE w.id = d.claimed_by
       AND w.beat_at > clock_timestamp() - make_interval(secs => %(lease)s))
"""

MEND_LOST_SQL = """
UPDATE webhooks_delivery
   SET status = CASE WHEN attempt_count > attempts_before_round THEN 'RETRYING' ELSE 'PENDING' END,
       finished_at = NULL, claimed_by = NULL,
       next_attempt_at = coalesce(next_attempt_at, clock_timestamp())
 WHERE status IN ('PENDING', 'SENDING', 'RETRYING')
   AND (finished_at IS NOT NULL OR next_attempt_at IS NULL
        OR status = 'SENDING' AND claimed_by IS NULL)
"""

MEND_EVENTLESS_SQL = """
DELETE FROM webhooks_delivery d
 WHERE claimed_by IS NULL AND NOT EXISTS (SELECT FROM webhooks_event e WHERE e.id = d.event_id)
"""

MEND_ORPHANED_SQL = """
DELETE FROM webhooks_attempt a
 WHERE NOT EXISTS (SELECT FROM webhooks_delivery d WHERE d.id = a.delivery_id)
   AND NOT EXISTS (SELECT FROM webhooks_expiringpartition p
                    WHERE a.delivery_id >= p.first_id AND a.delivery_id < p.end_id)
"""

MEND_SURPLUS_SQL = """
UPDATE webhooks_event e SET fanout_count = found.count
  FROM (SELECT event_id, count(*) FROM webhooks_delivery GROUP BY event_id) AS found
 WHERE e.id = found.event_id AND e.fanout_count < found.count
"""

MISCOUNTED_SQL = """
SELECT d.id
  FROM webhooks_delivery d
 CROSS JOIN LATERAL (
    SELECT count(*), coalesce(max(a.number), 0) AS last
      FROM webhooks_attempt a WHERE a.delivery_id = d.id
 ) AS tried
 WHERE d.claimed_by IS NULL
   AND (tried.count <> d.attempt_count OR tried.last <> d.attempt_count)
   FOR NO KEY UPDATE OF d
"""

# The numbers of a delivery's attempts are unique at every moment, so renumbering takes two steps.
RENUMBER_SQL = """
UPDATE webhooks_attempt SET number = number + 1000000 WHERE delivery_id = ANY(%(ids)s);
UPDATE webhooks_attempt a SET number = new.number
  FROM (SELECT id, row_number() OVER (PARTITION BY delivery_id ORDER BY number) AS number
          FROM webhooks_attempt WHERE delivery_id = ANY(%(ids)s)) AS new
 WHERE a.id = new.id;
UPDATE webhooks_delivery d
   SET attempt_count = tried.count,
       attempts_before_round = least(attempts_before_round, tried.count)
  FROM (SELECT picked.id, count(a.id)
          FROM unnest(%(ids)s::uuid[]) AS picked (id)
          LEFT JOIN webhooks_attempt a ON a.delivery_id = picked.id
         GROUP BY picked.id) AS tried
 WHERE d.id = tried.id
"""

MENDING = (
    (STUCK, MEND_STUCK_SQL),
    (LOST, MEND_LOST_SQL),
    (SURPLUS, MEND_SURPLUS_SQL),
    (EVENTLESS, MEND_EVENTLESS_SQL),
    (ORPHANED, MEND_ORPHANED_SQL),
)


def mend() -> dict[str, int]:
    """Repair the faults that have one obvious remedy, and return the number of rows by rule name.

    Lost and stuck deliveries become due again (a stuck one may be sent twice), deliveries without an
    event and attempts without a delivery are deleted, and attempts are recounted and renumbered.
    Raises Django's database errors.
    """
    mended = {}
    for rule, sql in MENDING:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(sql, {"lease": LEASE_SECONDS})
            mended[rule.name] = cursor.rowcount
            transaction.on_commit(wakeup.nudge, robust=True)
    mended[MISCOUNTED.name] = _recount()
    if any(mended.values()):
        rollups.forget()
    return mended


@transaction.atomic
def _recount() -> int:
    with connection.cursor() as cursor:
        cursor.execute(MISCOUNTED_SQL)
        ids = [row[0] for row in cursor.fetchall()]
        for statement in RENUMBER_SQL.split(";") if ids else ():
            cursor.execute(statement, {"ids": ids})
    return len(ids)
