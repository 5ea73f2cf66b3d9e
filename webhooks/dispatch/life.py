"""The life of a worker, which is the lease on everything it holds (invariant 5).

A worker beats; one that stays silent is dead, and any other takes back what it held. A crash here
leaves a heartbeat that grows old, which is all it takes.
"""

import os
import socket
from uuid import UUID

from django.db import transaction

from webhooks.dispatch.database import run
from webhooks.models import WorkerHeartbeat

SILENCE_BEFORE_DEATH_SECONDS = 10


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
