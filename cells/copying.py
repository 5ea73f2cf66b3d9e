# ruff: noqa: S608 (names of tables and columns; owners' ids are quoted literals)
"""What belongs to the owners of a slot in one database, copied to another, compared and deleted.

A move renumbers what has a meaning in one cluster of Postgres only. Moved rows get the epoch 0, before
all of the new cluster's own (webhooks/postgres/epoch.py), and deliveries in order keep their places as
numbers from 1. Sequences stay; the new database's counter goes past them.
"""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql

from cells import belongings
from cells.belongings import Table
from cells.slots import SLOT_SQL
from webhooks.errors import WebhooksError
from webhooks.ids import EVENT_PREFIX
from webhooks.models import Delivery, Event
from webhooks.models.operations import owner_of_answers
from webhooks.models.owners import owner_model
from webhooks.outbox.feed import FeedEvent

Connection = psycopg.Connection[Any]

# Deliveries in order, of one slot, in their order.
PLACE_SQL = """
CREATE TEMP TABLE place ON COMMIT DROP AS
SELECT t.id, dense_rank() OVER (ORDER BY t.epoch, t.order_key) AS number
  FROM webhooks_delivery t
 WHERE t.order_key IS NOT NULL AND {condition}
"""
# The target's sequence counts, so that nothing there gets the same number.
NUMBERS_SQL = "SELECT nextval(pg_get_serial_sequence(%s, %s)) FROM generate_series(1, %s)"
OWNERS_SQL = """
WITH RECURSIVE owner AS (
    (SELECT owner_id FROM webhooks_event WHERE owner_id IS NOT NULL ORDER BY owner_id LIMIT 1)
     UNION ALL
    SELECT (SELECT e.owner_id FROM webhooks_event e
             WHERE e.owner_id > owner.owner_id ORDER BY e.owner_id LIMIT 1)
      FROM owner WHERE owner.owner_id IS NOT NULL
)
SELECT {key}::text FROM {users} WHERE {of_users} = {slot}
 UNION
SELECT owner_id::text FROM owner WHERE owner_id IS NOT NULL AND {of_events} = {slot}
"""


class MoveError(WebhooksError):
    """A slot cannot be moved; the text says why."""


class Owners:
    """The owners of a slot."""

    def __init__(self, source: Connection, slot: int) -> None:
        meta = owner_model()._meta
        self.users, self.key = meta.db_table, str(meta.pk.column)
        text = OWNERS_SQL.format(
            users=self.users,
            key=self.key,
            of_users=SLOT_SQL.format(owner=self.key),
            of_events=SLOT_SQL.format(owner="owner_id"),
            slot=slot,
        )
        self.ids = sorted(str(id_) for (id_,) in source.execute(text))
        keys = [meta.pk.to_python(id_) for id_ in self.ids]
        answers = [owner_of_answers(key, is_service=n > 0) for key in keys for n in range(2)]
        self._literals = {"owners": _texts(self.ids), "answers": _uuids(answers)}

    def fill(self, text: str) -> str:
        """Return SQL of belongings.py with these owners."""
        return text.format_map(self._literals)

    def condition(self, table: Table) -> str:
        return self.fill(table.condition)

    @property
    def of_users(self) -> str:
        return self.fill(f"{self.key}::text = ANY({{owners}})")


def _texts(values: Sequence[str]) -> str:
    return sql.Literal(list(values)).as_string() + "::text[]"


def _uuids(values: Sequence[UUID]) -> str:
    return sql.Literal(list(map(str, values))).as_string() + "::uuid[]"


def copy(source: Connection, target: Connection, owners: Owners, only: dict[str, str]) -> list[str]:
    """Copy all rows of the owners; return the tables in which the copy differs.

    Both connections are in a transaction; the source's sees one moment (REPEATABLE READ). `only` are
    further conditions for rows `t` of a table.
    """
    bring_users(source, target, owners)
    _bring(source, target, "webhooks_storedform", "true")
    of_model = {model._meta.db_table: model for model in belongings.moving()}
    places = owners.condition(_table(Delivery))
    source.execute(PLACE_SQL.format(condition=places))
    note_redeliveries(source, owners)
    for model in belongings.numbered():
        _number(source, target, owners, _table(model))
    sent = {}
    for table in belongings.tables():
        limits = only.get(table.name, "true")
        columns = _columns(source, table.name)
        sent[table.name] = _selection(table, columns, owners, limits)
        _send(source, target, sent[table.name], table.name, columns)
    note_redeliveries(target, owners)
    different = []
    for name, select in sent.items():
        plain = Table(name, belongings.condition_of(of_model[name]))
        kept = _selection(plain, _columns(source, name), owners, "true")
        if _digest(source, select) != _digest(target, kept):
            different.append(name)
    _count_deliveries(target, owners)
    target.execute(
        "SELECT setval('webhooks_event_sequence', greatest(%s, nextval('webhooks_event_sequence')))",
        source.execute("SELECT last_value FROM webhooks_event_sequence").fetchone(),
    )
    return different


def bring_users(source: Connection, target: Connection, owners: Owners) -> None:
    """Let the target's rows of the owners be as the source's are."""
    columns = [name for name in _columns(source, owners.users) if name != owners.key]
    changes = ", ".join(f"{name} = excluded.{name}" for name in columns)
    update = f"({owners.key}) DO UPDATE SET {changes}"
    _bring(source, target, owners.users, owners.of_users, update)


