"""Move a slot to another cell: freeze, drain, copy and compare, flip the map, thaw.

The events keep arriving in the log meanwhile; the new cell reads on where the old one stopped. What is
done so far stands in the map and in the databases. So a move that was killed goes on when it is asked for
again, and until the map is flipped it can be taken back.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psycopg
from django.contrib.auth import get_user_model
from psycopg import IsolationLevel

from cells import copying
from cells.cellmap import CellMap, change_map, read_map
from cells.copying import Connection, Owners
from cells.log import Log
from cells.slots import SLOT_SQL
from webhooks.errors import WebhooksError

STALE_SECONDS = 2.0
"""After so long no process of the old cell sends, or writes, for an owner who is not active."""
DRAIN_SECONDS = 120.0
LOCK = 0x63656C6C
"""Of pg_try_advisory_lock(), with the slot: one mover at a time."""

FREEZE_SQL = "UPDATE cells_slot SET is_active = false WHERE slot = %s RETURNING position"
FREEZE_USERS_SQL = """
WITH owner AS (
    UPDATE {users} SET is_active = false WHERE {of_users} = {slot} AND is_active RETURNING {key}
)
INSERT INTO cells_frozen (owner_id, slot) SELECT {key}::text, {slot} FROM owner
    ON CONFLICT DO NOTHING
"""
THAW_USERS_SQL = """
WITH owner AS (DELETE FROM cells_frozen WHERE slot = {slot} RETURNING owner_id)
UPDATE {users} SET is_active = true WHERE {key}::text IN (SELECT owner_id FROM owner)
"""
IN_FLIGHT_SQL = """
SELECT count(*) FROM webhooks_delivery
 WHERE owner_id::text = ANY(%s) AND finished_at IS NULL AND claimed_by IS NOT NULL
"""


class MoveError(WebhooksError):
    """A slot cannot be moved; the text says why."""


class Move:
    """`databases` are the URLs of the cells' databases. `say` gets each step."""

    def __init__(
        self, log: Log, slot: int, databases: Mapping[str, str], say: Callable[[str], None]
    ) -> None:
        self._log, self._slot, self._databases, self._say = log, slot, databases, say
        users = get_user_model()._meta
        self._users, self._key = users.db_table, str(users.pk and users.pk.column)

    def run(self, to: str) -> None:
        """Move the slot, or go on with its move; raises MoveError, LogError and psycopg's errors."""
        current = change_map(self._log, lambda found: self._begun(found, to))
        from_, to = current.moves[self._slot]
        with self._connected(from_) as source, self._connected(to) as target:
            self._lock(source)
            if current.slots[self._slot] != to:
                self._transfer(source, target, to)
            self._say(f"{to} has it; cleaning up in {from_}")
            owners = self._owners(target)
            with target.transaction():
                self._thaw(target)
            with source.transaction():
                copying.delete(source, owners)
                self._thaw(source)
        change_map(self._log, lambda found: found.end_move(self._slot))

    def cancel(self) -> None:
        """Take a move back that has not flipped the map."""
        current = read_map(self._log)
        if self._slot not in current.moves:
            raise MoveError(f"Slot {self._slot} is not being moved.")
        from_, to = current.moves[self._slot]
        with self._connected(from_) as source, self._connected(to) as target:
            self._lock(source)
            if read_map(self._log).slots[self._slot] == to:
                raise MoveError(f"{to} has the slot already: finish the move, then move it back.")
            position = self._freeze(source)
            with target.transaction():
                copying.delete(target, self._owners(source))
                target.execute("DELETE FROM cells_frozen WHERE slot = %s", [self._slot])
            with source.transaction():
                self._thaw(source)
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

    def _transfer(self, source: Connection, target: Connection, to: str) -> None:
        self._say("freezing")
        position = self._freeze(source)
        time.sleep(STALE_SECONDS)
        owners = self._owners(source)
        self._say(f"draining what is in flight of {len(owners.ids)} owners")
        self._drain(source, owners)
        self._say("copying")
        source.isolation_level = IsolationLevel.REPEATABLE_READ
        with source.transaction(), target.transaction():
            # What a killed move has left.
            copying.delete(target, owners, with_events=True)
            if different := copying.copy(source, target, owners):
                raise MoveError(f"The copy differs in {', '.join(different)}; move it again.")
            self._freeze_users(target)
        source.isolation_level = None
        self._say("flipping the map")
        change_map(self._log, lambda found: found.grant(self._slot, to, position))

    def _freeze(self, source: Connection) -> int:
        """Stop storing and sending; return the position up to which the slot is stored."""
        with source.transaction():
            row = source.execute(FREEZE_SQL, [self._slot]).fetchone()
            self._freeze_users(source)
        return 0 if row is None else int(row[0])

    def _freeze_users(self, connection: Connection) -> None:
        of_users = SLOT_SQL.format(owner=self._key)
        self._execute(connection, FREEZE_USERS_SQL, of_users=of_users)

    def _thaw(self, connection: Connection) -> None:
        self._execute(connection, THAW_USERS_SQL)

    def _execute(self, connection: Connection, text: str, **parts: str) -> None:
        whole = text.format(users=self._users, key=self._key, slot=self._slot, **parts)
        connection.execute(whole)

    def _drain(self, source: Connection, owners: Owners) -> None:
        deadline = time.monotonic() + DRAIN_SECONDS
        while source.execute(IN_FLIGHT_SQL, [owners.ids]).fetchone() != (0,):
            if time.monotonic() > deadline:
                raise MoveError(
                    f"Deliveries are still in flight after {DRAIN_SECONDS:g} s; are workers running?"
                )
            time.sleep(0.1)

    def _owners(self, connection: Connection) -> Owners:
        return Owners(connection, self._slot, self._users, self._key)

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
