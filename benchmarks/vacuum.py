"""Whether autovacuum keeps up: events at a steady rate by HTTP, each delivered, and what the tables become.

`python -m benchmarks vacuum --rate 300 --minutes 30`. At the end each table is compared with itself
after VACUUM FULL, which leaves what its fill factor asks for and nothing else. An index is larger than
a new one even without any dead row: a page that is full is split into halves (docs/deployment.md).
"""

import argparse
import re
import statistics
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import door, harness, orders, steady
from benchmarks.harness import Goal, Series
from benchmarks.processors import PartTimes
from benchmarks.receiver import Receiver
from benchmarks.web import running_web
from webhooks.models import Delivery

OWNERS = 50
CONNECTIONS = 8
WARM_UP_SECONDS = 3
MAX_BLOAT = 1.2
LARGE_BYTES = 2**20
"""Smaller tables and indexes are counted together."""
SAMPLED = 0.01
"""The share of statements that Postgres logs with their durations."""
KINDS = {
    "claims": re.compile(r"WITH recent AS MATERIALIZED \(\s+SELECT d\.id"),
    "settles": re.compile(r"\), settled AS "),
    "stores": re.compile(r"INSERT INTO webhooks_event"),
}
DURATION = re.compile(r"LOG:  duration: ([\d.]+) ms  execute [^:]*: (.*(?:\n\t.*)*)")

parser = argparse.ArgumentParser(prog="benchmarks vacuum")
parser.add_argument("--rate", type=float, default=300, help="Events per second (300).")
parser.add_argument("--minutes", type=int, default=5, help="How long (5).")
options = parser.parse_args([])

SIZES_SQL = """
SELECT c.relname, t.relname, pg_table_size(c.oid)
  FROM pg_class c
  LEFT JOIN pg_index i ON i.indexrelid = c.oid
  JOIN pg_class t ON t.oid = coalesce(i.indrelid, c.oid)
 WHERE c.relkind IN ('r', 'i') AND t.relname LIKE 'webhooks%'
"""
DEAD_SQL = """
SELECT relname, n_dead_tup, autovacuum_count FROM pg_stat_user_tables WHERE relname LIKE 'webhooks%'
"""


@dataclass
class Minute:
    """What one minute was like."""

    sent: list[tuple[str, float, float]]
    postgres_us: float
    """Processor time per event."""
    milliseconds: dict[str, float]
    """The median duration of each kind of statement."""
    dead: dict[str, int]
    """Dead rows of each table at its end."""


def run(receiver: Receiver, rounds: int) -> dict[str, Any]:
    with ExitStack() as stack:
        recorder = stack.enter_context(steady.recording())
        minutes = _deliver(stack, recorder)
        count = Delivery.objects.exclude(status="SUCCESS").count()
        assert count == 0, f"{count:,} deliveries did not succeed."
    return {"vacuum": _show_minutes(minutes, recorder.received), "bloat": _show_bloat()}


def _deliver(stack: ExitStack, recorder: steady.Recorder) -> list[Minute]:
    """Post minute after minute, each delivered before the next begins."""
    harness.empty_tables()
    caller, *owners = harness.make_owners(1 + OWNERS)
    harness.make_webhooks(owners, recorder.url)
    harness.execute("SELECT pg_stat_reset()")
    web = stack.enter_context(running_web())
    parts = {"web": [web.root], "worker": stack.enter_context(harness.running_workers(1))}
    client = stack.enter_context(orders.running("benchmarks.load"))
    names: list[str | None] = [str(owner.pk) for owner in owners]
    requests = door.requests("/api/v1/events", door.service_token(caller), names)
    order = {"port": web.port, "connections": CONNECTIONS, "requests": requests}
    client.do(**order, rate=options.rate, seconds=WARM_UP_SECONDS)
    stack.callback(_log_durations, 0)
    log = _log_durations(SAMPLED)
    minutes = []
    for _ in range(options.minutes):
        used, read_from = PartTimes(parts), log.stat().st_size
        report = client.do(**order, rate=options.rate, seconds=60)
        assert not report["failed"], report["failed"]
        harness.wait_until(_is_delivered, 300, "deliveries")
        with log.open("rb") as lines:
            lines.seek(read_from)
            text = lines.read().decode(errors="replace")
        postgres = used.seconds()["Postgres"] / len(report["sent"]) * 1e6
        dead = {name: rows for name, rows, _ in harness.execute(DEAD_SQL)}
        minutes.append(Minute(report["sent"], postgres, _durations(text), dead))
    return minutes