def _bring(
    source: Connection, target: Connection, table: str, condition: str, conflict: str = "DO NOTHING"
) -> None:
    """Copy rows which the target may have already."""
    columns = _columns(source, table)
    target.execute(f"CREATE TEMP TABLE came (LIKE {table}) ON COMMIT DROP")
    _send(source, target, f"SELECT * FROM {table} WHERE {condition}", "came", columns)
    target.execute(f"INSERT INTO {table} SELECT * FROM came ON CONFLICT {conflict}")
    target.execute("DROP TABLE came")


def note_redeliveries(connection: Connection, owners: Owners) -> None:
    """Note in the temporary table `going` which redeliveries are of these owners alone."""
    connection.execute("DROP TABLE IF EXISTS going")
    connection.execute(owners.fill(belongings.GOING_SQL))


def shared_redeliveries(connection: Connection, owners: Owners) -> int:
    """Return how many running redeliveries are of these owners and of others."""
    rows = connection.execute(owners.fill(belongings.SHARED_SQL)).fetchone()
    return int(rows[0]) if rows else 0


def _number(source: Connection, target: Connection, owners: Owners, table: Table) -> None:
    """Give the rows of a table whose key is a number new ones, which the target has not used."""
    new, key = f"new_{table.name}", "id"
    source.execute(f"CREATE TEMP TABLE {new} (old bigint PRIMARY KEY, id bigint) ON COMMIT DROP")
    condition = owners.condition(table)
    old = source.execute(f"SELECT t.{key} FROM {table.name} t WHERE {condition}").fetchall()
    ids = target.execute(NUMBERS_SQL, [table.name, key, len(old)]).fetchall()
    with source.cursor().copy(f"COPY {new} (old, id) FROM STDIN") as rows:
        for (before,), (after,) in zip(old, ids, strict=True):
            rows.write_row((before, after))


LATE_SQL = """
SELECT t.id, t.type, t.created_at, t.payload, t.owner_id,
       t.object_reference, t.is_self_reported, t.version
  FROM webhooks_event t, (SELECT %s::pg_snapshot AS seen) AS copy
 WHERE (t.epoch, t.transaction_id) >= (webhooks_current_epoch(), pg_snapshot_xmin(copy.seen))
   AND NOT pg_visible_in_snapshot(t.transaction_id, copy.seen)
   AND t.payload IS NOT NULL AND {condition}
 ORDER BY t.epoch, t.transaction_id, t.sequence
"""


def late_events(source: Connection, owners: Owners, snapshot: str) -> list[FeedEvent]:
    """Return the owners' events of transactions that a snapshot (pg_snapshot) did not see, in order."""
    text = LATE_SQL.format(condition=owners.condition(_table(Event)))
    return [
        FeedEvent(EVENT_PREFIX + id_.hex, *rest) for id_, *rest in source.execute(text, [snapshot])
    ]


def delete(connection: Connection, owners: Owners, *, with_events: bool = False) -> None:
    """Delete the owners' rows, except for users and for events that platform webhooks still need.

    `with_events` says that the copy is about to bring these events.
    """
    note_redeliveries(connection, owners)
    for table in reversed(belongings.tables()):
        needed = (
            " AND NOT EXISTS (SELECT FROM webhooks_delivery d WHERE d.event_id = t.id)"
            if table.name == Event._meta.db_table and not with_events
            else ""
        )
        connection.execute(f"DELETE FROM {table.name} t WHERE {owners.condition(table)}{needed}")
    _count_deliveries(connection, owners)


def _count_deliveries(connection: Connection, owners: Owners) -> None:
    """Let events with deliveries to platform webhooks, which do not move, count what they have."""
    connection.execute(
        f"""UPDATE webhooks_event t
               SET fanout_count = (SELECT count(*) FROM webhooks_delivery d WHERE d.event_id = t.id)
             WHERE {owners.condition(_table(Event))}
               AND fanout_count <>
                   (SELECT count(*) FROM webhooks_delivery d WHERE d.event_id = t.id)"""
    )


def _table(model: Any) -> Table:
    return next(one for one in belongings.tables() if one.name == model._meta.db_table)


def _columns(connection: Connection, table: str) -> list[str]:
    found = connection.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 "
        "AND NOT attisdropped AND attgenerated = '' ORDER BY attnum",
        [table],
    )
    return [name for (name,) in found]


def _selection(table: Table, columns: Sequence[str], owners: Owners, limits: str) -> str:
    values = ", ".join(
        f"{owners.fill(table.changes.get(name, f't.{name}'))} AS {name}" for name in columns
    )
    return f"SELECT {values} FROM {table.name} t WHERE {owners.condition(table)} AND {limits}"


def _send(
    source: Connection, target: Connection, select: str, table: str, columns: Sequence[str]
) -> None:
    names = ", ".join(columns)
    reading, writing = source.cursor(), target.cursor()
    with (
        reading.copy(f"COPY ({select}) TO STDOUT (FORMAT binary)") as sent,
        writing.copy(f"COPY {table} ({names}) FROM STDIN (FORMAT binary)") as kept,
    ):
        for part in sent:
            kept.write(part)


def _digest(connection: Connection, select: str) -> Any:
    """Return the number of rows and a sum over what is in them."""
    text = f"""SELECT count(*), coalesce(sum(hashtextextended(row::text, 0)::numeric), 0)
                 FROM ({select}) AS row"""
    return connection.execute(text).fetchone()
