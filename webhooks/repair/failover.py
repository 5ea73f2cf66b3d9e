"""What a failover lost: events that the former primary had committed and the promoted standby never got.

With a synchronous standby there are none. With an asynchronous one they are the last commits before
the failover, and only the former primary still has them.
"""

import uuid
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import psycopg

from webhooks.ids import EVENT_PREFIX
from webhooks.models import Event
from webhooks.postgres.sql import query
from webhooks.repair.findings import Finding, failure, ok, warning

CONNECT_SECONDS = 10
PAGE = 5_000
"""A transaction may commit after younger ones, so that the lost ones need not follow one another
without a gap. After so many that are there none is missing."""
IDS_SHOWN = 20
RECENT = timedelta(days=1)

# Of the former primary; read-only, whatever its defaults are.
BEGIN_SQL = "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"
NEWEST_SQL = """
SELECT event.id, event.type, event.created_at, event.epoch, event.transaction_id::text, event.sequence,
       EXISTS (SELECT FROM webhooks_delivery d WHERE d.event_id = event.id AND d.attempt_count > 0)
  FROM webhooks_event event
 WHERE (event.epoch, event.transaction_id, event.sequence)
       < (%(epoch)s::bigint, %(transaction_id)s::xid8, %(sequence)s::bigint)
 ORDER BY event.epoch DESC, event.transaction_id DESC, event.sequence DESC
 LIMIT %(page)s
"""
HIGHEST = {"epoch": 2**63 - 1, "transaction_id": str(2**64 - 1), "sequence": 2**63 - 1}

# The two latest clusters; only the timeline differs where a standby was promoted.
PROMOTED_SQL = """
SELECT started_at FROM (
    SELECT number, cluster, started_at, lag(cluster) OVER (ORDER BY number) AS former
      FROM webhooks_epoch
) epoch
 WHERE split_part(cluster, '/', 1) = split_part(former, '/', 1) AND cluster <> former
   AND started_at > now() - %s
 ORDER BY number DESC LIMIT 1
"""


class LostEvent(NamedTuple):
    """An event that is only on the former primary."""

    id: uuid.UUID
    type: str
    created_at: datetime
    was_attempted: bool
    """Whether the former primary knows of a request: receivers may have the event."""

    @property
    def public_id(self) -> str:
        return EVENT_PREFIX + self.id.hex


def find_lost(former_url: str) -> Iterator[LostEvent]:
    """Yield the events that are on the former primary and not in this database, newest first.

    Raises psycopg's errors if the former primary cannot be read.
    """
    with closing(
        psycopg.connect(former_url, autocommit=True, connect_timeout=CONNECT_SECONDS)
    ) as former:
        former.execute(BEGIN_SQL)
        place: dict[str, Any] = dict(HIGHEST)
        while rows := former.execute(NEWEST_SQL, place | {"page": PAGE}).fetchall():
            here = set(
                Event.objects.filter(id__in=[row[0] for row in rows]).values_list("id", flat=True)
            )
            missing = [row for row in rows if row[0] not in here]
            for id_, type_, created_at, *_, was_attempted in missing:
                yield LostEvent(id_, type_, created_at, was_attempted)
            if not missing:
                return
            place = dict(zip(HIGHEST, rows[-1][3:6], strict=True))


def compare(former_url: str) -> Iterator[Finding]:
    """Count and name what the failover lost. Raises psycopg's errors of the former primary."""
    lost = list(find_lost(former_url))
    if not lost:
        yield ok("failover", "Every event of the former primary is here.")
        return
    attempted = sum(event.was_attempted for event in lost)
    yield failure(
        "failover",
        f"Events that the former primary had committed and that are lost: {len(lost):,}, created from "
        f"{lost[-1].created_at:%Y-%m-%d %H:%M:%S} to {lost[0].created_at:%H:%M:%S} UTC; receivers may "
        f"have got {attempted:,} of them.",
        "Look at what their transactions changed on the former primary, do it here again, and make the "
        "standby synchronous (docs/reliability.md)",
        count=len(lost),
        ids=[event.public_id for event in lost[:IDS_SHOWN]],
    )


def check_failover() -> Iterator[Finding]:
    """Check whether a standby was promoted within a day: it may have been behind."""
    if promoted := query(PROMOTED_SQL, [RECENT]):
        yield warning(
            "failover",
            f"This server was promoted at {promoted[0][0]:%Y-%m-%d %H:%M} UTC. If it followed "
            "asynchronously, the last commits before that may be lost.",
            "manage.py doctor --former-primary postgres://… (started apart, so that no client finds it)",
        )
    else:
        yield ok("failover", "No standby was promoted within a day.")
