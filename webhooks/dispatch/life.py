"""The life of a worker, which is the lease on everything it holds (invariant 5).

A worker beats; one that stays silent is declared dead, and any other takes back what it held. That
is done in steps, each of which anybody may go on with, and none of which waits for a lock:

1. The heartbeat is marked. From then on the worker claims nothing, and its next beat tells it.
2. Its rows are taken back, but for those that somebody has locked: they are left for the next look.
3. The heartbeat is deleted once no row is marked with it, and no claim of it is under way.

So as long as a row names a worker, so does a heartbeat. A crash here leaves a heartbeat that grows
old, or a mark, which is all it takes.
"""

import logging
import os
import socket
from collections.abc import Collection, Mapping, Sequence
from uuid import UUID

from psycopg.types.json import Json

from webhooks.dispatch import suspects
from webhooks.dispatch.release import HeldDelivery, lock_held, release, release_others
from webhooks.dispatch.suspects import ALONE
from webhooks.models import WorkerHeartbeat
from webhooks.postgres.sql import end_connections, limited_transaction, run
from webhooks.wire.clock import boottime

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
    """End this worker's life in order: what is still marked as its own is given back.

    What cannot be given back now, because somebody has locked it, others take back.
    """
    with limited_transaction():
        is_quiet = bool(_lock_quiet([worker_id]))
        locked = release_others(worker_id, [])
        if is_quiet and not locked:
            _delete([worker_id])
    declare_dead([worker_id], in_order=True)


BEAT_SQL = """
UPDATE webhooks_workerheartbeat
   SET beat_at = clock_timestamp(), in_flight = %(in_flight)s, full_windows = %(full_windows)s
 WHERE id = (
    SELECT id FROM webhooks_workerheartbeat
     WHERE id = %(worker)s AND declared_dead_at IS NULL
       FOR NO KEY UPDATE SKIP LOCKED)
"""


def beat(
    worker_id: UUID, in_flight: int, full_windows: Mapping[str, tuple[int, int]] | None = None
) -> bool:
    """Say that this worker lives, what it has in flight, and which webhooks may have no more of it
    (Windows.full()); False when it was declared dead and must drop what it holds."""
    parameters = {
        "in_flight": in_flight,
        "full_windows": Json(full_windows or {}),
        "worker": worker_id,
    }
    if run(BEAT_SQL, parameters).rowcount:
        return True
    # While somebody has locked its row it cannot beat, and nobody can declare it dead.
    return bool(find_living([worker_id]))


LIVING_SQL = """
SELECT id FROM webhooks_workerheartbeat WHERE id = ANY(%(workers)s) AND declared_dead_at IS NULL
"""


def find_living(worker_ids: Collection[UUID]) -> set[UUID]:
    """Return which of these workers are registered and not declared dead."""
    return {row[0] for row in run(LIVING_SQL, {"workers": list(worker_ids)})}


# What is known of all workers.

LOOK_SQL = """
SELECT extract(epoch FROM clock_timestamp())::float8,
       coalesce(max(extract(epoch FROM clock_timestamp() - beat_at))
                FILTER (WHERE declared_dead_at IS NULL), 0)::float8,
       count(declared_dead_at)
  FROM webhooks_workerheartbeat
"""


def longest_silence_seconds() -> float:
    """Return how long the most silent worker has been so that is not declared dead."""
    return float(run(LOOK_SQL, {}).fetchone()[1])


