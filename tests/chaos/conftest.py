"""What killed workers leave behind must be gone before the tables are emptied."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection

from tests.workers import wait_until

OTHERS_SQL = """
SELECT count(*) FROM pg_stat_activity
 WHERE datname = current_database() AND application_name LIKE 'webhooks-%'
"""


def is_alone() -> bool:
    with connection.cursor() as cursor:
        cursor.execute(OTHERS_SQL)
        return bool(cursor.fetchone() == (0,))


@pytest.fixture(autouse=True)
def alone_at_the_end(transactional_db: Any) -> Iterator[None]:
    """A killed worker's process for suspects ends by itself, a moment later."""
    yield
    wait_until(is_alone, seconds=40)
