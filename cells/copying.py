# ruff: noqa: S608 (names of tables and columns; owners' ids are quoted literals)
"""What belongs to the owners of a slot in one database, copied to another, compared and deleted.

A move renumbers what has a meaning in one cluster of Postgres only. Moved rows get the epoch 0, before
all of the new cluster's own (webhooks/postgres/epoch.py), and deliveries in order keep their places as
numbers from 1. Sequences stay; the new database's counter goes past them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql

from cells.slots import SLOT_SQL

Connection = psycopg.Connection[Any]

# Deliveries in order, of one slot, in their order.
PLACE_SQL = """
CREATE TEMP TABLE place ON COMMIT DROP AS
SELECT id, dense_rank() OVER (ORDER BY epoch, order_key) AS number
  FROM webhooks_delivery
 WHERE order_key IS NOT NULL AND {condition}
"""


@dataclass(frozen=True)
class Table:
    name: str
    condition: str
    """Which rows of `t` belong to the owners."""
    changes: dict[str, str] = field(default_factory=dict)
    """What columns become, as expressions of the row `t`."""


OWNED = "t.owner_id::text = ANY({owners})"
OF_USER = "t.user_id::text = ANY({owners})"
OF_WEBHOOK = """EXISTS (SELECT FROM webhooks_webhook w
 WHERE w.id = t.webhook_id AND w.owner_id::text = ANY({owners}))"""
OF_DELIVERY = """EXISTS (SELECT FROM webhooks_delivery d
 WHERE d.id = t.delivery_id AND d.owner_id::text = ANY({owners}))"""

TABLES = (
    Table("webhooks_webhook", OWNED),
    Table("webhooks_signingsecret", OF_WEBHOOK),
    Table("webhooks_apitoken", OF_USER),
    Table("webhooks_portallink", OWNED),
    Table("webhooks_idempotentanswer", OWNED),
    Table(
        "webhooks_event",
        OWNED,
        {
            "epoch": "0::bigint",
            # Deliveries to webhooks of the platform stay where they are.
            "fanout_count": """(SELECT count(*) FROM webhooks_delivery d
                WHERE d.event_id = t.id AND d.owner_id = t.owner_id)::integer""",
        },
    ),
    Table(
        "webhooks_delivery",
        OWNED,
        {
            "epoch": "CASE WHEN t.order_key IS NULL THEN t.epoch ELSE 0 END",
            "order_key": "(SELECT number FROM place WHERE place.id = t.id)",
            "redelivery_id": "NULL::uuid",
        },
    ),
    Table("webhooks_attempt", OF_DELIVERY),
)
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


class Owners:
    """The owners of a slot; `users` is the table of users, `key` its primary key."""

    def __init__(self, source: Connection, slot: int, users: str, key: str) -> None:
        self.users, self.key = users, key
        text = OWNERS_SQL.format(
            users=users,
            key=key,
            of_users=SLOT_SQL.format(owner=key),
            of_events=SLOT_SQL.format(owner="owner_id"),
            slot=slot,
        )
        self.ids = sorted(str(id_) for (id_,) in source.execute(text))

    def condition(self, table: Table) -> str:
        return table.condition.format(owners=self.literal)

    @property
    def literal(self) -> str:
        return sql.Literal(self.ids).as_string() + "::text[]"

    def of_users(self) -> str:
        return f"{self.key}::text = ANY({self.literal})"


def copy(source: Connection, target: Connection, owners: Owners) -> list[str]:
    """Copy all rows of the owners; return the tables in which the copy differs.

    Both connections are in a transaction; the source's sees one moment (REPEATABLE READ).
    """
    shared = {
        "webhooks_storedform": "true",
        owners.users: owners.of_users(),
        "cells_frozen": f"owner_id = ANY({owners.literal})",
    }
    for name, condition in shared.items():
        # Which the new database may have already.
        target.execute(f"CREATE TEMP TABLE came (LIKE {name}) ON COMMIT DROP")
        _send(
            source,
            target,
            f"SELECT * FROM {name} WHERE {condition}",
            "came",
            _columns(source, name),
        )
        target.execute(f"INSERT INTO {name} SELECT * FROM came ON CONFLICT DO NOTHING")
        target.execute("DROP TABLE came")
    delivery = next(table for table in TABLES if table.name == "webhooks_delivery")
    placed = owners.condition(delivery).replace("t.owner_id", "owner_id")
    source.execute(PLACE_SQL.format(condition=placed))
    different = []
    for table in TABLES:
        columns = _columns(source, table.name)
        sent = _selection(table, columns, owners)
        _send(source, target, sent, table.name, columns)
        kept = _selection(Table(table.name, table.condition), columns, owners)
        if _digest(source, sent) != _digest(target, kept):
            different.append(table.name)
    _count_deliveries(target, owners)
    target.execute(
        "SELECT setval('webhooks_event_sequence', greatest(%s, nextval('webhooks_event_sequence')))",
        source.execute("SELECT last_value FROM webhooks_event_sequence").fetchone(),
    )
    target.execute(REOPEN_SQL.format(condition=placed))
    return different


# The charts of the new database count the moved deliveries.
REOPEN_SQL = """
INSERT INTO webhooks_reopenedhour (webhook_id, owner_id, hour)
SELECT DISTINCT webhook_id, owner_id, hour
  FROM (SELECT webhook_id, owner_id,
               (('x' || left(replace(id::text, '-', ''), 12))::bit(48)::bigint / 3600000)::integer AS hour
          FROM webhooks_delivery WHERE {condition}) AS moved
 WHERE hour < (SELECT end_hour FROM webhooks_rolledup)
"""


def delete(connection: Connection, owners: Owners, *, with_events: bool = False) -> None:
    """Delete the owners' rows, except for users and for events that platform webhooks still need.

    `with_events` says that the copy is about to bring these events.
    """
    for table in reversed(TABLES):
        needed = (
            " AND NOT EXISTS (SELECT FROM webhooks_delivery d WHERE d.event_id = t.id)"
            if table.name == "webhooks_event" and not with_events
            else ""
        )
        connection.execute(f"DELETE FROM {table.name} t WHERE {owners.condition(table)}{needed}")
    _count_deliveries(connection, owners)
    for name in ("webhooks_reopenedhour", "webhooks_hourfigures"):
        condition = owners.condition(Table(name, OWNED))
        connection.execute(f"DELETE FROM {name} t WHERE {condition}")


def _count_deliveries(connection: Connection, owners: Owners) -> None:
    """Let events with deliveries to platform webhooks, which do not move, count what they have."""
    connection.execute(
        f"""UPDATE webhooks_event t
               SET fanout_count = (SELECT count(*) FROM webhooks_delivery d WHERE d.event_id = t.id)
             WHERE {owners.condition(Table("webhooks_event", OWNED))}
               AND fanout_count <>
                   (SELECT count(*) FROM webhooks_delivery d WHERE d.event_id = t.id)"""
    )


def _columns(connection: Connection, table: str) -> list[str]:
    found = connection.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 "
        "AND NOT attisdropped AND attgenerated = '' ORDER BY attnum",
        [table],
    )
    return [name for (name,) in found]


def _selection(table: Table, columns: Sequence[str], owners: Owners) -> str:
    values = ", ".join(f"{table.changes.get(name, f't.{name}')} AS {name}" for name in columns)
    return f"SELECT {values} FROM {table.name} t WHERE {owners.condition(table)}"


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
