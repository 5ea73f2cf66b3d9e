"""Two writers at once: one in the test, one in a thread of its own with its own connection."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection


def in_thread(action: Callable[[], Any]) -> threading.Thread:
    def run() -> None:
        try:
            action()
        finally:
            connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def wait_for_lock() -> None:
    """Return when some other connection waits for a row lock."""
    with connection.cursor() as cursor:
        for _ in range(10_000):
            cursor.execute("SELECT count(*), pg_sleep(0.002) FROM pg_locks WHERE NOT granted")
            if cursor.fetchone()[0]:
                return
    pytest.fail("Nobody waits.")
