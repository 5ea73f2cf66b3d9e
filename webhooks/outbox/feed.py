"""The event feed: every event once, in order and without gaps, for `listen` and for API polling.

The feed returns events in the order of epoch (webhooks/postgres/epoch.py), transaction id and
sequence, and only those whose transaction is older than every running transaction (invariant 13,
webhooks/postgres/horizon.py). Events that commit later thus come later in this order: a reader that
keeps its cursor misses no event and gets none twice, even if transactions overlap and the database
moves to another server. The price: a long transaction that writes delays the feed until it ends.
"""

import binascii
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, NamedTuple
from uuid import UUID

from webhooks import catalog
from webhooks.errors import CursorForeignError, CursorInvalidError, EventTypeUnknownError
from webhooks.ids import EVENT_PREFIX, first_id_of
from webhooks.models.owner_keys import SQL_TYPE
from webhooks.postgres.sql import query

MAX_SCANNED = 10_000
"""How many events of any owner one call reads; the cursor moves past those it does not return."""
MAX_PAGE_BYTES = 4 * 1024 * 1024
"""Of payloads: no event begins beyond them."""
LARGEST_NUMBER = 2**63 - 1
FIRST_EPOCH = 1


class Cursor(NamedTuple):
    """A position in the feed, right after one event."""

    transaction_id: int
    sequence: int
    epoch: int = FIRST_EPOCH
    cluster: str = ""
    """A short hash of the epoch's cluster, because two copies of a database may number different
    clusters alike; empty in cursors from before epochs were introduced."""

    def to_text(self) -> str:
        """Return the opaque text form that readers store."""
        parts = self if self.cluster else self[:2]
        return urlsafe_b64encode(".".join(map(str, parts)).encode()).rstrip(b"=").decode()

    @classmethod
    def from_text(cls, text: str) -> "Cursor":
        """Return the cursor of a text form; raises CursorInvalidError."""
        try:
            decoded = urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
            transaction_id, sequence, *epoch = decoded.decode("ascii").split(".")
            number, cluster = epoch or (FIRST_EPOCH, "")
            cursor = cls(int(transaction_id), int(sequence), int(number), cluster)
        except (ValueError, TypeError, binascii.Error):
            raise CursorInvalidError from None
        if cursor.to_text() != text or not all(0 <= part <= LARGEST_NUMBER for part in cursor[:3]):
            raise CursorInvalidError
        return cursor


@dataclass(frozen=True, slots=True)
class FeedEvent:
    """An event in the feed."""

    id: str
    """The public id, `evt_…`."""
    type: str
    created_at: datetime
    payload: bytes
    """The exact bytes that webhooks receive."""
    # Only read() fills these in; the API's feed does not tell them.
    owner_id: Any = None
    object_reference: str = ""
    is_self_reported: bool = False
    version: date | None = None
    """Of its data; None where its type has one version only."""


@dataclass(frozen=True, slots=True)
class Page:
    """Some events of the feed."""

    events: list[FeedEvent]
    next: str
    """The cursor of the next page."""
    has_more: bool
    """Whether the next page may hold events already, so that the reader need not wait."""


# The end of the feed, and the clusters of the epochs from the cursor's on. An epoch without a record
# belongs to the current cluster.
END = """
WITH place AS MATERIALIZED (
    SELECT webhooks_current_epoch() AS epoch, webhooks_horizon() AS horizon
), clusters AS MATERIALIZED (
    SELECT coalesce(jsonb_object_agg(
               number, left(encode(sha256(convert_to(cluster, 'UTF8')), 'hex'), 8)), '{}') AS names
      FROM (SELECT number, cluster FROM webhooks_epoch WHERE number >= %(epoch)s
             UNION ALL
            SELECT epoch, webhooks_cluster() FROM place
             WHERE NOT EXISTS (SELECT FROM webhooks_epoch WHERE number = place.epoch)) AS known
)
"""

NOW = "SELECT epoch, horizon::text, names FROM place, clusters"
NOW_SQL = END + NOW

# `scanned` reads the index event_epoch_order for all owners, which bounds the cost of a call.
BEHIND = f""", scanned AS MATERIALIZED (
    SELECT e.id, e.type, e.owner_id, e.epoch, e.transaction_id, e.sequence
      FROM webhooks_event e
     WHERE (e.epoch, e.transaction_id, e.sequence)
               > (%(epoch)s::bigint, %(transaction)s::text::xid8, %(sequence)s::bigint)
       AND (e.epoch, e.transaction_id)
               < ((SELECT epoch FROM place), (SELECT horizon FROM place))
     ORDER BY e.epoch, e.transaction_id, e.sequence
     LIMIT %(scanned)s
), chosen AS (
    SELECT id, epoch, transaction_id, sequence
      FROM scanned
     WHERE (%(owner)s::{SQL_TYPE} IS NULL OR owner_id = %(owner)s)
       AND (%(types)s::text[] IS NULL OR type = ANY(%(types)s))
     ORDER BY epoch, transaction_id, sequence
     LIMIT %(limit)s
)
SELECT names,
       (%(epoch)s::bigint, %(transaction)s::text::xid8)
           >= (place.epoch, pg_snapshot_xmax(pg_current_snapshot())) AND NOT pg_is_in_recovery(),
       last.count, last.transaction_id::text, last.sequence, last.epoch,
       e.id, e.type, e.created_at,
       CASE WHEN sum(octet_length(e.payload)) OVER (ORDER BY e.epoch, e.transaction_id, e.sequence)
                     - octet_length(e.payload) < {MAX_PAGE_BYTES}
            THEN e.payload END,
       e.owner_id, e.object_reference, e.is_self_reported,
       e.version, e.transaction_id::text, e.sequence, e.epoch
  FROM place CROSS JOIN clusters
  LEFT JOIN (SELECT count(*) OVER () AS count, epoch, transaction_id, sequence
               FROM scanned ORDER BY epoch DESC, transaction_id DESC, sequence DESC LIMIT 1) AS last
         ON true
  LEFT JOIN (chosen JOIN webhooks_event e USING (id)) ON true
 ORDER BY e.epoch, e.transaction_id, e.sequence
"""  # noqa: S608 (a constant)
READ_SQL = END + BEHIND


