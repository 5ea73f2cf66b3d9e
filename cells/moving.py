"""Move a slot to another cell: freeze, wait for what is open or in flight, copy and compare, flip the
map, thaw.

The events keep arriving in the log meanwhile; the new cell reads on where the old one stopped. What is
done so far stands in the map and in the databases. So a move that was killed goes on when it is asked for
again, and until the map is flipped it can be taken back.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import psycopg
from psycopg import IsolationLevel

from cells import copying
from cells.cellmap import CellMap, change_map, read_map
from cells.copying import Connection, MoveError, Owners
from cells.log import Log
from cells.messages import entry_of
from cells.moving_figures import Figures
from webhooks.models.owners import owners_are_users

T = TypeVar("T")

STALE_SECONDS = 2.0
"""After so long no process of the old cell sends, or writes, for an owner whose slot it does not have."""
DRAIN_SECONDS = 120.0
CLEAN_UP_TRIES = 5
LOCK = 0x63656C6C
"""Of pg_try_advisory_lock(), with the slot: one mover at a time."""

# Where there is none, it is of a cell that has not consumed. Any version that the map grants is higher.
FREEZE_SQL = """
INSERT INTO cells_slot (slot, position, version, is_active) VALUES (%s, 0, -1, false)
    ON CONFLICT (slot) DO UPDATE SET is_active = false
RETURNING position
"""
# Of sessions of users. A role may read these columns of the sessions of others, too.
OPEN_SQL = """
SELECT l.virtualtransaction, l.pid FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
 WHERE l.locktype = 'virtualxid' AND l.mode = 'ExclusiveLock' AND l.granted
   AND a.datname = current_database() AND a.usesysid IS NOT NULL AND a.pid <> pg_backend_pid()
"""
IN_FLIGHT_SQL = """
SELECT count(*) FROM webhooks_delivery
 WHERE owner_id::text = ANY(%s) AND finished_at IS NULL AND claimed_by IS NOT NULL
