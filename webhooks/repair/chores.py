"""The schedule of the chores: due times, leases, and the results of the last turns.

Each chore has a row with its failures and the pause after them. One housekeeper at a time takes a
turn. If it dies, its lease expires, and another one continues from the stored progress. A turn may
outlive its lease, so two turns of a chore must be able to run at the same time.
"""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db import connection

from webhooks.models import Chore as Row
from webhooks.postgres.sql import run

logger = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS = 2.0
"""The pause after a failure; each further failure doubles it."""
LONGEST_PAUSE_SECONDS = 300.0
LONGEST_LOCAL_PAUSE_SECONDS = 4.0
"""The longest pause of a local chore, whose row counts the failures of all workers together."""
GONE_SECONDS = 60.0
"""A worker that has not tried its local chore again this long after the pause has ended."""

Progress = dict[str, Any]
"""Where a run continues, in JSON; empty at its beginning."""


@dataclass(frozen=True)
class Chore:
    """Recurring work, done in bounded turns."""

    name: str
    work: Callable[[Progress], Progress | None]
    """Does a turn and returns where the next one continues, or None at the end of the run."""
    every: timedelta
    """The interval between the beginnings of two runs."""
    lease_seconds: float = 10.0
    """The lease of a turn, which should end well within it."""
    is_local: bool = False
    """Whether each worker runs it for itself, without taking turns with others."""


def take_turn(chore: Chore, holder: UUID, *, early_seconds: float = 0.0) -> float:
    """Do a turn if it is due and no other housekeeper has it; return the seconds until the next one.

    Records the work's errors with the chore. Raises only database errors of the schedule itself.
    """
    progress: Progress = {}
    if not chore.is_local:
        # Usually it is due, because the previous wait was for that time.
        claimed = _claim(chore, holder, early_seconds)
        if claimed is None:
            seconds = _seconds_until_due(chore)
            if seconds > early_seconds:
                return seconds
            claimed = _claim(chore, holder, early_seconds)
        if claimed is None:
            return FIRST_PAUSE_SECONDS
        progress = claimed
    try:
        left = chore.work(progress)
    except Exception as problem:
        # The doctor and the queue page show it.
        logger.exception("The chore %r failed.", chore.name)
        return _record_failure(chore, holder, problem)
    _record_success(chore, holder, left)
    return 0.0 if left is not None else chore.every.total_seconds()


# Where the database's clock was set back, the times of before would last until it has caught up.
CLOCK_WENT_BACK = "started_at > clock_timestamp() + interval '1 minute'"
WAIT_SQL = f"""
SELECT CASE WHEN {CLOCK_WENT_BACK} THEN 0
            ELSE extract(epoch FROM greatest(due_at, leased_until) - clock_timestamp()) END::float8
  FROM webhooks_chore WHERE name = %(name)s
"""  # noqa: S608 (a constant)


def _seconds_until_due(chore: Chore) -> float:
    row = run(WAIT_SQL, {"name": chore.name}).fetchone()
    if row is None:
        Row.objects.get_or_create(name=chore.name)
        return 0.0
    seconds: float = row[0]
    return max(0.0, seconds)


# A housekeeper with an expired lease has failed too: it died or hangs.
CLAIM_SQL = f"""
UPDATE webhooks_chore c
   SET claimed_by = %(holder)s,
       leased_until = clock_timestamp() + make_interval(secs => %(lease)s),
       started_at = CASE WHEN c.progress IS NULL THEN clock_timestamp()
                         ELSE least(c.started_at, clock_timestamp()) END,
       failures = c.failures + (c.claimed_by IS NOT NULL)::int,
       last_error = CASE WHEN c.claimed_by IS NULL THEN c.last_error ELSE %(lost)s END
  FROM (SELECT name FROM webhooks_chore
         WHERE name = %(name)s
           AND (greatest(due_at, leased_until)
                    <= clock_timestamp() + make_interval(secs => %(early)s) OR {CLOCK_WENT_BACK})
           FOR UPDATE SKIP LOCKED) AS free
     , (SELECT set_config('synchronous_commit', 'off', true)) AS asynchronous
 WHERE c.name = free.name
RETURNING c.progress::text
"""  # noqa: S608 (a constant)
LOST = "A turn did not end: its worker died, or it takes too long."


