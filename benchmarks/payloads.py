"""What payloads in daily partitions of their own would cost and save: a prototype beside the schema as it is.

The prototype changes the texts of the statements and nothing else (docs/architecture.md, Decisions).
"""

import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from benchmarks import harness, steady
from benchmarks.harness import Goal, Series, ratio
from benchmarks.receiver import Receiver
from webhooks.dispatch import life, quick, take
from webhooks.dispatch.claim import ClaimOrder, claim_due
from webhooks.dispatch.endpoints import Endpoints
from webhooks.ids import first_id_of, new_id
from webhooks.outbox import store
from webhooks.outbox.event_data import encode
from webhooks.postgres.sql import PLANNER_SQL
from webhooks.postgres.sql import run as run_sql

DAYS = (9, 98)
"""The partitions: a week ahead and a day or 90 days back."""
ONES = 200
BATCH = 300
ROUNDS = 8
SIZES = {300: 50_000, 2_000: 50_000, 20_000: 10_000}
"""Events of a purged day by the bytes of their payloads."""

OF_EVENT = "JOIN webhooks_event e ON e.id = c.event_id"
WHOLE = {
    (store, "STORE_SQL"): store.STORE_SQL,
    (quick, "QUICK_SQL"): quick.QUICK_SQL,
    (take, "CLAIM_SQL"): take.CLAIM_SQL,
}
PAYLOAD = "convert_to(e.payload, 'UTF8')"
STORE_SQL = store.STORE_SQL.replace(PAYLOAD, "''::bytea").replace(
    "), new_delivery AS (",
    f"""), new_payload AS (
    INSERT INTO bench_payload (event_id, payload)
    SELECT e.id, {PAYLOAD} FROM event e JOIN new_event ON new_event.id = e.id
), new_delivery AS (""",  # noqa: S608 (constants only)
)
JOINED = {
    key: sql.replace(
        OF_EVENT, f"{OF_EVENT} JOIN bench_payload p ON p.event_id = c.event_id"
    ).replace("e.payload", "p.payload")
    for key, sql in WHOLE.items()
} | {(store, "STORE_SQL"): STORE_SQL}
APART = WHOLE | {(store, "STORE_SQL"): STORE_SQL}
READ_SQL = "SELECT event_id, payload FROM bench_payload WHERE event_id = ANY(%(ids)s)"

# Half of it is the same everywhere, as keys and words are.
TEXT_SQL = """
convert_to((SELECT string_agg('"name": "value", "at": "2026-01-01",' || md5(n::text || part), '')
              FROM generate_series(1, %(size)s / 68 + 1) AS part), 'UTF8')
"""


def run(receiver: Receiver, rounds: int) -> dict[str, Any]:
    return {
        **{f"hot {days}": _hot(receiver, days) for days in DAYS},
        **{f"purge {size}": _purge(size, count, rounds) for size, count in SIZES.items()},
    }


# The statements that every event pays for.


def _hot(receiver: Receiver, days: int) -> dict[str, Any]:
    harness.empty_tables()
    owner = harness.make_owners(1)[0]
    harness.make_webhooks([owner], receiver.url)
    _make_payloads(days)
    worker = new_id()
    life.register_worker(worker)
    harness.execute(PLANNER_SQL + "; SET synchronous_commit = off")
    kinds = {
        "as it is": (WHOLE, False), "joined": (JOINED, False), "read apart": (APART, True),
    }  # fmt: skip
    names = ("store of one", "quick claim of one", f"store of {BATCH}", f"claim of {BATCH}")
    series = {(name, kind): Series(f"{name}, {kind}", "µs", []) for name in names for kind in kinds}
    for number in range(ROUNDS + 1):
        for kind, (statements, reads) in kinds.items():
            for (module, name), sql in statements.items():
                setattr(module, name, sql)
            values = _round(owner.pk, worker, reads=reads)
            for name, value in zip(names, values, strict=True):
                # The first one prepares statements.
                series[name, kind].values += [value] * bool(number)
    for (module, name), sql in WHOLE.items():
        setattr(module, name, sql)
    harness.execute("RESET ALL; DROP TABLE bench_payload")
    return harness.show(
        f"Payloads in one of {days} daily partitions (10th percentiles)",
        list(series.values()),
        [
            Goal(f"{name}: {kind} / as it is", ratio(series[name, kind], series[name, "as it is"]))
            for name in names
            for kind in ("joined", "read apart")
        ],
        digits=1,
    )


def _round(owner_id: Any, worker: UUID, *, reads: bool) -> tuple[float, ...]:
    endpoints = Endpoints()
    stores, claims = [], []
    for _ in range(ONES):
        stores.append(_time(lambda: _store(owner_id, 1))[0])
        seconds, taken = _time(lambda: _quick(worker, endpoints, reads))
        claims.append(seconds)
        _settle(worker, taken)
    stored, _ = _time(lambda: _store(owner_id, BATCH))
    claimed, taken = _time(lambda: _claim(worker, endpoints, reads))
    _settle(worker, taken)
    ones = (1e6 * steady.percentile(sorted(times), 0.1) for times in (stores, claims))
    return (*ones, 1e6 * stored, 1e6 * claimed)


def _store(owner_id: Any, count: int) -> None:
    data = encode(harness.message()).text
    store.store_events([store.build_event("session.message", owner_id, data) for _ in range(count)])


