"""The consumer of a cell: stores the events of its slots, each exactly once.

The position up to which a slot is stored changes in the transaction that stores its events. So whatever
dies, the next consumer goes on after what is committed. Two consumers of one cell do no harm: the rows of
slots make them take turns, and the second finds the messages stored.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from django.db import DataError, Error, IntegrityError, connection, transaction

from cells.cellmap import CellMap, read_map
from cells.log import Log, Message, Reader
from cells.messages import OWNER, RefusedError, event_of
from cells.patience import waiting_out
from cells.slots import stream_of
from webhooks.figures.cells import reopen_sql
from webhooks.ids import first_id_of
from webhooks.outbox.store import store_events
from webhooks.postgres.sql import query, run

BATCH_MESSAGES = 1000
WAIT_SECONDS = 0.2
MAP_SECONDS = 1.0
"""How often the map is read, and the positions of all slots are noted, silent ones too: a new consumer
begins at the lowest."""

# A slot that comes back has a higher version than the row that it left.
ADOPT_SQL = """
INSERT INTO cells_slot (slot, position, version, is_active)
SELECT slot, position, version, true
  FROM unnest(%(slots)s::smallint[], %(positions)s::bigint[], %(versions)s::bigint[])
       AS given (slot, position, version)
    ON CONFLICT (slot) DO UPDATE
   SET position = excluded.position, version = excluded.version, is_active = true
 WHERE cells_slot.version < excluded.version
"""
DROP_SQL = "UPDATE cells_slot SET is_active = false WHERE is_active AND slot <> ALL(%s)"
NOTE_MAP_SQL = """
INSERT INTO cells_map (revision, value) VALUES (%s, %s)
    ON CONFLICT (id) DO UPDATE SET revision = excluded.revision, value = excluded.value
 WHERE cells_map.revision < excluded.revision
"""
POSITIONS_SQL = "SELECT slot, position, version FROM cells_slot WHERE is_active"
LOCK_SQL = """
SELECT slot, version, position FROM cells_slot
 WHERE is_active AND slot = ANY(%s) ORDER BY slot FOR UPDATE
"""
KNOWN_SQL = "SELECT id FROM webhooks_event WHERE id = ANY(%(ids)s)"
NOTE_SQL = """
UPDATE cells_slot AS s SET position = n.position
  FROM unnest(%s::smallint[], %s::bigint[], %s::bigint[]) AS n (slot, version, position)
 WHERE s.slot = n.slot AND s.is_active AND s.version = n.version AND s.position < n.position
