"""The life of a worker, which is the lease on every row it holds (invariant 5).

A worker beats. If it stays silent, another worker declares it dead and takes its rows back. This
happens in steps. Any worker may carry on with any step, and no step waits for a lock:

1. Mark the heartbeat. From then on the worker claims nothing, and its next beat reports its death.
2. Take its rows back, except those that another transaction has locked: the next look takes them.
3. Delete the heartbeat once no row is marked with its id and no claim of it is under way.

So a row that names a worker always has a heartbeat to match. A crash between the steps leaves an old
or a marked heartbeat, from which another worker carries on.
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
LONGEST_PAUSE_SECONDS = 60.0
"""How long no worker at all may beat before silence counts as death all the same."""
MOST_CRASHES = 3
"""Crashes of a worker that was sending only this delivery before the delivery is FAILED for good."""


def connection_name(worker_id: UUID) -> str:
    """Return the name in Postgres of the connections of this life of a worker."""
    return f"webhooks-worker {worker_id.hex}"


def register_worker(worker_id: UUID) -> None:
    """Start this worker's life: insert its heartbeat, without which it can claim nothing."""
    WorkerHeartbeat.objects.create(id=worker_id, host=socket.gethostname(), pid=os.getpid())


def unregister_worker(worker_id: UUID) -> None:
    """End this worker's life cleanly: give back the rows that are still marked with its id.

    Other workers take back the rows that are locked now.
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
    """Record that this worker lives, its requests in flight, and its full windows (Windows.full()).

    Returns False if it was declared dead and must drop its rows.
    """
    parameters = {
        "in_flight": in_flight,
        "full_windows": Json(full_windows or {}),
        "worker": worker_id,
    }
    if run(BEAT_SQL, parameters).rowcount:
        return True
    # While another transaction locks the heartbeat, this worker cannot beat and no worker can declare
    # it dead.
    return bool(find_living([worker_id]))


LIVING_SQL = """
SELECT id FROM webhooks_workerheartbeat WHERE id = ANY(%(workers)s) AND declared_dead_at IS NULL
"""


def find_living(worker_ids: Collection[UUID]) -> set[UUID]:
    """Return which of these workers are registered and not declared dead."""
    return {row[0] for row in run(LIVING_SQL, {"workers": list(worker_ids)})}


# All workers.

LOOK_SQL = """
SELECT extract(epoch FROM clock_timestamp())::float8,
       coalesce(max(extract(epoch FROM clock_timestamp() - beat_at))
                FILTER (WHERE declared_dead_at IS NULL), 0)::float8,
       coalesce(min(extract(epoch FROM clock_timestamp() - beat_at))
                FILTER (WHERE declared_dead_at IS NULL), 0)::float8,
       count(declared_dead_at)
  FROM webhooks_workerheartbeat