class Watch:
    """Notices the deaths of workers; one per process that looks again and again."""

    def __init__(self) -> None:
        self.longest_silence_seconds = 0.0
        """Of a worker that is not declared dead, when last looked."""
        self._clocks: tuple[float, float] | None = None
        self._trusts_at = 0.0
        self._rests_until = 0.0
        self._spared_until: dict[UUID, float] = {}

    def look(self) -> int:
        """Take back what dead workers held; returns how many deliveries.

        After a gap in our own looks it is Postgres that was away, or its clock that was set, and
        the others may be as alive as we are: they get the time to beat.
        """
        database_time, silence, dead = run(LOOK_SQL, {}).fetchone()
        now = boottime()
        self.longest_silence_seconds = silence
        clocks, self._clocks = self._clocks, (now, database_time)
        if clocks is not None and _is_gap(now - clocks[0], database_time - clocks[1]):
            self._trusts_at = now + _time_to_beat()
        if silence > SILENCE_BEFORE_DEATH_SECONDS and now >= self._trusts_at:
            dead += self._declare(now)
        return self._take_back(now) if dead and now >= self._rests_until else 0

    def _declare(self, now: float) -> int:
        """Declare silent workers dead; those whose heartbeats were locked get the time to beat."""
        self._spared_until = {
            worker_id: now + _time_to_beat()
            if is_locked
            else self._spared_until.get(worker_id, now)
            for worker_id, is_locked in find_silent().items()
        }
        return declare_silent_dead([k for k, until in self._spared_until.items() if until <= now])

    def _take_back(self, now: float) -> int:
        """What somebody has locked is looked for again, with at most a tenth of our time."""
        count = take_back()
        self._rests_until = boottime() + 9 * (boottime() - now)
        return count


def _time_to_beat() -> float:
    """Return the seconds in which every worker that lives beats at least twice."""
    return SILENCE_BEFORE_DEATH_SECONDS / 2


def _is_gap(*seconds: float) -> bool:
    return max(seconds) > _time_to_beat()


def reclaim_from_dead_workers() -> int:
    """Look once, trusting what the heartbeats say; returns how many deliveries were taken back."""
    declare_silent_dead(find_silent())
    return take_back()


# Step 1.

SILENT = """declared_dead_at IS NULL
       AND beat_at < clock_timestamp() - make_interval(secs => %(silence)s)"""

FIND_SILENT_SQL = f"""
WITH silent AS MATERIALIZED (
    SELECT id FROM webhooks_workerheartbeat WHERE {SILENT}
), free AS (
    SELECT w.id FROM webhooks_workerheartbeat w JOIN silent ON silent.id = w.id
       FOR NO KEY UPDATE OF w SKIP LOCKED
)
SELECT silent.id, free.id IS NULL FROM silent LEFT JOIN free ON free.id = silent.id
"""  # noqa: S608 (constants only)

DECLARE_SILENT_SQL = f"""
UPDATE webhooks_workerheartbeat w SET declared_dead_at = clock_timestamp()
  FROM (SELECT id FROM webhooks_workerheartbeat
         WHERE id = ANY(%(workers)s) AND {SILENT}
           FOR NO KEY UPDATE SKIP LOCKED) AS silent
 WHERE w.id = silent.id
RETURNING w.id
"""  # noqa: S608 (constants only)

DECLARE_SQL = """
UPDATE webhooks_workerheartbeat w
   SET declared_dead_at = clock_timestamp(), ended_in_order = %(in_order)s
  FROM (SELECT id FROM webhooks_workerheartbeat
         WHERE declared_dead_at IS NULL AND id = ANY(%(workers)s)
           FOR NO KEY UPDATE SKIP LOCKED) AS known
 WHERE w.id = known.id
"""


def find_silent() -> dict[UUID, bool]:
    """Return the workers that stopped beating, and whether somebody has locked their heartbeats."""
    return dict(run(FIND_SILENT_SQL, {"silence": SILENCE_BEFORE_DEATH_SECONDS}).fetchall())


def declare_silent_dead(worker_ids: Collection[UUID]) -> int:
    """Declare those of these workers dead that are silent, and end their connections.

    Returns how many.
    """
    parameters = {"workers": list(worker_ids), "silence": SILENCE_BEFORE_DEATH_SECONDS}
    dead = [row[0] for row in run(DECLARE_SILENT_SQL, parameters)]
    if dead:
        # A frozen one may keep what it held locked, in the middle of a statement.
        end_connections([connection_name(worker_id) for worker_id in dead])
    return len(dead)


