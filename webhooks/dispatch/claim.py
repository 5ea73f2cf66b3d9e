"""Take due rows to send: short transactions, SKIP LOCKED, only what can start now (invariant 4).

Webhooks are visited in rotation, each for no more rows than its window has room, so that a webhook
with a million due rows takes its turn like one with a single row. A crash after a claim leaves
rows marked with a worker that no longer beats; reclaim_from_dead_workers() takes them back.
"""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from django.db import transaction

from webhooks.dispatch.database import run
from webhooks.models import WorkerHeartbeat

FIRST_WEBHOOK = UUID(int=0)
WEBHOOKS_PER_CLAIM = 256
"""How many waiting webhooks one claim visits; the next claim goes on behind the last of them."""

SILENCE_BEFORE_DEATH_SECONDS = 10

CLAIM_SQL = """
WITH RECURSIVE visited (webhook_id, position) AS (
    (SELECT webhook_id, 1 FROM webhooks_delivery
      WHERE finished_at IS NULL AND webhook_id > %(after)s
      ORDER BY webhook_id LIMIT 1)
    UNION ALL
    SELECT (SELECT d.webhook_id FROM webhooks_delivery d
             WHERE d.finished_at IS NULL AND d.webhook_id > v.webhook_id
             ORDER BY d.webhook_id LIMIT 1), v.position + 1
      FROM visited v
     WHERE v.webhook_id IS NOT NULL AND v.position <= %(webhooks)s
), due AS (
    SELECT row.id
      FROM visited v
      JOIN webhooks_webhook w ON w.id = v.webhook_id AND w.active AND w.deleted_at IS NULL
      CROSS JOIN LATERAL (
        SELECT d.id FROM webhooks_delivery d
         WHERE d.webhook_id = v.webhook_id AND d.finished_at IS NULL
           AND d.next_attempt_at <= statement_timestamp() AND d.claimed_by IS NULL
         ORDER BY d.next_attempt_at
         LIMIT coalesce((SELECT room.free FROM unnest(%(held_webhooks)s::uuid[], %(rooms)s::int[])
                                AS room (webhook_id, free)
                          WHERE room.webhook_id = v.webhook_id), %(default_room)s)
           FOR UPDATE SKIP LOCKED
      ) row
     WHERE v.position <= %(webhooks)s
       AND NOT EXISTS (SELECT FROM webhooks_pause)
     LIMIT %(limit)s
), claimed AS (
    UPDATE webhooks_delivery d
       SET status = 'SENDING', claimed_by = %(worker)s
     WHERE d.id = ANY(ARRAY(SELECT id FROM due))
    RETURNING d.id, d.webhook_id, d.event_id, d.attempt_count, d.attempts_before_round
)
SELECT extract(epoch FROM clock_timestamp())::float8,
       (SELECT v.webhook_id FROM visited v JOIN visited beyond ON beyond.position = v.position + 1
         WHERE v.position = %(webhooks)s AND beyond.webhook_id IS NOT NULL),
       c.id, c.webhook_id, c.event_id, c.attempt_count, c.attempts_before_round, e.type, e.payload
  FROM (SELECT) AS always_one_row
  LEFT JOIN (claimed c JOIN webhooks_event e ON e.id = c.event_id) ON true
"""


class ClaimedDelivery(NamedTuple):
    """A row that is ours to send while this worker lives."""

    id: UUID
    webhook_id: UUID
    event_id: UUID
    attempt_count: int
    attempts_before_round: int
    event_type: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Claim:
    """What one claim took, and the database's time (Unix seconds) when it did."""

    deliveries: list[ClaimedDelivery]
    database_time: float
    next_webhook: UUID
    """Where the rotation goes on; FIRST_WEBHOOK when everything that waits was visited."""

    @property
    def is_complete(self) -> bool:
        """Whether it came to the end of the rotation, so that nothing due was left unseen."""
        return self.next_webhook == FIRST_WEBHOOK


