"""Run the statements of this package."""

from collections.abc import Mapping
from typing import Any

from django.db import connection


def query(sql: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """Run a statement and return all its rows; raises Django's database errors."""
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return list(cursor.fetchall())
