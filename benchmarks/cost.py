"""What an event, a delivery and a connection cost: the figures behind docs/scaling.md."""

import time
from typing import Any

import psutil
from django.db import connection

from benchmarks import harness
from benchmarks.harness import Series
from benchmarks.receiver import Receiver

DELIVERIES = 20_000
OWNERS = 50
"""Each with one webhook, so that every event has one delivery."""
TABLES = ("webhooks_event", "webhooks_delivery", "webhooks_attempt")
SETTLING_SECONDS = 3

WAL_SQL = "SELECT pg_current_wal_insert_lsn() - '0/0'"
SIZES_SQL = "SELECT sum(pg_total_relation_size(name::regclass)) FROM unnest(%s::text[]) AS name"
BACKENDS_SQL = """
SELECT pid FROM pg_stat_activity
 WHERE backend_type = 'client backend' AND datname = current_database() AND pid <> pg_backend_pid()
"""


def run(receiver: Receiver, rounds: int) -> dict[str, Any]:
    series = {
        name: Series(name, unit)
        for name, unit in (
            ("deliveries per second, one worker", "/s"),
            ("a delivery: worker", "µs CPU"),
            ("a delivery: Postgres", "µs CPU"),
            ("an event stored in batches: producer", "µs CPU"),
            ("an event stored in batches: Postgres", "µs CPU"),
            ("an event stored: log", "bytes"),
            ("a delivery sent: log", "bytes"),
            ("an event with one delivery and one attempt: tables and indexes", "bytes"),
            ("an idle worker: connections", ""),
            ("a worker's connection: Postgres' own memory", "MB"),
        )
    }
    for _ in range(rounds):
        for one, value in zip(series.values(), _measure(receiver), strict=True):
            one.values.append(value)
    return harness.show(
        f"What {DELIVERIES:,} events with one delivery each cost",
        list(series.values()),
        [],
        digits=2,
    )


def _measure(receiver: Receiver) -> list[float]:
    harness.empty_tables()
    owners = harness.make_owners(OWNERS)
    harness.make_webhooks(owners, receiver.url)
    backend = psutil.Process(_ask("SELECT pg_backend_pid()"))
    log_at, own, server = _ask(WAL_SQL), time.process_time(), _used(backend)
    harness.trigger_messages(owners, DELIVERIES)
    own, server = time.process_time() - own, _used(backend) - server
    stored = _ask(WAL_SQL) - log_at
    with harness.draining(1) as drain:
        log_at = _ask(WAL_SQL)
        ended_at = harness.wait_for_deliveries(120)
        sending, others, postgres = drain.used.seconds().values()
        seconds = ended_at - drain.started_at
        sent = _ask(WAL_SQL) - log_at
        time.sleep(SETTLING_SECONDS)
        with connection.cursor() as cursor:
            cursor.execute(BACKENDS_SQL)
            memory = [psutil.Process(pid).memory_full_info().uss for (pid,) in cursor.fetchall()]
    harness.settle_down()
    sizes = _ask(SIZES_SQL, [list(TABLES)])
    each = 1e6 / DELIVERIES
    return [
        DELIVERIES / seconds,
        (sending + others) * each,
        postgres * each,
        own * each,
        server * each,
        float(stored) / DELIVERIES,
        float(sent) / DELIVERIES,
        float(sizes) / DELIVERIES,
        len(memory),
        sum(memory) / len(memory) / 2**20,
    ]


def _ask(sql: str, parameters: list[Any] | None = None) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetchone()[0]


def _used(process: psutil.Process) -> float:
    return sum(process.cpu_times()[:2])
