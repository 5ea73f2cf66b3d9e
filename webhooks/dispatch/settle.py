"""Write results: one statement per batch, fenced by claimed_by, one attempt row each (invariant 6).

A worker that was declared dead changes nothing: its rows no longer carry its id. After a crash before
a settle, the started deliveries are sent again (at least once); none is lost.
"""

from collections.abc import Sequence, Set, Sized
from operator import itemgetter
from typing import Any, NamedTuple, TypedDict
from uuid import UUID

from django.db import Error
from psycopg.types.json import Json

from webhooks.postgres.sql import run

# Each result finds its row through the primary key, and the attempts come from the updated rows: the
# planner can get no join order wrong, which would be costly for a batch of 500 wide rows.
# It skips locked rows: waiting for one would delay all other results.
SETTLE_SQL = """
WITH result AS (
    SELECT *
      FROM json_to_recordset(%(results)s) AS r (
        id uuid, attempt_id uuid, number int, status text, delay_seconds float8, started_at float8,
        duration_ms int, phases_us int[], url text, body_sha256 text, request_head text, code int, response_head text,
        body text, is_truncated bool, kind text, error text, spends_no_retry bool)
), own AS (
    SELECT d.id FROM webhooks_delivery d
     WHERE d.id = ANY(ARRAY(SELECT id FROM result)) AND d.claimed_by = %(worker)s
       FOR NO KEY UPDATE SKIP LOCKED
), settled AS (
    UPDATE webhooks_delivery d
       SET status = r.status,
           attempt_count = r.number,
           attempts_before_round = d.attempts_before_round + r.spends_no_retry::int,
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
     WHERE d.id = r.id AND d.id = ANY(ARRAY(SELECT id FROM own))
       AND d.attempt_count = r.number - 1
    RETURNING r.*, d.webhook_id
), recorded AS (
    INSERT INTO webhooks_attempt
        (id, delivery_id, number, started_at, duration_ms, phases_us, url, body_sha256, request_head,
         response_code, response_head, response_body, is_truncated, failure_kind, error)
    SELECT attempt_id, id, number, to_timestamp(started_at), duration_ms, phases_us, url,
           decode(body_sha256, 'hex'), request_head, code, decode(response_head, 'base64'), decode(body, 'base64'), is_truncated, kind, error
      FROM settled
    ON CONFLICT DO NOTHING
)
SELECT settled.id,
       CASE WHEN EXISTS (SELECT FROM webhooks_webhook w
                          WHERE w.id = settled.webhook_id AND w.failing_since IS NOT NULL)
            THEN settled.webhook_id END
  FROM settled,
       -- For this transaction only: if Postgres crashes, deliveries are sent again, but none is lost.
       (SELECT set_config('synchronous_commit', 'off', true)) AS asynchronous
"""


class Result(TypedDict):
    """The outcome of one attempt; a dictionary, because it goes to Postgres as JSON."""

    id: str
    """The delivery's id, as hex."""
    attempt_id: str
    number: int
    status: str
    delay_seconds: float | None
    """Until the next try; None if the delivery is finished."""
    started_at: float
    """Unix seconds by the database's clock."""
    duration_ms: int
    phases_us: list[int]
    """Microseconds of each of models.delivery.PHASES."""
    url: str
    body_sha256: str | None
    """Of the body sent, as hex; None where no request was built."""
    request_head: str
    """The header lines sent, without secrets."""
    code: int | None
    response_head: str
    """Status line and headers of the response as received, base64."""
    body: str
    """Body of the response, base64."""
    is_truncated: bool
    kind: str
    """A FailureKind, or empty after a success."""
    error: str
    spends_no_retry: bool
    """Whether the attempt leaves the retry budget as it is, because the fault is ours."""


def without_answer(result: Result) -> Result:
    """Return a result without the receiver's response, for a response that Postgres cannot store."""
    return {**result, "response_head": "", "body": "", "is_truncated": True}


class Settled(NamedTuple):
    """The deliveries of a settled batch, ids as hex; those in neither set are no longer this worker's."""

    written: set[str]
    locked: set[str]
    """Locked rows, whose results are still to be written."""
    ailing: Set[UUID] = frozenset()
    """Webhooks of the batch with a failure since their last success."""

    def has_all(self, results: Sized) -> bool:
        """Whether all of these results are written."""
        return len(self.written) == len(results)


def settle(worker_id: UUID, results: Sequence[Result]) -> Settled:
    """Write results of this worker; skip locked rows."""
    parameters = {"worker": worker_id, "results": Json(sorted_by_id(results))}
    settled = read_settled(run(SETTLE_SQL, parameters).fetchall())
    return settled if settled.has_all(results) else find_locked(worker_id, results, settled)


def sorted_by_id(results: Sequence[Result]) -> list[Result]:
    """Return results in the order of their ids, so that two workers never lock rows in opposite
    orders. They are one JSON parameter of SETTLE_SQL, because binding fifteen arrays takes longer
    than the statement itself."""
    return sorted(results, key=itemgetter("id"))


def read_settled(rows: Sequence[tuple[Any, ...]]) -> Settled:
    """Return the rows of SETTLE_SQL as a Settled."""
    return Settled({row[0].hex for row in rows}, set(), {row[1] for row in rows if row[1]})


STILL_OWN_SQL = """
SELECT d.id
  FROM webhooks_delivery d
  JOIN unnest(%(ids)s::uuid[], %(numbers)s::int[]) AS r (id, number) ON r.id = d.id
 WHERE d.claimed_by = %(worker)s AND d.attempt_count = r.number - 1
"""


def find_locked(worker_id: UUID, results: Sequence[Result], settled: Settled) -> Settled:
    """Return the outcome of a batch with the rows that SETTLE_SQL skipped because they were locked.

    Raises nothing: the effects of the written rows are still to be recorded. Without an answer of
    Postgres, all that were skipped count as locked.
    """
    skipped = [result for result in results if result["id"] not in settled.written]
    parameters = {
        "worker": worker_id,
        "ids": [result["id"] for result in skipped],
        "numbers": [result["number"] for result in skipped],
    }
    try:
        locked = {row[0].hex for row in run(STILL_OWN_SQL, parameters)}
    except Error:
        locked = {result["id"] for result in skipped}
    return settled._replace(locked=locked)
