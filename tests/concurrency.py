"""Several things at once: threads with their own connections, and who calls what meanwhile."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
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


@contextmanager
def another_connection() -> Iterator[psycopg.Connection[Any]]:
    """Open a connection of psycopg's own to the tests' database; it commits at the end."""
    parameters = connection.get_connection_params()
    wanted = {name: parameters[name] for name in ("dbname", "user", "host") if name in parameters}
    with psycopg.connect(**wanted) as other:
        yield other


def calls_of(place: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return a list that says when, by the monotonic clock, the function `name` was called."""
    calls: list[float] = []
    original = getattr(place, name)

    def noting(*args: Any, **kwargs: Any) -> Any:
        calls.append(time.monotonic())
        return original(*args, **kwargs)

    monkeypatch.setattr(place, name, noting)
    return calls