"""


def longest_silence_seconds() -> float:
    """Return the longest silence among the workers that are not declared dead."""
    return float(run(LOOK_SQL, {}).fetchone()[1])


class Watch:
    """Notices the deaths of workers; one per process, which looks regularly."""

    def __init__(self) -> None:
        self.longest_silence_seconds = 0.0
        """The longest silence among the workers not declared dead, at the last look."""
        self._clocks: tuple[float, float] | None = None
        self._trusts_at = 0.0
        self._rests_until = 0.0
        self._spared_until: dict[UUID, float] = {}

    def look(self) -> int:
        """Take back the rows of dead workers; returns how many.

        After a gap between two looks, Postgres may have been down or its clock set forward, so that
        the other workers may be alive too: they get time to beat. They also get it when no worker at
        all has beaten lately, because then Postgres answered but could not write (a full disk, no
        free connection).
        """
        database_time, silence, shortest_silence, dead = run(LOOK_SQL, {}).fetchone()
        now = boottime()
        self.longest_silence_seconds = silence
        clocks, self._clocks = self._clocks, (now, database_time)
        was_away = clocks is not None and _is_gap(now - clocks[0], database_time - clocks[1])
        if was_away or _time_to_beat() < shortest_silence <= LONGEST_PAUSE_SECONDS:
            self._trusts_at = now + _time_to_beat()
        if silence > SILENCE_BEFORE_DEATH_SECONDS and now >= self._trusts_at:
            dead += self._declare(now)
        return self._take_back(now) if dead and now >= self._rests_until else 0

    def _declare(self, now: float) -> int:
        """Declare silent workers dead, except those whose heartbeats were locked: they get time to
        beat."""
        self._spared_until = {
            worker_id: now + _time_to_beat()
            if is_locked
            else self._spared_until.get(worker_id, now)
            for worker_id, is_locked in find_silent().items()
        }
        return declare_silent_dead([k for k, until in self._spared_until.items() if until <= now])

    def _take_back(self, now: float) -> int:
        """Take rows back; then rest nine times as long as it took, so that repeated tries for locked
        rows use at most a tenth of the time."""
        count = take_back()
        self._rests_until = boottime() + 9 * (boottime() - now)
        return count


def _time_to_beat() -> float:
    """Return the seconds in which every living worker beats at least twice."""
    return SILENCE_BEFORE_DEATH_SECONDS / 2


def _is_gap(*seconds: float) -> bool:
    return max(seconds) > _time_to_beat()


def reclaim_from_dead_workers() -> int:
    """Take back the rows of silent and dead workers, without a time to beat; returns how many."""
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
    """Return the workers that stopped beating, and whether their heartbeats are locked."""
    return dict(run(FIND_SILENT_SQL, {"silence": SILENCE_BEFORE_DEATH_SECONDS}).fetchall())


def declare_silent_dead(worker_ids: Collection[UUID]) -> int:
    """Declare the silent ones among these workers dead, and end their connections; returns how many."""
    parameters = {"workers": list(worker_ids), "silence": SILENCE_BEFORE_DEATH_SECONDS}
    dead = [row[0] for row in run(DECLARE_SILENT_SQL, parameters)]
    if dead:
        # A frozen worker may hold row locks in the middle of a statement.
        end_connections([connection_name(worker_id) for worker_id in dead])
    return len(dead)


def declare_dead(worker_ids: Collection[UUID], *, in_order: bool = False) -> None:
    """Declare workers dead that are known to have ended, without waiting for their silence.

    `in_order` says that they ended cleanly: their rows do not become suspects. A worker whose
    heartbeat is locked stays as it is.
    """
    run(DECLARE_SQL, {"workers": list(worker_ids), "in_order": in_order})


# Steps 2 and 3.

DYING_SQL = """
SELECT id, ended_in_order FROM webhooks_workerheartbeat WHERE declared_dead_at IS NOT NULL
   FOR NO KEY UPDATE SKIP LOCKED
"""

# A claim locks its worker's heartbeat until it has committed or failed.
QUIET_SQL = """
SELECT id FROM webhooks_workerheartbeat WHERE id = ANY(%(workers)s) FOR UPDATE SKIP LOCKED
"""

# `crash_count` grows only for suspects of the level ALONE: nothing else can have ended their worker.
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
    """Take back the rows of workers that were declared dead; returns how many. Any process may call.

    The rows become suspects, which go out apart from others (webhooks/dispatch/suspects.py). A
    suspect that has ended its worker MOST_CRASHES times while alone is FAILED for good (invariant 8).
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
    """Make rows claimable again, as suspects; returns those that are FAILED for good."""
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
    """Lock the heartbeats of the workers without a claim under way, and return their ids."""
    return {row[0] for row in run(QUIET_SQL, {"workers": list(worker_ids)})}


def _delete(worker_ids: Collection[UUID]) -> None:
    run(
        "DELETE FROM webhooks_workerheartbeat WHERE id = ANY(%(workers)s)",
        {"workers": list(worker_ids)},
    )
