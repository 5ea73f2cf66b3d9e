"""The feed: every event once, in order, without gaps, for `listen` and for polling through the API.

Events are read in the order of their transaction and the database's sequence, and only those whose
transaction is older than every transaction that still runs (invariant 13). Whatever commits later
therefore comes later in this order, so a reader that keeps its cursor misses nothing and sees
nothing twice, however transactions overlap. The price is that one long transaction that writes
holds the feed back until it ends.
"""

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from django.db import connection

from webhooks import catalog
from webhooks.errors import CursorInvalidError, EventTypeUnknownError
from webhooks.ids import EVENT_PREFIX

MAX_SCANNED = 10_000
"""Events that one call looks at, whoever owns them; the cursor moves on past them all the same."""
LARGEST_NUMBER = 2**63 - 1


class Cursor(NamedTuple):
    """A place in the feed: right behind this event."""

    transaction_id: int
    sequence: int

    def to_text(self) -> str:
        """Return the opaque form that readers keep."""
        return urlsafe_b64encode(b"%d.%d" % self).rstrip(b"=").decode()

    @classmethod
    def from_text(cls, text: str) -> "Cursor":
        """Raises CursorInvalidError."""
        try:
            decoded = urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
            cursor = cls(*map(int, decoded.split(b".")))
        except (ValueError, TypeError, binascii.Error):
            raise CursorInvalidError from None
        if cursor.to_text() != text or not all(0 <= part <= LARGEST_NUMBER for part in cursor):
            raise CursorInvalidError
        return cursor


@dataclass(frozen=True, slots=True)
class FeedEvent:
    """An event as a reader of the feed gets it."""

    id: str
    """Public."""
    type: str
    created_at: datetime
    payload: bytes
    """The exact bytes that webhooks get."""


@dataclass(frozen=True, slots=True)
class Page:
    """Some events, and the cursor to go on from; `has_more` says that there is no need to wait."""

    events: list[FeedEvent]
    next: str
    has_more: bool


# The inner query walks the index event_order, whatever the owner: its cost is bounded.
READ_SQL = """
WITH scanned AS MATERIALIZED (
    SELECT e.id, e.type, e.owner_id, e.transaction_id, e.sequence
      FROM webhooks_event e
     WHERE (e.transaction_id, e.sequence)
               > (%(transaction)s::text::xid8, %(sequence)s::bigint)
       AND e.transaction_id < pg_snapshot_xmin(pg_current_snapshot())
     ORDER BY e.transaction_id, e.sequence
     LIMIT %(scanned)s
), chosen AS (
    SELECT id, transaction_id, sequence
      FROM scanned
     WHERE (%(owner)s::uuid IS NULL OR owner_id = %(owner)s)
       AND (%(types)s::text[] IS NULL OR type = ANY(%(types)s))
     ORDER BY transaction_id, sequence
     LIMIT %(limit)s
)
SELECT last.count, last.transaction_id::text, last.sequence,
       e.id, e.type, e.created_at, e.payload, e.transaction_id::text, e.sequence
  FROM (SELECT count(*) OVER () AS count, transaction_id, sequence
          FROM scanned ORDER BY transaction_id DESC, sequence DESC LIMIT 1) AS last
  LEFT JOIN (chosen JOIN webhooks_event e USING (id)) ON true
 ORDER BY e.transaction_id, e.sequence
"""


def read(
    after: str | None,
    *,
    owner_id: UUID | None = None,
    patterns: Iterable[str] = ("*",),
    limit: int = 100,
) -> Page:
    """Return the events behind a cursor, oldest first; with `after` None an empty page from now on.

    `owner_id` None means everybody's. Events whose payload was erased are passed over. Raises
    CursorInvalidError, and EventTypeUnknownError for a pattern that selects nothing.
    """
    types = matching_types(patterns)
    if after is None:
        return Page([], now().to_text(), has_more=False)
    cursor = Cursor.from_text(after)
    rows = _query(
        READ_SQL,
        {
            "transaction": cursor.transaction_id,
            "sequence": cursor.sequence,
            "scanned": MAX_SCANNED,
            "owner": owner_id,
            "types": types,
            "limit": limit,
        },
    )
    if not rows:
        return Page([], after, has_more=False)
    scanned, *last_scanned = rows[0][:3]
    found = [row[3:] for row in rows if row[3] is not None]
    is_full = len(found) == limit
    end = found[-1][4:] if is_full else last_scanned
    events = [
        FeedEvent(EVENT_PREFIX + id_.hex, type_, created_at, bytes(payload))
        for id_, type_, created_at, payload, *_ in found
        if payload
    ]
    return Page(
        events, Cursor(*map(int, end)).to_text(), has_more=is_full or scanned == MAX_SCANNED
    )


def now() -> Cursor:
    """Return the cursor from which everything comes that is not yet known to have committed.

    That includes what committed while an older transaction was still running.
    """
    rows = _query("SELECT pg_snapshot_xmin(pg_current_snapshot())::text", {})
    return Cursor(int(rows[0][0]) - 1, LARGEST_NUMBER)


def matching_types(patterns: Iterable[str]) -> list[str] | None:
    """Return the event types that patterns select, None for all; raises EventTypeUnknownError."""
    patterns = set(patterns)
    if unknown := sorted(one for one in patterns if not catalog.is_known_pattern(one)):
        raise EventTypeUnknownError(f"No event type is selected by {', '.join(unknown)}.")
    if "*" in patterns:
        return None
    names = (event_type.name for event_type in catalog.all_types())
    return [name for name in names if not catalog.patterns_matching(name).isdisjoint(patterns)]


def _query(sql: str, parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return list(cursor.fetchall())
