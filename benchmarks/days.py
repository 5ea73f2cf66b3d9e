"""Purge a day of attempts with its partition, beside the same day row by row."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import connection

from benchmarks import harness
from benchmarks.harness import Goal, Series, ratio
from benchmarks.receiver import Receiver
from webhooks.ids import first_id_of
from webhooks.models import Attempt
from webhooks.repair import partitions
from webhooks.repair.retention import Policy, purge

ATTEMPTS = int(os.environ.get("BENCH_DAY_ATTEMPTS", 500_000))
EACH = int(os.environ.get("BENCH_DAY_EACH", 10))
"""The attempts of each delivery."""
LARGE = partitions.LARGE
"""Before this scenario changes it."""
KEPT = 100
"""Deliveries that ended just now, as after a redelivery."""
DAY = datetime(2026, 1, 5, tzinfo=UTC)

# One event and delivery each, with EACH attempts. The random part of an id comes from its number.
DAY_SQL = """
WITH numbered AS (
    SELECT n, to_timestamp(%(since)s + n * 0.1) AS moment,
           (lpad(to_hex(((%(since)s + n * 0.1) * 1000)::bigint), 12, '0') || '7000'
            || lpad(to_hex((x'8000000000000000'::bit(64)::bigint + n)), 16, '0'))::uuid AS id
      FROM generate_series(%(from)s::int, %(to)s::int) AS n
), events AS (
    INSERT INTO webhooks_event (id, type, owner_id, payload, fanout_count, object_reference,
                                created_at)
    SELECT id, 'session.message', %(owner)s, convert_to(repeat('x', 300), 'UTF8'), 1, '', moment
      FROM numbered
), attempts AS (
    INSERT INTO webhooks_attempt (id, delivery_id, number, started_at, duration_ms, url,
                                  request_head, response_code, response_head, response_body,
                                  is_truncated, failure_kind, error)
    SELECT overlay(gen_random_uuid()::text PLACING left(id::text, 13) FROM 1 FOR 13)::uuid,
           id, number, moment, 5, 'http://127.0.0.1/', repeat('h', 400), 200,
           convert_to(repeat('r', 100), 'UTF8'), 'ok', false, '', ''
      FROM numbered, generate_series(1, %(each)s) AS number
)
INSERT INTO webhooks_delivery (id, event_id, webhook_id, owner_id, event_type, status,
                               attempt_count, round, attempts_before_round, is_suspect,
                               crash_count, failure_kind, error, response_code, next_attempt_at,
                               created_at, delivered_at, finished_at)
SELECT id, id, %(webhook)s, %(owner)s, 'session.message', 'SUCCESS', %(each)s, 1, 0, false, 0, '',
       '', 200, NULL, moment, moment,
       CASE WHEN n < %(kept)s THEN clock_timestamp() ELSE moment END
  FROM numbered
"""


def run(receiver: Receiver, rounds: int) -> dict[str, Any]:
    whole = Series("with its partition, in all", "s")
    rows = Series("row by row, in all", "s")
    exchange = Series("the exchange of the partition", "s")
    waits = [Series(f"longest wait of an insert beside it, {how}", "ms") for how in ("day", "rows")]
    for _ in range(rounds):
        for large, total, wait in (
            (LARGE, whole, waits[0]),
            (10 * ATTEMPTS, rows, waits[1]),
        ):
            _fill(receiver)
            with _timing("webhooks_replace_attempt_partition") as seconds, _inserting() as longest:
                total.values.append(_purge(large))
            wait.values.append(longest() * 1000)
            if large == LARGE:
                exchange.values.append(max(seconds))
    return harness.show(
        f"Purge a day of {ATTEMPTS:,} attempts of {ATTEMPTS // EACH:,} deliveries",
        [whole, rows, exchange, *waits],
        [
            Goal("in all, s", whole.median, 30, at_most=True),
            Goal("longest wait, ms", max(waits[0].values), 500, at_most=True),
            Goal("row by row / with its partition", ratio(rows, whole)),
        ],
        digits=2,
    )


def _fill(receiver: Receiver) -> None:
    harness.empty_tables()
    owner = harness.make_owners(1)[0]
    webhook = harness.make_webhooks([owner], receiver.url)[0]
    harness.make_partitions(DAY, DAY)
    with connection.cursor() as cursor:
        for start in range(0, ATTEMPTS // EACH, 10_000):
            cursor.execute(
                DAY_SQL,
                {
                    "since": int(DAY.timestamp()),
                    "from": start,
                    "to": min(start + 10_000, ATTEMPTS // EACH) - 1,
                    "each": EACH,
                    "kept": KEPT,
                    "owner": owner.id,
                    "webhook": webhook.id,
                },
            )
    harness.settle_down()


def _purge(large: int) -> float:
    """Purge all that is old; return the seconds that it took."""
    partitions.LARGE = large
    started_at = time.monotonic()
    for _ in purge(Policy(harness.now() - timedelta(days=7)), share=1.0):
        pass
    seconds = time.monotonic() - started_at
    left = Attempt.objects.filter(delivery_id__lt=first_id_of(DAY + timedelta(days=1))).count()
    assert left == KEPT * EACH, left
    return seconds


@contextmanager
def _timing(part: str) -> Iterator[list[float]]:
    """Note the seconds of each statement that has this part."""
    seconds: list[float] = []

    def time_it(execute: Callable[..., Any], sql: str, *arguments: Any) -> Any:
        started_at = time.monotonic()
        try:
            return execute(sql, *arguments)
        finally:
            if part in sql:
                seconds.append(time.monotonic() - started_at)

    with connection.execute_wrapper(time_it):
        yield seconds


@contextmanager
def _inserting() -> Iterator[Callable[[], float]]:
    """Insert attempts of today one after another; the longest one's seconds are there at the end."""
    longest, is_over = 0.0, threading.Event()
    first = first_id_of(harness.now()).int

    def insert() -> None:
        nonlocal longest
        number = 0
        while not is_over.wait(0.002):
            number += 1
            started_at = time.monotonic()
            Attempt.objects.create(
                delivery_id=UUID(int=first + number), number=1, started_at=harness.now(),
                duration_ms=1, url="", request_head="",
            )  # fmt: skip
            longest = max(longest, time.monotonic() - started_at)
        connection.close()

    thread = threading.Thread(target=insert)
    thread.start()
    try:
        yield lambda: longest
    finally:
        is_over.set()
        thread.join()
