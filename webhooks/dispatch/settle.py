"""Write results: one statement per batch, fenced by claimed_by, one attempt row each (invariant 6).

A worker that was declared dead changes nothing: its rows carry another worker's id by then. A
crash before a settle sends again what was started (at least once); it loses nothing.
"""

from collections.abc import Sequence, Set
from operator import itemgetter
from typing import Any, NamedTuple, TypedDict
from uuid import UUID

from psycopg.types.json import Json

from webhooks.postgres.sql import run

# Each result finds its row through the primary key, and the attempts come from what was updated:
# no join whose order the planner could get wrong, which a batch of 500 wide rows would not forgive.
# A row that somebody else has locked is skipped and comes back as not settled: waiting for it would
# hold up the results of everybody.
SETTLE_SQL = """
WITH result AS (
    SELECT *
      FROM json_to_recordset(%(results)s) AS r (
        id uuid, attempt_id uuid, number int, status text, delay_seconds float8, started_at float8,
        duration_ms int, phases_us int[], url text, request_head text, code int, response_head text,
        body text, is_truncated bool, kind text, error text, is_free bool)
), own AS (
    SELECT d.id, d.webhook_id
      FROM webhooks_delivery d JOIN result r ON r.id = d.id
     WHERE d.claimed_by = %(worker)s AND d.attempt_count = r.number - 1
), free AS (
    SELECT d.id FROM webhooks_delivery d
     WHERE d.id = ANY(ARRAY(SELECT id FROM own))
       FOR NO KEY UPDATE SKIP LOCKED
), settled AS (
    UPDATE webhooks_delivery d
       SET status = r.status,
           attempt_count = r.number,
           attempts_before_round = d.attempts_before_round + r.is_free::int,
           claimed_by = NULL,
           is_suspect = false,
           crash_count = 0,
           response_code = r.code,
           failure_kind = r.kind,
           error = r.error,
           next_attempt_at = clock_timestamp() + make_interval(secs => r.delay_seconds),
           delivered_at = CASE WHEN r.status = 'SUCCESS'
               THEN to_timestamp(r.started_at + r.duration_ms / 1000.0) ELSE d.delivered_at END,
           finished_at = CASE WHEN r.delay_seconds IS NULL THEN clock_timestamp() END
      FROM result r
     WHERE d.id = r.id AND d.id = ANY(ARRAY(SELECT id FROM free))
       AND d.claimed_by = %(worker)s AND d.attempt_count = r.number - 1
    RETURNING r.*
), recorded AS (
    INSERT INTO webhooks_attempt
        (id, delivery_id, number, started_at, duration_ms, phases_us, url, request_head, response_code,
         response_head, response_body, is_truncated, failure_kind, error)
    SELECT attempt_id, id, number, to_timestamp(started_at), duration_ms, phases_us, url, request_head, code,
           decode(response_head, 'base64'), decode(body, 'base64'), is_truncated, kind, error
      FROM settled
    ON CONFLICT DO NOTHING
)
SELECT own.id, settled.id IS NOT NULL,
       CASE WHEN own.webhook_id IN (
                SELECT w.id FROM webhooks_webhook w
                 WHERE w.id IN (SELECT webhook_id FROM own) AND w.failing_since IS NOT NULL)
            THEN own.webhook_id END
  FROM own LEFT JOIN settled ON settled.id = own.id,
       -- For this transaction only: a crash of Postgres then sends again, it never loses.
       (SELECT set_config('synchronous_commit', 'off', true)) AS asynchronous
"""


class Result(TypedDict):
    """The outcome of one attempt; a dictionary, because it goes to Postgres as JSON."""

    id: str
    """Of the delivery, as hex."""
    attempt_id: str
    number: int
    status: str
    delay_seconds: float | None
    """Until the next try; None where the delivery is finished."""
    started_at: float
    """Unix seconds by the database's clock."""
    duration_ms: int
    phases_us: list[int]
    """Microseconds of each of models.delivery.PHASES."""
    url: str
    request_head: str
    """The header lines sent, without secrets."""
    code: int | None
    response_head: str
    """Status line and headers of the response as they came, base64."""
    body: str
    """Of the response, base64."""
    is_truncated: bool
    kind: str
    """A FailureKind, or empty after a success."""
    error: str
    is_free: bool
    """Whether it spends nothing of the retry budget, as the fault is ours."""


def without_answer(result: Result) -> Result:
    """Return a result without what the receiver sent, for an answer that cannot be stored."""
    return {**result, "response_head": "", "body": "", "is_truncated": True}


class Settled(NamedTuple):
    """What became of a batch; ids as hex. What is in neither set is no longer this worker's."""

    written: set[str]
    locked: set[str]
    """Rows that somebody else has locked; their results are to be written later."""
    ailing: Set[UUID] = frozenset()
    """Of their webhooks, those of which something has failed since the last success."""


def settle(worker_id: UUID, results: Sequence[Result]) -> Settled:
    """Write results of this worker, waiting for no row that somebody else has locked."""
    parameters = {"worker": worker_id, "results": Json(in_order(results))}
    return read_settled(run(SETTLE_SQL, parameters).fetchall())


def in_order(results: Sequence[Result]) -> list[Result]:
    """Return results as the one parameter of SETTLE_SQL, since binding fifteen arrays takes longer
    than the statement itself; sorted, so that two workers never lock rows in opposite orders."""
    return sorted(results, key=itemgetter("id"))


def read_settled(rows: Sequence[tuple[Any, ...]]) -> Settled:
    """Return what the rows of SETTLE_SQL say."""
    return Settled(
        {row[0].hex for row in rows if row[1]},
        {row[0].hex for row in rows if not row[1]},
        {row[2] for row in rows if row[2]},
    )