"""


class Move:
    """`databases` are the URLs of the cells' databases. `say` gets each step."""

    def __init__(
        self, log: Log, slot: int, databases: Mapping[str, str], say: Callable[[str], None]
    ) -> None:
        if not owners_are_users():
            raise MoveError("Slots move only where users are the owners (WEBHOOKS_OWNER_MODEL).")
        self._log, self._slot, self._databases, self._say = log, slot, databases, say

    def run(self, to: str) -> None:
        """Move the slot, or go on with its move; raises MoveError, LogError and psycopg's errors."""
        current = change_map(self._log, lambda found: self._begun(found, to))
        from_, to, *_ = current.moves[self._slot]
        with self._connected(from_) as source, self._connected(to) as target:
            self._lock(source)
            if current.slots[self._slot] != to:
                current = self._transfer(source, target, to)
            self._say(f"{to} has it; cleaning up in {from_}")
            owners = self._owners(target)
            with target.transaction():
                # What an operator has changed meanwhile; until the move ends, the old cell has the say.
                copying.bring_users(source, target, owners)
            self._clean_up(source, owners, current)
        # From now on the new cell's consumer takes the slot, and its workers send.
        change_map(self._log, lambda found: found.end_move(self._slot))

    def cancel(self) -> None:
        """Take a move back that has not flipped the map."""
        current = read_map(self._log)
        if self._slot not in current.moves:
            raise MoveError(f"Slot {self._slot} is not being moved.")
        from_, to, *_ = current.moves[self._slot]
        with self._connected(from_) as source, self._connected(to) as target:
            self._lock(source)
            if read_map(self._log).slots[self._slot] == to:
                raise MoveError(f"{to} has the slot already: finish the move, then move it back.")
            position = self._freeze(source)
            with target.transaction():
                copying.delete(target, self._owners(source))
        change_map(
            self._log,
            lambda found: found.grant(self._slot, from_, position).end_move(self._slot),
        )

    def _begun(self, current: CellMap, to: str) -> CellMap:
        if to not in current.cells:
            raise MoveError(f"There is no cell {to!r} in the map.")
        if self._slot in current.moves:
            if current.moves[self._slot][1] != to:
                raise MoveError(f"It is on its way to {current.moves[self._slot][1]}.")
            return current
        if current.slots[self._slot] == to:
            raise MoveError(f"{to} has slot {self._slot} already.")
        return current.begin_move(self._slot, to)

    def _transfer(self, source: Connection, target: Connection, to: str) -> CellMap:
        self._say("freezing")
        position = self._freeze(source)
        time.sleep(STALE_SECONDS)
        self._say("waiting for open transactions")
        self._wait_for_transactions(source)
        owners = self._owners(source)
        self._say(f"draining what is in flight of {len(owners.ids)} owners")
        self._drain(source, owners)
        self._say("copying")
        source.isolation_level = IsolationLevel.REPEATABLE_READ
        with source.transaction(), target.transaction():
            snapshot = _value(source.execute("SELECT pg_current_snapshot()::text"))
            if copying.shared_redeliveries(source, owners):
                raise MoveError("A redelivery for several owners has begun; move the slot again.")
            figures = Figures(source, target, owners)
            self._freeze(target)
            # What a killed move has left.
            copying.delete(target, owners, with_events=True)
            if different := copying.copy(source, target, owners, figures.only):
                raise MoveError(f"The copy differs in {', '.join(different)}; move it again.")
            figures.agree()
        source.isolation_level = None
        self._say("flipping the map")
        return change_map(
            self._log,
            lambda found: found.grant(self._slot, to, position).note_copied(self._slot, snapshot),
        )

    def _wait_for_transactions(self, source: Connection) -> None:
        """Wait for the end of the transactions that may hold events which the copy would not see."""
        waits_for = [name for name, _ in source.execute(OPEN_SQL)]
        _wait_while(
            lambda: [pid for name, pid in source.execute(OPEN_SQL) if name in waits_for],
            time.monotonic() + DRAIN_SECONDS,
            lambda pids: (
                f"Transactions are still open after {DRAIN_SECONDS:g} s, in the backends"
                f" {', '.join(map(str, pids))} of Postgres; end them, and move it again."
            ),
        )

    def _clean_up(self, source: Connection, owners: Owners, current: CellMap) -> None:
        """Delete the rows in the old cell, and publish the events that the copy has not seen.

        A process may store one that it took in before the freeze, if it stood still meanwhile.
        """
        _, _, *copied = current.moves[self._slot]
        source.isolation_level = IsolationLevel.REPEATABLE_READ
        for turn in range(1, CLEAN_UP_TRIES + 1):
            try:
                with source.transaction():
                    # It deletes what this snapshot sees, and what comes later stays.
                    late = copying.late_events(source, owners, copied[0]) if copied else []
                    if late:
                        self._say(f"publishing {len(late)} events that were stored late")
                        stream = current.stream_of(self._slot)
                        self._log.publish({stream: [entry_of(event) for event in late]})
                    copying.delete(source, owners)
                break
            except psycopg.errors.SerializationFailure:
                if turn == CLEAN_UP_TRIES:
                    raise
        source.isolation_level = None

    def _freeze(self, database: Connection) -> int:
        """Stop storing and sending; return the position up to which the slot is stored."""
        return int(_value(database.execute(FREEZE_SQL, [self._slot])))

    def _drain(self, source: Connection, owners: Owners) -> None:
        deadline = time.monotonic() + DRAIN_SECONDS
        _wait_while(
            lambda: _value(source.execute(IN_FLIGHT_SQL, [owners.ids])),
            deadline,
            lambda _: (
                f"Deliveries are still in flight after {DRAIN_SECONDS:g} s; are workers running?"
            ),
        )
        # They queue deliveries of frozen owners, too.
        _wait_while(
            lambda: copying.shared_redeliveries(source, owners),
            deadline,
            lambda _: (
                "A redelivery for several owners is still running; wait for its end or cancel it."
            ),
            pause_seconds=1,
        )

    def _owners(self, connection: Connection) -> Owners:
        return Owners(connection, self._slot)

    def _lock(self, source: Connection) -> None:
        if source.execute("SELECT pg_try_advisory_lock(%s, %s)", [LOCK, self._slot]).fetchone() != (
            True,
        ):
            raise MoveError(f"Another process is moving slot {self._slot}.")

    @contextmanager
    def _connected(self, cell: str) -> Iterator[psycopg.Connection[Any]]:
        if cell not in self._databases:
            raise MoveError(f"CELLS_DATABASES has no URL of {cell}'s database.")
        with psycopg.connect(self._databases[cell], autocommit=True) as connection:
            yield connection


def _value(cursor: psycopg.Cursor[Any]) -> Any:
    [(value,)] = cursor.fetchall()
    return value


def _wait_while(
    left: Callable[[], T],
    deadline: float,
    problem: Callable[[T], str],
    *,
    pause_seconds: float = 0.1,
) -> None:
    """Wait while something is left; after the deadline raise MoveError with the problem of it."""
    while found := left():
        if time.monotonic() > deadline:
            raise MoveError(problem(found))
        time.sleep(pause_seconds)