def _show_minutes(minutes: list[Minute], received: dict[str, float]) -> dict[str, Any]:
    """Show how the run began and how it ended."""
    part = max(1, len(minutes) // 6)
    series, goals = [], []
    ends = (("first", minutes[:part]), ("last", minutes[-part:]))
    for name, value in (
        ("Postgres, µs of processor per event", lambda m: m.postgres_us),
        *((f"{kind}, median ms", lambda m, kind=kind: m.milliseconds[kind]) for kind in KINDS),
        ("save to receipt, p50, ms", lambda m: _lateness(m, received, 0.5)),
        ("save to receipt, p99, ms", lambda m: _lateness(m, received, 0.99)),
    ):
        first, last = (Series(f"{name}, {when} {part}", "", [*map(value, of)]) for when, of in ends)
        series += [first, last]
        goals.append(Goal(f"{name}: last / first", last.median / first.median))
    for name in sorted(minutes[-1].dead):
        dead = [float(minute.dead.get(name, 0)) for minute in minutes]
        if max(dead) > options.rate:
            series.append(Series(f"{name}: dead rows", "", dead))
    return harness.show(
        f"{options.rate:g} events a second for {len(minutes)} minutes; the first and the last"
        f" {part} of them",
        series,
        goals,
        digits=2,
    )


def _show_bloat() -> dict[str, Any]:
    vacuums = {name: count for name, _, count in harness.execute(DEAD_SQL)}
    before = _sizes()
    tables = {table for _, table in before}
    for table in tables:
        harness.execute(f'VACUUM FULL "{table}"')
    after = _sizes()
    series, goals = [], []
    for table in sorted(tables):
        parts = [key for key in before if key[1] == table]
        was, now = (sum(sizes[key] for key in parts) for sizes in (before, after))
        if was >= LARGE_BYTES:
            heap = table, table
            goals += [
                Goal(f"{table}: rows", before[heap] / after[heap], MAX_BLOAT, at_most=True),
                Goal(f"{table}: rows and indexes", was / now),
            ]
            series.append(Series(f"{table}: vacuums", "", [vacuums.get(table, 0)]))
        for name, _ in parts:
            if before[name, table] >= LARGE_BYTES / 4:
                sizes = [before[name, table] / 2**20, after[name, table] / 2**20]
                series.append(Series(name, "MB", sizes))
    everything = sum(before.values()) / sum(after.values())
    goals.append(Goal("all rows and indexes", everything, MAX_BLOAT, at_most=True))
    return harness.show("Sizes, and after VACUUM FULL (the lower)", series, goals, digits=2)


def _sizes() -> dict[tuple[str, str], int]:
    """Return the bytes of each table with its large values, and of each index, with its table."""
    return {(name, table): size for name, table, size in harness.execute(SIZES_SQL)}


def _lateness(minute: Minute, received: dict[str, float], share: float) -> float:
    """Return a percentile of the milliseconds from the planned time of an event to its receipt."""
    return steady.percentile(
        sorted(1000 * (received[name] - at) for name, at, _ in minute.sent), share
    )


def _is_delivered() -> bool:
    return not Delivery.objects.filter(finished_at=None).exists()


def _durations(text: str) -> dict[str, float]:
    """Return the median duration of each kind of statement in a piece of the server's log."""
    found = defaultdict(list)
    for duration, statement in DURATION.findall(text):
        for kind, pattern in KINDS.items():
            if pattern.search(statement):
                found[kind].append(float(duration))
                break
    return {kind: statistics.median(found[kind] or [float("nan")]) for kind in KINDS}


def _log_durations(share: float) -> Path:
    """Have Postgres log the durations of a share of statements; returns its log."""
    for name, value in (
        ("log_min_duration_sample", "0" if share else "-1"),
        ("log_statement_sample_rate", str(share)),
        ("log_parameter_max_length", "0"),
    ):
        harness.execute(f"ALTER SYSTEM SET {name} = '{value}'")
    harness.execute("SELECT pg_reload_conf()")
    ((directory,),) = harness.execute("SHOW data_directory")
    return Path(directory).parent / "postgres.log"
