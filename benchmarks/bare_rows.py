"""Yardstick: the least that Postgres has to do for the rows that were stored, COPY and UPDATE.

Both take what is in the tables, in batches of one transaction each, and write the same rows anew.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import zip_longest
from typing import Any

from django.db import connection, transaction


def copy_events(batch: int) -> float:
    """Copy all events and their deliveries once more; returns events per second."""
    events = _in_batches("webhooks_event", batch)
    deliveries = _in_batches("webhooks_delivery", batch)
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE webhooks_event, webhooks_delivery CASCADE")
    seconds, count = 0.0, 0
    for event_rows, delivery_rows in zip_longest(events, deliveries, fillvalue=b""):
        with _timed() as timer, transaction.atomic():
            count += _copy("webhooks_event", event_rows)
            if delivery_rows:
                _copy("webhooks_delivery", delivery_rows)
        seconds += timer[0]
    return count / seconds


def record_attempts(batch: int) -> float:
    """Settle all deliveries once more: UPDATE and COPY of an attempt each; returns rows per second."""
    attempts = _in_batches("webhooks_attempt", batch, order="delivery_id")
    with connection.cursor() as cursor:
        cursor.execute("SELECT id FROM webhooks_delivery ORDER BY id")
        ids = [row[0] for row in cursor]
        cursor.execute("TRUNCATE webhooks_attempt")
        cursor.execute("UPDATE webhooks_delivery SET status = 'SENDING', finished_at = NULL")
        cursor.execute("VACUUM webhooks_delivery")
    seconds = 0.0
    for number, attempt_rows in enumerate(attempts):
        with _timed() as timer, transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET LOCAL synchronous_commit = off")
            cursor.execute(
                "UPDATE webhooks_delivery SET status = 'SUCCESS', attempt_count = 1,"
                " response_code = 200, claimed_by = NULL, next_attempt_at = NULL,"
                " finished_at = clock_timestamp() WHERE id = ANY(%s)",
                [ids[number * batch : (number + 1) * batch]],
            )
            _copy("webhooks_attempt", attempt_rows)
        seconds += timer[0]
    return len(ids) / seconds


def _in_batches(table: str, size: int, *, order: str = "id") -> list[bytes]:
    """Return a table's rows as COPY takes them, `size` rows to a batch."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT count(*) FROM {table}")  # noqa: S608 (constants only)
        count = cursor.fetchone()[0]
        batches = []
        for start in range(0, count, size):
            rows = f"SELECT * FROM {table} ORDER BY {order} OFFSET {start} LIMIT {size}"  # noqa: S608
            with cursor.copy(f"COPY ({rows}) TO STDOUT (FORMAT binary)") as copy:
                batches.append(b"".join(copy))
        return batches


def _copy(table: str, rows: bytes) -> int:
    with connection.cursor() as cursor:
        with cursor.copy(f"COPY {table} FROM STDIN (FORMAT binary)") as copy:
            copy.write(rows)
        return int(cursor.rowcount)


@contextmanager
def _timed() -> Iterator[list[Any]]:
    """Give a list that holds, once the block has ended, how many seconds it took."""
    timer: list[Any] = []
    started_at = time.perf_counter()
    yield timer
    timer.append(time.perf_counter() - started_at)
