"""The daily partitions of attempts: made ahead of time, dropped when a purge has deleted their day.

A partition holds the attempts of the deliveries of one day, by their ids. What belongs to no
partition goes to the default one, so that no result is ever refused. Functions of the database make
and exchange partitions with the rights of its owner (migration 0041).

A purge that deletes deliveries of a large day leaves their attempts in place; when all of the day is
old enough, it exchanges the partition for one with the attempts that are to be kept.
"""

import logging
import time
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

from django.db import OperationalError, transaction
from django.utils import timezone
from psycopg.errors import DeadlockDetected, LockNotAvailable, QueryCanceled

from webhooks.ids import first_id_of
from webhooks.models import ExpiringPartition
from webhooks.postgres.sql import limit_statements, query, sqlstate

logger = logging.getLogger(__name__)

AHEAD_DAYS = 7
MOST_KEPT = 20_000
"""The most attempts that an exchange copies (migration 0041), while results of their deliveries wait."""
LARGE = 2 * MOST_KEPT
"""Partitions with fewer attempts are purged row by row."""
PATIENCE_DAYS = 7
"""Deliveries that failed for days end much later than others of their day, and a dump ends some time."""
DAY_MS = 86_400_000
LATEST_MS = 253_402_300_799_000
"""The last second that datetime knows; ids reach further."""
WAIT_SECONDS = 4.0
"""How long exchanges of one run are tried again, in all: the housekeeper has to end his turn. Each is
tried once in any case."""
PAUSE_SECONDS = 0.2
"""The pause after an exchange that met a lock, in which those who queued behind it go on."""
EXCHANGE_SECONDS = 1
BUSY = (LockNotAvailable.sqlstate, QueryCanceled.sqlstate, DeadlockDetected.sqlstate)


class Partition(NamedTuple):
    """A table with the attempts of the deliveries whose ids are in [first_id, end_id)."""

    name: str
    first_id: UUID
    end_id: UUID


def partitions() -> list[Partition]:
    """Return the partitions of attempts, oldest first, without the default one."""
    return [Partition(*row) for row in query("SELECT * FROM webhooks_attempt_partitions()")]


MAKE_SQL = """
SELECT webhooks_make_attempt_partition((clock_timestamp() AT TIME ZONE 'UTC')::date + %(day)s)
"""


def make_ahead() -> None:
    """Make the missing partitions of today and the next AHEAD_DAYS days.

    Raises Django's database errors, for example if somebody else holds a lock on the default one.
    """
    for day in range(AHEAD_DAYS + 1):
        query(MAKE_SQL, {"day": day})


def covered_until() -> datetime | None:
    """Return the time from which on no partition takes attempts; None if no partition takes today's."""
    until = now = first_id_of(timezone.now())
    for one in partitions():
        if one.first_id <= until < one.end_id:
            until = one.end_id
    if until == now:
        return None
    return datetime.fromtimestamp(min(_ms_of(until), LATEST_MS) / 1000, UTC)


OUTSIDE_SQL = "SELECT FROM webhooks_attempt_other OFFSET %(many)s LIMIT 1"


def count_outside() -> int:
    """Return MOST_KEPT if the default partition has more attempts than that, else 0."""
    return MOST_KEPT if query(OUTSIDE_SQL, {"many": MOST_KEPT}) else 0


def mark_expiring(last: UUID) -> None:
    """Let purges of deliveries below `last` leave the attempts of large days in place.

    The table of before the partitions is marked only when all of its deliveries are that old: as a
    whole it would go much later than its rows.
    """
    for one in partitions():
        is_day = _ms_of(one.end_id) - _ms_of(one.first_id) == DAY_MS
        until = one.first_id if is_day else one.end_id
        if until < last and _count(one, LARGE) == LARGE:
            ExpiringPartition.objects.get_or_create(
                name=one.name, defaults={"first_id": one.first_id, "end_id": one.end_id}
            )


COUNT_SQL = """
SELECT count(*) FROM (
    SELECT FROM webhooks_attempt
     WHERE delivery_id >= %(first)s AND delivery_id < %(end)s LIMIT %(most)s) AS first_ones
"""


def _count(one: Partition, most: int) -> int:
    """Return the number of attempts in a partition, at most `most`."""
    parameters = {"first": one.first_id, "end": one.end_id, "most": most}
    return int(query(COUNT_SQL, parameters)[0][0])


KEPT_SQL = """
SELECT coalesce(sum(attempt_count), 0) FROM (
    SELECT attempt_count FROM webhooks_delivery
     WHERE id >= %(first)s AND id < %(end)s AND attempt_count > 0 LIMIT %(most)s) AS kept
"""


BY_INDEX_SQL = """
SELECT set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true)
"""


def _count_kept(marked: ExpiringPartition) -> int:
    """Return the number of attempts to keep of a partition, at least MOST_KEPT + 1 if it is larger.

    Without locks, and by a scan of the index: that marks the entries of deleted deliveries, so that the
    exchange, which has a time limit, need not look at those rows once more.
    """
    bounds = {"first": marked.first_id, "end": marked.end_id, "most": MOST_KEPT + 1}
    with transaction.atomic():
        query(BY_INDEX_SQL)
        return int(query(KEPT_SQL, bounds)[0][0])


def exchange_expiring(last: UUID) -> bool:
    """Drop the attempts without a delivery of marked partitions, and empty partitions, below `last`.

    A day that keeps many attempts, or that others use all the time, waits for the next purges, for up to
    PATIENCE_DAYS. Returns whether there are older ones, whose attempts the caller must delete row by row,
    and then call forget_expiring(). Raises Django's database errors.
    """
    give_up_at = time.monotonic() + WAIT_SECONDS
    expired = ExpiringPartition.objects.filter(end_id__lte=last, by_rows=False)
    for marked in expired.order_by("first_id"):
        if _count_kept(marked) <= MOST_KEPT and _exchange(marked.name, give_up_at):
            continue
        if _ms_of(last) - _ms_of(marked.end_id) > PATIENCE_DAYS * DAY_MS:
            ExpiringPartition.objects.filter(name=marked.name).update(by_rows=True)
    for one in partitions():
        if one.end_id <= last and not _count(one, 1):
            _exchange(one.name, give_up_at)
    return ExpiringPartition.objects.filter(by_rows=True).exists()


def _exchange(name: str, give_up_at: float) -> bool:
    """Exchange a partition; return False if locks or the time limit prevented all tries."""
    while True:
        try:
            with transaction.atomic():
                limit_statements(EXCHANGE_SECONDS)
                query("SELECT webhooks_replace_attempt_partition(%(name)s)", {"name": name})
            return True
        except OperationalError as problem:
            if sqlstate(problem) not in BUSY:
                raise
            if time.monotonic() >= give_up_at:
                reason = str(problem).partition("\n")[0]
                logger.warning("%s is left to the next purge: %s", name, reason)
                return False
        time.sleep(PAUSE_SECONDS)


def _ms_of(first_id: UUID) -> int:
    """Return the milliseconds since 1970 of a UUIDv7."""
    return first_id.int >> 80


def forget_expiring() -> None:
    """Say that marked partitions with many attempts to keep have been purged row by row."""
    ExpiringPartition.objects.filter(by_rows=True).delete()