def claim_due(
    worker_id: UUID,
    *,
    limit: int,
    rooms: Mapping[UUID, int],
    default_room: int,
    after: UUID = FIRST_WEBHOOK,
) -> Claim:
    """Mark up to `limit` due deliveries as SENDING by this worker and return them.

    `rooms` says how many more rows each webhook may hold that holds some already, `default_room`
    that of all others; `after` is where the last claim's rotation stopped.
    """
    rows = run(
        CLAIM_SQL,
        {
            "worker": worker_id,
            "after": after,
            "webhooks": WEBHOOKS_PER_CLAIM,
            "held_webhooks": list(rooms.keys()),
            "rooms": list(rooms.values()),
            "default_room": default_room,
            "limit": limit,
        },
    ).fetchall()
    database_time, last_visited = rows[0][:2]
    deliveries = [ClaimedDelivery._make(row[2:]) for row in rows if row[2] is not None]
    if len(deliveries) == limit:
        # The limit cut the rotation short; the last webhook served has had its turn.
        last_visited = max(delivery.webhook_id for delivery in deliveries)
    return Claim(deliveries, database_time, last_visited or FIRST_WEBHOOK)


RELEASE_SQL = """
UPDATE webhooks_delivery
   SET status = CASE WHEN attempt_count > attempts_before_round THEN 'RETRYING' ELSE 'PENDING' END,
       next_attempt_at = next_attempt_at + make_interval(secs => %(delay)s),
       claimed_by = NULL
 WHERE id = ANY(%(ids)s) AND claimed_by = %(worker)s
"""


def release(worker_id: UUID, delivery_ids: list[UUID], *, delay_seconds: float = 0) -> None:
    """Give rows back that were claimed and not started; they spend no attempt."""
    run(RELEASE_SQL, {"delay": delay_seconds, "ids": delivery_ids, "worker": worker_id})


BURY_SQL = """
DELETE FROM webhooks_workerheartbeat
 WHERE beat_at < clock_timestamp() - make_interval(secs => %(silence)s)
RETURNING id
"""

RECLAIM_SQL = """
UPDATE webhooks_delivery
   SET status = CASE WHEN attempt_count > attempts_before_round THEN 'RETRYING' ELSE 'PENDING' END,
       claimed_by = NULL, is_suspect = true
 WHERE finished_at IS NULL AND claimed_by = ANY(%(workers)s)
"""


def reclaim_from_dead_workers() -> int:
    """Take back the rows of workers that stopped beating; returns how many. Any worker may call it.

    No index leads to a worker's rows, since it would cost every claim; a death is rare.
    """
    with transaction.atomic():
        dead = [
            row[0] for row in run(BURY_SQL, {"silence": SILENCE_BEFORE_DEATH_SECONDS}).fetchall()
        ]
        return run(RECLAIM_SQL, {"workers": dead}).rowcount if dead else 0


CANCEL_SQL = """
UPDATE webhooks_delivery d
   SET status = 'CANCELLED', finished_at = clock_timestamp(), next_attempt_at = NULL,
       error = 'The webhook was deleted.'
  FROM webhooks_webhook w
 WHERE w.id = d.webhook_id AND w.deleted_at IS NOT NULL AND d.finished_at IS NULL
   AND d.claimed_by IS NULL
"""


def cancel_for_deleted_webhooks() -> int:
    """Cancel what waits for deleted webhooks, also what was committed after the deletion."""
    return run(CANCEL_SQL, {}).rowcount


def register_worker(worker_id: UUID) -> None:
    """Start this worker's life; what it claims from now on is its own."""
    WorkerHeartbeat.objects.create(id=worker_id, host=socket.gethostname(), pid=os.getpid())


def unregister_worker(worker_id: UUID) -> None:
    """End this worker's life in order; whatever it still holds is reclaimed at once."""
    WorkerHeartbeat.objects.filter(id=worker_id).delete()


BEAT_SQL = """
UPDATE webhooks_workerheartbeat SET beat_at = clock_timestamp(), in_flight = %(in_flight)s
 WHERE id = %(worker)s
"""


def beat(worker_id: UUID, in_flight: int) -> bool:
    """Say that this worker lives; False when it was declared dead and must drop what it holds."""
    return run(BEAT_SQL, {"in_flight": in_flight, "worker": worker_id}).rowcount == 1
