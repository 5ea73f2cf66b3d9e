"""Raw statements that run all the time, through Django's connection but as prepared statements.

Django binds parameters on the client, so that Postgres parses and plans every statement anew; for
the outbox and for the claim that takes longer than the work. Without DATABASE_PREPARED_STATEMENTS
they go the same way, unprepared.
"""

from collections.abc import Mapping
from typing import Any

import psycopg
from django.conf import settings
from django.db import connection

EXECUTIONS_BEFORE_PREPARING = 5


def run(sql: str, parameters: Mapping[str, Any]) -> Any:
    """Run one statement and return its cursor; raises Django's database errors."""
    # What connection.cursor() does, but with a cursor that leaves the parameters to the server.
    connection.close_if_health_check_failed()
    connection.ensure_connection()
    raw = connection.connection
    prepared = psycopg.Cursor(raw)
    # Half the bytes of a payload on the way, and none of the work of writing it as hex.
    prepared.format = psycopg.pq.Format.BINARY
    # Django's own wrapper: it translates errors, and logs and counts queries where that is asked.
    cursor = connection._prepare_cursor(prepared)  # type: ignore[attr-defined]
    if settings.DATABASE_PREPARED_STATEMENTS:
        # Only for now: psycopg would keep the text of Django's statements too, values and all.
        raw.prepare_threshold = EXECUTIONS_BEFORE_PREPARING
    try:
        cursor.execute(sql, parameters)
    finally:
        raw.prepare_threshold = None
    return cursor


def avoid_table_scans() -> None:
    """Let this thread's connection find rows by an index only.

    A prepared plan lives on while its table grows. One that was made for an empty table would read
    the whole of it again and again, until Postgres next gathers statistics.
    """
    if settings.DATABASE_PREPARED_STATEMENTS:
        with connection.cursor() as cursor:
            # A table without an index counts as so expensive then that its scan would be compiled.
            cursor.execute("SET enable_seqscan = off; SET jit = off")