def read(
    after: str | None,
    *,
    owner_id: UUID | None = None,
    patterns: Iterable[str] = ("*",),
    limit: int = 100,
) -> Page:
    """Return at most `limit` events after a cursor, oldest first; fewer where they are large.

    With `after` None, return an empty page whose cursor starts now. `owner_id` None means all
    owners. Events with an erased payload are left out. Raises CursorInvalidError, CursorForeignError
    for a cursor of another database, and EventTypeUnknownError for a pattern that selects no type.
    """
    types = matching_types(patterns)
    if after is None:
        return Page([], now().to_text(), has_more=False)
    cursor = Cursor.from_text(after)
    rows = query(
        READ_SQL,
        {
            "epoch": cursor.epoch,
            "transaction": cursor.transaction_id,
            "sequence": cursor.sequence,
            "scanned": MAX_SCANNED,
            "owner": owner_id,
            "types": types,
            "limit": limit,
        },
    )
    names, is_ahead, scanned, *last_scanned = rows[0][:6]
    clusters = _clusters(names)
    if is_ahead or cursor.cluster not in ("", clusters.get(cursor.epoch, UNKNOWN_CLUSTER)):
        raise CursorForeignError
    if scanned is None:
        return Page([], after, has_more=False)
    chosen = [row[6:] for row in rows if row[6] is not None]
    found = [row for row in chosen if row[3] is not None]
    is_full = len(chosen) == limit or len(found) < len(chosen)
    end = found[-1][-3:] if is_full else last_scanned
    events = [
        FeedEvent(EVENT_PREFIX + id_.hex, type_, created_at, bytes(payload), *rest[:-3])
        for id_, type_, created_at, payload, *rest in found
        if payload
    ]
    return Page(
        events, _cursor(end, clusters).to_text(), has_more=is_full or scanned == MAX_SCANNED
    )


def now() -> Cursor:
    """Return the cursor of the feed's current end.

    Events that committed while an older transaction was running come after it, like future events.
    """
    ((epoch, horizon, names),) = query(NOW_SQL, {"epoch": FIRST_EPOCH})
    return _cursor((int(horizon) - 1, LARGEST_NUMBER, epoch), _clusters(names))


FIRST = """
SELECT e.transaction_id::text, e.sequence - 1, e.epoch, names
  FROM clusters, (SELECT epoch, transaction_id, sequence FROM webhooks_event
                   WHERE owner_id = %(owner)s AND id >= %(first)s ORDER BY id LIMIT %(scanned)s) AS e
 ORDER BY e.epoch, e.transaction_id, e.sequence LIMIT 1
"""
SINCE_SQL = END + FIRST


def since(moment: datetime, owner_id: UUID) -> Cursor:
    """Return a cursor before the owner's events that were made at this time or later.

    Events of the same transactions that are a little older may come after it, too.
    """
    rows = query(
        SINCE_SQL,
        {
            "epoch": FIRST_EPOCH,
            "owner": owner_id,
            "first": first_id_of(moment),
            "scanned": MAX_SCANNED,
        },
    )
    if not rows:
        return now()
    *place, names = rows[0]
    return _cursor(place, _clusters(names))


UNKNOWN_CLUSTER = "unknown"
"""The cluster of an epoch without a record: its rows were copied without the table of epochs."""


def _clusters(names: str | dict[str, str]) -> dict[int, str]:
    # Django's cursors return JSON as text.
    pairs = json.loads(names) if isinstance(names, str) else names
    return {int(number): cluster for number, cluster in pairs.items()}


def _cursor(place: Iterable[Any], clusters: Mapping[int, str]) -> Cursor:
    transaction_id, sequence, epoch = map(int, place)
    return Cursor(transaction_id, sequence, epoch, clusters.get(epoch, UNKNOWN_CLUSTER))


def matching_types(patterns: Iterable[str]) -> list[str] | None:
    """Return the event types that the patterns select, or None for all types.

    Raises EventTypeUnknownError for patterns that select no type.
    """
    patterns = set(patterns)
    if unknown := sorted(p for p in patterns if not catalog.is_known_pattern(p)):
        raise EventTypeUnknownError(f"These patterns select no event type: {', '.join(unknown)}.")
    if "*" in patterns:
        return None
    names = (event_type.name for event_type in catalog.all_types())
    return [name for name in names if not catalog.patterns_matching(name).isdisjoint(patterns)]
