"""Write results: one statement per batch, fenced by claimed_by, one attempt row each (invariant 6).

A worker that was declared dead changes nothing: its rows carry another worker's id by then. A
crash before a settle sends again what was started (at least once); it loses nothing.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from django.db import connection

SETTLE_SQL = """
WITH result AS (
    SELECT * FROM unnest(
        %(ids)s::uuid[], %(attempt_ids)s::uuid[], %(numbers)s::int[], %(statuses)s::text[],
        %(delays)s::float8[], %(started)s::float8[], %(durations)s::int[], %(urls)s::text[],
        %(request_headers)s::text[], %(codes)s::int[], %(response_headers)s::text[],
        %(bodies)s::bytea[], %(truncated)s::bool[], %(kinds)s::text[], %(errors)s::text[])
      AS result (id, attempt_id, number, status, delay_seconds, started_at, duration_ms, url,
                 request_headers, code, response_headers, body, is_truncated, kind, error)
), settled AS (
    UPDATE webhooks_delivery d
       SET status = r.status,
           attempt_count = r.number,
           claimed_by = NULL,
           is_suspect = false,
           response_code = r.code,
           failure_kind = r.kind,
           error = r.error,
           next_attempt_at = clock_timestamp() + make_interval(secs => r.delay_seconds),
           delivered_at = CASE WHEN r.status = 'SUCCESS'
               THEN to_timestamp(r.started_at + r.duration_ms / 1000.0) ELSE d.delivered_at END,
           finished_at = CASE WHEN r.delay_seconds IS NULL THEN clock_timestamp() END
      FROM result r
     WHERE d.id = r.id AND d.claimed_by = %(worker)s
    RETURNING d.id
), recorded AS (
    INSERT INTO webhooks_attempt
        (id, delivery_id, number, started_at, duration_ms, url, request_headers, response_code,
         response_headers, response_body, is_truncated, failure_kind, error)
    SELECT r.attempt_id, r.id, r.number, to_timestamp(r.started_at), r.duration_ms, r.url,
           r.request_headers::jsonb, r.code, r.response_headers::jsonb, r.body, r.is_truncated,
           r.kind, r.error
      FROM result r JOIN settled USING (id)
    ON CONFLICT DO NOTHING
)
SELECT count(*)
  FROM settled,
       -- For this transaction only: a crash of Postgres then sends again, it never loses.
       (SELECT set_config('synchronous_commit', 'off', true)) AS asynchronous
"""


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of one attempt, ready to be written."""

    delivery_id: UUID
    attempt_id: UUID
    number: int
    status: str
    retry_delay_seconds: float | None
    """None where the delivery is finished."""
    started_at: float
    """Unix seconds by the database's clock."""
    duration_ms: int
    url: str
    request_headers: str
    """JSON, without secrets."""
    response_code: int | None
    response_headers: str
    """JSON."""
    response_body: bytes
    is_truncated: bool
    failure_kind: str
    error: str

    def without_answer(self) -> "Result":
        """The same result without what the receiver sent, for an answer that cannot be stored."""
        return replace(self, response_headers="{}", response_body=b"", is_truncated=True)


def settle(worker_id: UUID, results: Sequence[Result]) -> int:
    """Write results of this worker; returns how many rows were still its own."""
    # Sorted, so that two workers never lock the same rows in opposite orders.
    results = sorted(results, key=lambda result: result.delivery_id)
    with connection.cursor() as cursor:
        cursor.execute(SETTLE_SQL, {"worker": worker_id, **_columns(results)})
        (settled,) = cursor.fetchone()
    return int(settled)


def _columns(results: Sequence[Result]) -> dict[str, list[object]]:
    return {
        "ids": [r.delivery_id for r in results],
        "attempt_ids": [r.attempt_id for r in results],
        "numbers": [r.number for r in results],
        "statuses": [r.status for r in results],
        "delays": [r.retry_delay_seconds for r in results],
        "started": [r.started_at for r in results],
        "durations": [r.duration_ms for r in results],
        "urls": [r.url for r in results],
        "request_headers": [r.request_headers for r in results],
        "codes": [r.response_code for r in results],
        "response_headers": [r.response_headers for r in results],
        "bodies": [r.response_body for r in results],
        "truncated": [r.is_truncated for r in results],
        "kinds": [r.failure_kind for r in results],
        "errors": [r.error for r in results],
    }


def headers_as_json(headers: object) -> str:
    """Return headers as JSON text that Postgres takes: `\\u0000` has no place in jsonb."""
    return json.dumps(headers).replace("\\u0000", "\\ufffd")