def declare_dead(worker_ids: Collection[UUID], *, in_order: bool = False) -> None:
    """Declare workers dead of whose end somebody knows; their heartbeats need not grow old.

    What those held that ended `in_order` is suspect of nothing. A worker whose row is locked stays
    as it is.
    """
    run(DECLARE_SQL, {"workers": list(worker_ids), "in_order": in_order})


# Steps 2 and 3.

DYING_SQL = """
SELECT id, ended_in_order FROM webhooks_workerheartbeat WHERE declared_dead_at IS NOT NULL
   FOR NO KEY UPDATE SKIP LOCKED
"""

# A claim keeps the heartbeat of its worker locked for as long as it may still commit.
QUIET_SQL = """
SELECT id FROM webhooks_workerheartbeat WHERE id = ANY(%(workers)s) FOR UPDATE SKIP LOCKED
"""

# Alone, and as a suspect already: only then nothing else can have ended its worker.
RECLAIM_SQL = f"""
UPDATE webhooks_delivery d
   SET status = CASE WHEN new.crash_count >= %(most)s THEN 'FAILED'
                     WHEN d.attempt_count > d.attempts_before_round THEN 'RETRYING'
                     ELSE 'PENDING' END,
       finished_at = CASE WHEN new.crash_count >= %(most)s THEN clock_timestamp() END,
       error = CASE WHEN new.crash_count >= %(most)s THEN %(reason)s ELSE d.error END,
       claimed_by = NULL, is_suspect = true,
       crash_count = new.crash_count, suspect_level = new.suspect_level
  FROM (SELECT id, crash_count + (is_suspect AND suspect_level = {ALONE})::int AS crash_count,
               CASE WHEN is_suspect THEN least(greatest(suspect_level + 1, %(level)s), {ALONE})
                    ELSE %(level)s END AS suspect_level
          FROM webhooks_delivery WHERE id = ANY(%(ids)s)) AS new
 WHERE d.id = new.id
RETURNING d.id, d.finished_at IS NOT NULL
"""  # noqa: S608 (constants only)


def take_back() -> int:
    """Take back what workers hold that were declared dead; returns how many. Anybody may call it.

    What was in flight is suspect and goes out apart next time (webhooks/dispatch/suspects.py); what
    ended its worker often enough while it was alone is failed for good (invariant 8).
    """
    with limited_transaction():
        dying: dict[UUID, bool] = dict(run(DYING_SQL, {}).fetchall())
        if not dying:
            return 0
        quiet = _lock_quiet(list(dying))
        held = lock_held(list(dying))
        free = [row for row in held if not row.is_locked]
        parked = _reclaim([row for row in free if not dying[row.worker_id]])
        for worker_id in {row.worker_id for row in free if dying[row.worker_id]}:
            release(worker_id, [row.id for row in free if row.worker_id == worker_id])
        _delete(quiet - {row.worker_id for row in held if row.is_locked})
    for delivery_id in parked:
        logger.error("Delivery %s is given up: %s", delivery_id, REASON)
    return len(free)


REASON = f"Its worker died {MOST_CRASHES} times while nothing else was being sent."


def _reclaim(rows: Sequence[HeldDelivery]) -> list[UUID]:
    """Let rows be claimed again, as suspects; returns those that are given up."""
    if not rows:
        return []
    parameters = {
        "ids": [row.id for row in rows],
        "most": MOST_CRASHES,
        "reason": REASON,
        "level": suspects.level_for(suspects.count_all() + sum(not row.is_suspect for row in rows)),
    }
    return [row[0] for row in run(RECLAIM_SQL, parameters) if row[1]]


def _lock_quiet(worker_ids: Sequence[UUID]) -> set[UUID]:
    """Lock the heartbeats of those workers that are not claiming anything, and return their ids."""
    return {row[0] for row in run(QUIET_SQL, {"workers": list(worker_ids)})}


def _delete(worker_ids: Collection[UUID]) -> None:
    run(
        "DELETE FROM webhooks_workerheartbeat WHERE id = ANY(%(workers)s)",
        {"workers": list(worker_ids)},
    )
