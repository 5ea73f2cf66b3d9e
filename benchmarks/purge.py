"""Purge a history of a million deliveries while a worker drains, beside the drain alone."""

import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import connection

from benchmarks import harness
from benchmarks.harness import Goal, Series, ratio
from benchmarks.receiver import Receiver
from config.embedded import die_with_parent
from config.services import BASE_DIR
from webhooks.models import Delivery, Webhook

HISTORY = 1_000_000
SINCE = 1_700_000_000
DELIVERIES = 30_000
OWNERS = 50

# One event, delivery and attempt each, all ended forty days ago. The random part of an id is taken
# from the row's number, so that the three of a row share it.
HISTORY_SQL = """
WITH numbered AS (
    SELECT n, to_timestamp(%(since)s + n / 1000.0) AS moment,
           (lpad(to_hex(((%(since)s + n / 1000.0) * 1000)::bigint), 12, '0') || '7000'
            || lpad(to_hex((x'8000000000000000'::bit(64)::bigint + n)), 16, '0'))::uuid AS id,
           webhooks[1 + n %% cardinality(webhooks)] AS webhook_id,
           owners[1 + n %% cardinality(owners)] AS owner_id
      FROM generate_series(%(from)s::int, %(to)s::int) AS n,
           (SELECT %(webhooks)s::uuid[] AS webhooks, %(owners)s::uuid[] AS owners) AS all_of_them
), events AS (
    INSERT INTO webhooks_event (id, type, owner_id, payload, fanout_count, object_reference,
                                created_at)
    SELECT id, 'session.message', owner_id, convert_to(repeat('x', 500), 'UTF8'), 1, '', moment
      FROM numbered
), attempts AS (
    INSERT INTO webhooks_attempt (id, delivery_id, number, started_at, duration_ms, url,
                                  request_head, response_code, response_head, response_body,
                                  is_truncated, failure_kind, error)
    SELECT id, id, 1, moment, 5, 'http://127.0.0.1/', repeat('h', 600), 200,
           convert_to(repeat('r', 200), 'UTF8'), 'ok', false, '', ''
      FROM numbered
)
INSERT INTO webhooks_delivery (id, event_id, webhook_id, owner_id, event_type, status,
                               attempt_count, round, attempts_before_round, is_suspect,
                               crash_count, failure_kind, error, response_code, next_attempt_at,
                               created_at, delivered_at, finished_at)
SELECT id, id, webhook_id, owner_id, 'session.message', 'SUCCESS', 1, 1, 0, false, 0, '', '', 200,
       NULL, moment, moment, moment
  FROM numbered
"""


def run(receiver: Receiver, rounds: int) -> dict[str, Any]:
    alone = Series("one worker, alone", "/s")
    beside = Series("one worker, beside the purge", "/s")
    purged = Series("purged meanwhile", "/s")
    longest = Series("longest batch", "ms")
    owners = _fill(receiver)
    for _ in range(rounds):
        alone.values.append(_drain(owners))
        with _purging() as figures:
            beside.values.append(_drain(owners))
        purged.values.append(figures["rate"])
        longest.values.append(figures["longest_ms"])
    return harness.show(
        f"Drain {DELIVERIES:,} while a history of {HISTORY:,} is purged",
        [alone, beside, purged, longest],
        [
            Goal("beside the purge / alone", ratio(beside, alone), 0.85),
            Goal("longest batch, ms", max(longest.values), 200, at_most=True, form="{:,.0f}"),
        ],
    )


def _fill(receiver: Receiver) -> list[Any]:
    harness.empty_tables()
    owners = harness.make_owners(OWNERS)
    webhooks = harness.make_webhooks(owners, receiver.url)
    store_history(webhooks, HISTORY)
    return owners


def store_history(webhooks: Sequence[Webhook], count: int) -> None:
    """Store `count` deliveries of these webhooks, each with its event and attempt, long ended."""
    since = datetime.fromtimestamp(SINCE, UTC)
    harness.make_partitions(since, since + timedelta(milliseconds=count))
    with connection.cursor() as cursor:
        for start in range(0, count, 100_000):
            cursor.execute(
                HISTORY_SQL,
                {
                    "since": SINCE,
                    "from": start,
                    "to": min(start + 100_000, count) - 1,
                    "webhooks": [webhook.id for webhook in webhooks],
                    "owners": [webhook.owner_id for webhook in webhooks],
                },
            )


def _drain(owners: list[Any]) -> float:
    harness.trigger_messages(owners, DELIVERIES)
    with harness.draining() as drain:
        ended_at = harness.wait_for_deliveries(120)
    return DELIVERIES / (ended_at - drain.started_at)


@contextmanager
def _purging() -> Iterator[dict[str, float]]:
    """Purge in a process of its own; the figures are there when the block has ended."""
    before = Delivery.objects.count()
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.purging"],
        cwd=BASE_DIR,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: die_with_parent(signal.SIGTERM),
    )
    figures: dict[str, float] = {}
    harness.wait_until(lambda: Delivery.objects.count() < before, 60, "the purge")
    try:
        yield figures
    finally:
        process.terminate()
        output, _ = process.communicate()
        figures["rate"], figures["longest_ms"] = map(float, output.split())
