"""The life of a worker, which is the lease on everything it holds (invariant 5).

A worker beats; one that stays silent is dead, and any other takes back what it held. A crash here
leaves a heartbeat that grows old, which is all it takes.
"""

import logging
import os
import socket
from uuid import UUID

from webhooks.database import end_connections, limited_transaction, run
from webhooks.dispatch.claim import release_others
from webhooks.models import WorkerHeartbeat

logger = logging.getLogger(__name__)

SILENCE_BEFORE_DEATH_SECONDS = 10.0
MOST_CRASHES = 3
"""How often a delivery may end its worker while it is alone there."""


def connection_name(worker_id: UUID) -> str:
    """Return what the connections of a worker are called in Postgres, for this life."""
    return f"webhooks-worker {worker_id.hex}"


def register_worker(worker_id: UUID) -> None:
    """Start this worker's life; what it claims from now on is its own."""
    WorkerHeartbeat.objects.create(id=worker_id, host=socket.gethostname(), pid=os.getpid())


def unregister_worker(worker_id: UUID) -> None:
    """End this worker's life in order: what is still marked as its own is given back."""
    with limited_transaction():
        WorkerHeartbeat.objects.filter(id=worker_id).delete()
        release_others(worker_id, [])


BEAT_SQL = """
UPDATE webhooks_workerheartbeat SET beat_at = clock_timestamp(), in_flight = %(in_flight)s
 WHERE id = %(worker)s
"""


def beat(worker_id: UUID, in_flight: int) -> bool:
    """Say that this worker lives; False when it was declared dead and must drop what it holds."""
    return bool(run(BEAT_SQL, {"in_flight": in_flight, "worker": worker_id}).rowcount)


IS_DEAD = "beat_at < clock_timestamp() - make_interval(secs => %(silence)s)"
DEAD_SQL = f"SELECT id FROM webhooks_workerheartbeat WHERE {IS_DEAD}"  # noqa: S608 (constants only)
BURY_SQL = f"DELETE FROM webhooks_workerheartbeat WHERE {IS_DEAD} RETURNING id"  # noqa: S608

RECLAIM_SQL = """
UPDATE webhooks_delivery d
   SET status = CASE WHEN d.crash_count >= %(most)s THEN 'FAILED'
                     WHEN d.attempt_count > d.attempts_before_round THEN 'RETRYING'
                     ELSE 'PENDING' END,
       finished_at = CASE WHEN d.crash_count >= %(most)s THEN clock_timestamp() END,
       error = CASE WHEN d.crash_count >= %(most)s THEN %(reason)s ELSE d.error END,
       claimed_by = NULL, is_suspect = true
 WHERE d.finished_at IS NULL AND d.claimed_by = ANY(%(workers)s)
RETURNING d.id, d.finished_at IS NOT NULL
"""


def reclaim_from_dead_workers() -> int:
    """Take back the rows of workers that stopped beating; returns how many. Any worker may call it.

    What was in flight is suspect and goes out alone next time; what ended its worker often enough
    while it was alone is failed for good (invariant 8). No index leads to a worker's rows, since it
    would cost every claim; a death is rare.
    """
    silence = {"silence": SILENCE_BEFORE_DEATH_SECONDS}
    silent = [connection_name(row[0]) for row in run(DEAD_SQL, silence)]
    if not silent:
        return 0
    # It may be frozen in the middle of a statement that keeps its heartbeat, or what it held, locked.
    end_connections(silent)
    with limited_transaction():
        dead = [row[0] for row in run(BURY_SQL, silence)]
        reason = f"Its worker died {MOST_CRASHES} times while nothing else was being sent."
        parameters = {"workers": dead, "most": MOST_CRASHES, "reason": reason}
        rows = run(RECLAIM_SQL, parameters).fetchall()
    for delivery_id, is_parked in rows:
        if is_parked:
            logger.error("Delivery %s is given up: %s", delivery_id, reason)
    return len(rows)
