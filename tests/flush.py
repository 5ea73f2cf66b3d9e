"""What a test has committed is gone after it, and what migrations have put into tables is back.

Django truncates all tables, used or not, and makes only its own rows anew: a sixth of a second, and
the next test does without the rows of our migrations.
"""

from typing import Any

from django.db import connection, transaction
from django.test import TransactionTestCase

from tests.workers import wait_until

OTHERS_SQL = """
SELECT count(*) FROM pg_stat_activity
 WHERE datname = current_database() AND application_name LIKE 'webhooks-%'
"""
USED_SQL = """
SELECT quote_ident(relname), pg_relation_size(oid) FROM pg_class
 WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND pg_relation_size(oid) > 0
   AND relname <> 'django_migrations'
"""
"""Tables that something was written to since they were made or truncated, and their bytes."""
MOST_BYTES_TO_DELETE = 256 * 1024

kept: dict[str, bytes] = {}
"""The tables that hold rows when the database is new, and these rows in Postgres' own format."""


def keep() -> None:
    """Remember the rows of a new database, and have them put back after each test that commits."""
    with connection.cursor() as cursor:
        cursor.execute(USED_SQL)
        for table, _ in cursor.fetchall():
            kept[table] = _rows(cursor, table)
    TransactionTestCase._fixture_teardown = lambda _: put_back()  # type: ignore[attr-defined]


def put_back() -> None:
    # A killed worker's process for suspects ends by itself, a moment later.
    wait_until(_is_alone, seconds=40)
    with transaction.atomic(), connection.cursor() as cursor:
        # Deletes rows that others refer to, and fires no trigger.
        cursor.execute("SET LOCAL session_replication_role = replica")
        _empty(cursor)
        for table, rows in kept.items():
            if _rows(cursor, table) != rows:
                cursor.execute(f"DELETE FROM {table}")  # noqa: S608
                with cursor.copy(f"COPY {table} FROM STDIN") as copy:
                    copy.write(rows)


def _is_alone() -> bool:
    with connection.cursor() as cursor:
        cursor.execute(OTHERS_SQL)
        return bool(cursor.fetchone() == (0,))


def _empty(cursor: Any) -> None:
    cursor.execute(USED_SQL)
    sizes = {table: size for table, size in cursor.fetchall() if table not in kept}
    large = [table for table, size in sizes.items() if size > MOST_BYTES_TO_DELETE]
    statements = [f"DELETE FROM {table}" for table in sorted(sizes.keys() - large)]  # noqa: S608
    if sizes:
        # As a truncation does, wait for whoever still writes.
        statements.insert(0, f"LOCK TABLE {', '.join(sorted(sizes))} IN ACCESS EXCLUSIVE MODE")
    if large:
        statements.insert(1, f"TRUNCATE {', '.join(large)} CASCADE")
    if statements:
        cursor.execute(";".join(statements))


def _rows(cursor: Any, table: str) -> bytes:
    with cursor.copy(f"COPY {table} TO STDOUT") as copy:
        return b"".join(map(bytes, copy))
