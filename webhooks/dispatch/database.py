"""The dispatcher's way to Postgres: Django's connection, but with prepared statements.

Django binds parameters on the client, so that every statement is planned anew; for the claim the
planning takes as long as the work.
"""

from collections.abc import Mapping
from typing import Any

import psycopg
from django.db import connection


def run(sql: str, parameters: Mapping[str, Any]) -> psycopg.Cursor[tuple[Any, ...]]:
    """Run one statement and return its cursor; raises Django's database errors."""
    connection.ensure_connection()
    with connection.wrap_database_errors:
        cursor = psycopg.Cursor(connection.connection)
        return cursor.execute(sql.encode(), parameters, prepare=True)
