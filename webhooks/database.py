"""Raw statements that run all the time, through Django's connection but as prepared statements.

Django binds parameters on the client, so that Postgres parses and plans every statement anew; for
the outbox and for the claim that takes longer than the work. psycopg prepares what a connection
has run a few times; without DATABASE_PREPARED_STATEMENTS nothing.
"""

from collections.abc import Mapping
from typing import Any

import psycopg
from django.db import connection


def run(sql: str, parameters: Mapping[str, Any]) -> Any:
    """Run one statement and return its cursor; raises Django's database errors."""
    connection.ensure_connection()
    # Django's own wrapper: it translates errors, and logs and counts queries where that is asked.
    prepared = psycopg.Cursor(connection.connection)
    # Half the bytes of a payload on the way, and none of the work of writing it as hex.
    prepared.format = psycopg.pq.Format.BINARY
    cursor = connection._prepare_cursor(prepared)  # type: ignore[attr-defined]
    cursor.execute(sql, parameters)
    return cursor


def avoid_table_scans() -> None:
    """Let this thread's connection find rows by an index only.

    A prepared plan lives on while its table grows. One that was made for an empty table would read
    the whole of it again and again, until Postgres next gathers statistics.
    """
    with connection.cursor() as cursor:
        if connection.connection.prepare_threshold is not None:
            cursor.execute("SET enable_seqscan = off")