def _quick(worker: UUID, endpoints: Endpoints, reads: bool) -> Sequence[Any]:
    taken, _ = quick.take_recent(worker, 32, endpoints, rooms={}, back_seconds=2.0)
    return _with_payloads(taken.deliveries, 1, reads)


def _claim(worker: UUID, endpoints: Endpoints, reads: bool) -> Sequence[Any]:
    claim = claim_due(ClaimOrder(worker, BATCH, [], lambda _, most: most), endpoints)
    return _with_payloads(claim.taken.deliveries, BATCH, reads)


def _with_payloads(taken: Sequence[Any], count: int, reads: bool) -> Sequence[Any]:
    assert len(taken) == count, len(taken)
    payloads = [one.payload for one in taken]
    if reads:
        payloads = [row[1] for row in run_sql(READ_SQL, {"ids": [one.event_id for one in taken]})]
    assert len(payloads) == count
    assert all(payloads)
    return taken


def _settle(worker: UUID, taken: Sequence[Any]) -> None:
    sql = """
    UPDATE webhooks_delivery SET status = 'SUCCESS', finished_at = now(), next_attempt_at = NULL,
           claimed_by = NULL WHERE id = ANY(%s)
    """
    harness.execute(sql, [[one.id for one in taken]])


def _make_payloads(days: int) -> None:
    harness.execute("DROP TABLE IF EXISTS bench_payload")
    harness.execute(
        "CREATE TABLE bench_payload (event_id uuid NOT NULL PRIMARY KEY, payload bytea NOT NULL)"
        " PARTITION BY RANGE (event_id)"
    )
    today = harness.now().replace(hour=0, minute=0, second=0, microsecond=0)
    for number in range(days):
        start = today + timedelta(days=8 - days + number)
        first, end = first_id_of(start), first_id_of(start + timedelta(days=1))
        harness.execute(
            f"CREATE TABLE bench_payload_{number} PARTITION OF bench_payload"
            f" FOR VALUES FROM ('{first}') TO ('{end}')"
        )


# The purge of a day.


def _purge(size: int, count: int, rounds: int) -> dict[str, Any]:
    series = {
        (what, kind): Series(f"{what}, {kind}", unit)
        for what, unit in (
            ("store: log", "bytes"), ("purge and vacuum", "µs"), ("purge and vacuum: log", "bytes"),
        )
        for kind in ("as it is", "partition")
    }  # fmt: skip
    for _ in range(rounds):
        for kind in ("as it is", "partition"):
            stored, seconds, log = _purged(size, count, is_apart=kind == "partition")
            series["store: log", kind].values.append(stored / count)
            series["purge and vacuum", kind].values.append(seconds / count * 1e6)
            series["purge and vacuum: log", kind].values.append(log / count)
    return harness.show(
        f"Purge a day of {count:,} events of {size:,} bytes; for each event",
        list(series.values()),
        [
            Goal(
                f"{what}: partition / as it is",
                ratio(series[what, "partition"], series[what, "as it is"]),
            )
            for what in ("store: log", "purge and vacuum", "purge and vacuum: log")
        ],
        digits=1,
    )


def _purged(size: int, count: int, *, is_apart: bool) -> tuple[int, float, int]:
    """Store and purge a day; return the bytes of the log for storing, seconds, and bytes for the purge."""
    harness.execute("DROP TABLE IF EXISTS bench_event, bench_day")
    harness.execute("CREATE TABLE bench_event (LIKE webhooks_event INCLUDING ALL)")
    harness.execute("CREATE TABLE bench_day (event_id uuid PRIMARY KEY, payload bytea NOT NULL)")
    harness.execute("ALTER TABLE bench_event SET (autovacuum_enabled = off)")
    log_at = _log()
    harness.execute(
        f"""
        WITH made AS (
            SELECT gen_random_uuid() AS id, {TEXT_SQL} AS payload
              FROM generate_series(1, %(count)s) AS n ORDER BY 1
        ), days AS (
            INSERT INTO bench_day SELECT id, payload FROM made WHERE %(is_apart)s
        )
        INSERT INTO bench_event (id, type, owner_id, payload, object_reference, fanout_count)
        SELECT id, 'session.message', id, CASE WHEN %(is_apart)s THEN '' ELSE payload END, '', 1
          FROM made
        """,  # noqa: S608 (constants only)
        {"size": size, "count": count, "is_apart": is_apart},
    )
    stored = _log() - log_at
    harness.execute("VACUUM bench_event")
    # After a checkpoint a page's first change is logged as a whole page: days old ones are cold.
    harness.execute("CHECKPOINT")
    log_at = _log()

    def purge() -> None:
        harness.execute("DELETE FROM bench_event")
        harness.execute("DROP TABLE bench_day")
        harness.execute("VACUUM (TRUNCATE off) bench_event")

    seconds, _ = _time(purge)
    log = _log() - log_at
    harness.execute("DROP TABLE bench_event")
    return stored, seconds, log


def _time(action: Callable[[], Any]) -> tuple[float, Any]:
    started_at = time.perf_counter()
    result = action()
    return time.perf_counter() - started_at, result


def _log() -> int:
    return int(harness.execute("SELECT pg_current_wal_insert_lsn() - '0/0'")[0][0])