def _claim(chore: Chore, holder: UUID, early_seconds: float) -> Progress | None:
    parameters = {
        "name": chore.name,
        "holder": holder,
        "lease": chore.lease_seconds,
        "early": early_seconds,
        "lost": LOST,
    }
    row = run(CLAIM_SQL, parameters).fetchone()
    if row is None:
        return None
    progress: Progress = json.loads(row[0] or "{}")
    return progress


# A crash of Postgres forgets at most the last turn, which is then done again. Where a worker failed at
# a chore of its own and has not tried again in time, it is gone, and its failures go with it.
SUCCESS_SQL = """
UPDATE webhooks_chore c
   SET claimed_by = NULL, leased_until = NULL, failures = 0, last_error = '',
       progress = %(progress)s::jsonb,
       finished_at = CASE WHEN %(is_over)s THEN clock_timestamp() ELSE c.finished_at END,
       due_at = CASE WHEN %(is_over)s
                     THEN greatest(c.started_at + make_interval(secs => %(every)s),
                                   clock_timestamp())
                     ELSE clock_timestamp() END
  FROM (SELECT set_config('synchronous_commit', 'off', true)) AS asynchronous
 WHERE c.name = %(name)s
   AND (c.claimed_by = %(holder)s
        OR %(is_local)s AND c.failures > 0
           AND c.due_at < clock_timestamp() - make_interval(secs => %(gone)s))
"""


def _record_success(chore: Chore, holder: UUID, left: Progress | None) -> None:
    """End a turn; does nothing if another housekeeper has taken over."""
    run(
        SUCCESS_SQL,
        {
            "name": chore.name,
            "holder": holder,
            "progress": None if left is None else json.dumps(left),
            "is_over": left is None,
            "every": chore.every.total_seconds(),
            "is_local": chore.is_local,
            "gone": GONE_SECONDS,
        },
    )


# A local chore is not claimed: its row names who failed last, and only he can make that good, while
# he lives.
FAILURE_SQL = """
UPDATE webhooks_chore c
   SET claimed_by = CASE WHEN %(is_local)s THEN %(holder)s::uuid END, leased_until = NULL,
       failures = c.failures + 1, last_error = %(error)s,
       due_at = clock_timestamp() + make_interval(
           secs => least(%(first)s * power(2, least(c.failures, 30)), %(longest)s))
 WHERE c.name = %(name)s AND (%(is_local)s OR c.claimed_by = %(holder)s)
RETURNING extract(epoch FROM c.due_at - clock_timestamp())::float8
"""


def _record_failure(chore: Chore, holder: UUID, problem: Exception) -> float:
    connection.close_if_unusable_or_obsolete()
    if chore.is_local:
        Row.objects.get_or_create(name=chore.name)
    parameters = {
        "name": chore.name,
        "holder": holder,
        "is_local": chore.is_local,
        "error": in_one_line(problem),
        "first": FIRST_PAUSE_SECONDS,
        "longest": LONGEST_LOCAL_PAUSE_SECONDS if chore.is_local else LONGEST_PAUSE_SECONDS,
    }
    row = run(FAILURE_SQL, parameters).fetchone()
    if not connection.in_atomic_block:
        # The next turn opens a new connection.
        connection.close()
    return max(0.0, row[0]) if row else FIRST_PAUSE_SECONDS


def in_one_line(problem: Exception) -> str:
    """Return the stored form of an error: its class and the first line of its text."""
    lines = str(problem).replace("\0", "\ufffd").strip().splitlines()
    return f"{type(problem).__name__}: {lines[0] if lines else ''}"[:500].rstrip(": ")
