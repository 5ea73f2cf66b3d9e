"""Raw statements that run all the time, through Django's connection but as prepared statements.

Django binds parameters on the client, so that Postgres parses and plans every statement anew; for
the outbox and for the claim that takes longer than the work. Without DATABASE_PREPARED_STATEMENTS
they go the same way, unprepared, and nothing is set up on a connection that others may use, too.
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


# Rows are found by an index only: a prepared plan lives on while its table grows, and one made for
# an empty table would read the whole of it until Postgres next gathers statistics. (A table without
# an index counts as so expensive then that its scan would be compiled.)
# A worker that freezes in a transaction must not keep its locks, and one that finds a row locked
# must not wait in silence until it counts as dead.
SET_UP_SQL = """
SET enable_seqscan = off;
SET jit = off;
SET idle_in_transaction_session_timeout = '5s';
SET lock_timeout = '5s';
SELECT set_config('application_name', %s, false)
"""


def set_up_connection(name: str) -> None:
    """Give this thread's connection the limits of a worker's, and a name to end it by."""
    if settings.DATABASE_PREPARED_STATEMENTS:
        with connection.cursor() as cursor:
            cursor.execute(SET_UP_SQL, [name])


END_SQL = """
SELECT pg_terminate_backend(pid, 1000)
  FROM pg_stat_activity
 WHERE datname = current_database() AND application_name = ANY(%(names)s)
"""


def end_connections(names: list[str]) -> None:
    """End every connection of these names, with what it has locked and not committed."""
    run(END_SQL, {"names": names})
