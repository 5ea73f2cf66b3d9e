"""The schedule of the chores: which is due, whose turn it is, and how its last turns ended.

Each chore has a row of its own, with its own failures and its own pause after them. One housekeeper
at a time takes a turn. One that dies in its turn leaves a lease behind; when that runs out, another
goes on where the progress stands. A turn may outlive its lease, so the work of a chore must bear
being done twice at once.
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
"""After a failure; doubled with each further one."""
LONGEST_PAUSE_SECONDS = 300.0
LONGEST_LOCAL_PAUSE_SECONDS = 4.0
"""Of a chore that each worker does for itself: the failures of all of them are counted together."""
GONE_SECONDS = 60.0
"""After its pause: a worker that has not tried its own chore again by then has ended."""

Progress = dict[str, Any]
"""Where a run goes on, in JSON; empty at its beginning."""


@dataclass(frozen=True)
class Chore:
    """Work that is done again and again, a bounded turn at a time."""

    name: str
    work: Callable[[Progress], Progress | None]
    """Does a turn and returns where the next one goes on, or None at the end of the run."""
    every: timedelta
    """From the beginning of a run to that of the next."""
    lease_seconds: float = 10.0
    """How long others leave a turn alone; a turn should end well within it."""
    is_local: bool = False
    """Whether each worker does it for itself, without taking turns with the others."""


def take_turn(chore: Chore, holder: UUID, *, early_seconds: float = 0.0) -> float:
    """Do a turn if it is due and nobody else is at it; returns the seconds to wait until the next.

    What the work raises is recorded with the chore and goes no further. Raises only the errors of a
    database that cannot be asked or told.
    """
    progress: Progress = {}
    if not chore.is_local:
        # Most often it is due, as the wait before was for that.
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
        # Recorded, so that it is seen in the doctor and on the queue page.
        logger.exception("The chore %r failed.", chore.name)
        return _record_failure(chore, holder, problem)
    _record_success(chore, holder, left)
    return 0.0 if left is not None else chore.every.total_seconds()


WAIT_SQL = """
SELECT extract(epoch FROM greatest(due_at, leased_until) - clock_timestamp())::float8
  FROM webhooks_chore WHERE name = %(name)s
"""


def _seconds_until_due(chore: Chore) -> float:
    row = run(WAIT_SQL, {"name": chore.name}).fetchone()
    if row is None:
        Row.objects.get_or_create(name=chore.name)
        return 0.0
    seconds: float = row[0]
    return max(0.0, seconds)


# Whose lease has run out has failed, too: it died or hangs.
CLAIM_SQL = """
UPDATE webhooks_chore c
   SET claimed_by = %(holder)s,
       leased_until = clock_timestamp() + make_interval(secs => %(lease)s),
       started_at = CASE WHEN c.progress IS NULL THEN clock_timestamp() ELSE c.started_at END,
       failures = c.failures + (c.claimed_by IS NOT NULL)::int,
       last_error = CASE WHEN c.claimed_by IS NULL THEN c.last_error ELSE %(lost)s END
  FROM (SELECT name FROM webhooks_chore
         WHERE name = %(name)s
           AND greatest(due_at, leased_until) <= clock_timestamp() + make_interval(secs => %(early)s)
           FOR UPDATE SKIP LOCKED) AS free
     , (SELECT set_config('synchronous_commit', 'off', true)) AS asynchronous
 WHERE c.name = free.name
RETURNING c.progress::text
"""
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
    """End a turn; where another housekeeper took over meanwhile, nothing changes."""
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
        # The next turn begins with a connection that is set up anew.
        connection.close()
    return max(0.0, row[0]) if row else FIRST_PAUSE_SECONDS


def in_one_line(problem: Exception) -> str:
    """Return what is stored of an error: its kind and the first line of its text."""
    lines = str(problem).replace("\0", "\ufffd").strip().splitlines()
    return f"{type(problem).__name__}: {lines[0] if lines else ''}"[:500].rstrip(": ")