"""


# An hour is rolled up ten minutes after its end, as events are stored when they happen elsewhere. What
# has waited in the log has its old id, and is counted anew.
LATE = timedelta(minutes=5)
REOPEN_SQL = reopen_sql("webhooks_delivery WHERE event_id = ANY(%(ids)s)")


class Consumer:
    """`cell` is the name of this cell in the map."""

    def __init__(self, log: Log, cell: str) -> None:
        self._log = log
        self._cell = cell
        self._map: CellMap | None = None
        self._reader: Reader | None = None
        self._read: dict[int, int] = {}
        """The last position taken of each stream: all before it is stored, or not ours."""
        self._versions: dict[int, int] = {}
        """Of our slots, when the reader began. A slot that went away and came back has another: what this
        reader has passed over meanwhile may be missing."""
        self._looked_at = 0.0

    def run(self, is_stopping: Callable[[], bool]) -> None:
        """Store until told to stop; errors of Postgres and the log are waited out."""
        taken: list[Message] = []
        while not is_stopping():
            with waiting_out("consumer"):
                taken = taken or self.take()
                self.store(taken)
                taken = []
        with suppress(Error):
            self.note_read()
        self.close()

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def take(self) -> list[Message]:
        """Return the next messages; none if none comes for a while.

        Raises MapMissingError and LogError.
        """
        if time.monotonic() - self._looked_at >= MAP_SECONDS:
            self._look()
        if self._reader is None:
            time.sleep(WAIT_SECONDS)
            return []
        return self._reader.take(BATCH_MESSAGES, WAIT_SECONDS)

    def _is_ours(self, message: Message) -> bool:
        """Return whether it is of one of our slots, and in the slot's stream: positions of another one
        mean nothing."""
        streams = self._map.streams if self._map else 0
        return message.slot in self._versions and message.stream == stream_of(message.slot, streams)

    def _look(self) -> None:
        """Note all positions, and take over what the map now gives this cell."""
        self.note_read()
        current = read_map(self._log)
        if self._map is None or current.revision != self._map.revision:
            adopt(current, self._cell)
            self.close()
            read, versions = stored_places(current)
            self._reader = self._log.reader(dict(read)) if read else None
            # Last: after a failure above, the next look must try all of it again.
            self._map, self._read, self._versions = current, read, versions
        self._looked_at = time.monotonic()

    def note_read(self) -> None:
        """Note how far the streams are read for slots without messages, too."""
        if self._map is not None:
            streams = {slot: self._map.stream_of(slot) for slot in self._versions}
            self._note({slot: self._read[stream] for slot, stream in streams.items()})

    def store(self, messages: Sequence[Message]) -> int:
        """Store the events of messages that are ours and new; return their number.

        Raises database errors and LogError; to store them again is safe.
        """
        return sum(map(self._store_part, self._parts(messages)))

    def _parts(self, messages: Sequence[Message]) -> Iterator[list[Message]]:
        """Yield the messages in parts in which an owner's ids rise: deliveries that one transaction
        stores are in the order of their ids, which producers with other clocks make."""
        part: list[Message] = []
        latest: dict[str | None, str] = {}
        for message in messages:
            if message.slot in self._versions:
                owner = message.headers.get(OWNER)
                if message.id < latest.get(owner, ""):
                    yield part
                    part, latest = [], {}
                latest[owner] = message.id
            part.append(message)
        if part:
            yield part

    def _store_part(self, messages: Sequence[Message]) -> int:
        try:
            count = self._store(messages)
        except (DataError, IntegrityError, ValueError) as problem:
            if len(messages) == 1:
                self._refuse(messages[0], f"Postgres refuses it: {problem}")
                count = 0
            else:
                # One of them; the others must not wait for it.
                middle = len(messages) // 2
                return self._store_part(messages[:middle]) + self._store_part(messages[middle:])
        for message in messages:
            self._read[message.stream] = message.position
        return count

    @transaction.atomic
    def _store(self, messages: Sequence[Message]) -> int:
        messages = [one for one in messages if self._is_ours(one)]
        places = self._lock(messages)
        fresh = [one for one in messages if one.position > places.get(one.slot, one.position)]
        events = {}
        refused = []
        for message in fresh:
            try:
                event = event_of(message)
            except RefusedError as problem:
                refused.append((message, str(problem)))
            else:
                events[event.id] = event
        # Before the commit: afterwards nobody would read the messages again.
        self._log.refuse(refused)
        # What a producer published again after the log had forgotten its id.
        for (id_,) in run(KNOWN_SQL, {"ids": list(events)}).fetchall():
            del events[id_]
        store_events(list(events.values()))
        late = first_id_of(datetime.now(UTC) - LATE)
        if old := [id_ for id_ in events if id_ < late]:
            run(REOPEN_SQL, {"ids": old})
        self._note({one.slot: one.position for one in fresh})
        return len(events)

    @transaction.atomic
    def _refuse(self, message: Message, reason: str) -> None:
        if self._lock([message]).get(message.slot, message.position) < message.position:
            self._log.refuse([(message, reason)])
            self._note({message.slot: message.position})

    def _lock(self, messages: Iterable[Message]) -> dict[int, int]:
        """Lock the rows of these messages' slots; return the positions of those that are ours."""
        rows = query(LOCK_SQL, [sorted({one.slot for one in messages})])
        return {
            slot: position
            for slot, version, position in rows
            if self._versions.get(slot) == version
        }

    def _note(self, positions: Mapping[int, int]) -> None:
        versions = [self._versions[slot] for slot in positions]
        with connection.cursor() as cursor:
            cursor.execute(NOTE_SQL, [list(positions), versions, list(positions.values())])


def stored_places(current: CellMap) -> tuple[dict[int, int], dict[int, int]]:
    """Return up to which position each stream is stored in all of this cell's slots, and the slots'
    versions."""
    places: dict[int, int] = {}
    versions = {}
    for slot, position, version in query(POSITIONS_SQL):
        stream = current.stream_of(slot)
        places[stream] = min(position, places.get(stream, position))
        versions[slot] = version
    return places, versions


def adopt(current: CellMap, cell: str) -> None:
    """Take over the slots that the map gives this cell, drop the others, and note the map."""
    slots = [slot for slot in current.of_cell(cell) if slot not in current.moves]
    given = {
        "slots": slots,
        "positions": [current.since.get(slot, 0) for slot in slots],
        "versions": [current.granted.get(slot, 0) for slot in slots],
    }
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(ADOPT_SQL, given)
        cursor.execute(DROP_SQL, [slots])
        cursor.execute(NOTE_MAP_SQL, [current.revision, current.to_json().decode()])


def stored_map() -> CellMap | None:
    """Return the map that this cell's consumer last read, None before the first time."""
    rows = query("SELECT value::text, revision FROM cells_map")
    if not rows:
        return None
    value, revision = rows[0]
    return CellMap.from_json(value, revision)
