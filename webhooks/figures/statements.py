"""Run a statement of figures."""

from collections.abc import Mapping
from typing import Any

from django.db import connection


def query(sql: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """Return all rows of a statement."""
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return list(cursor.fetchall())
