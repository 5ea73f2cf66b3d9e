"""The doctor's checks of Postgres and Valkey."""

import time
from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.db import DatabaseError, InterfaceError, OperationalError, connection
from django.db.migrations.executor import MigrationExecutor
from redis.exceptions import RedisError

from webhooks.outbox import wakeup
from webhooks.postgres.sql import is_pooled, limited_transaction
from webhooks.repair.findings import Finding, failure, ok, warning

OLDEST_POSTGRES = 150_000
SLOW_DATABASE_MS = 20
SLOW_VALKEY_MS = 20


SKEW_SECONDS = 2.0
"""Ids and `created` carry this machine's time, everything else the database's."""

FACTS = ["server_version", "server_version_num", "fsync", "full_page_writes", "synchronous_commit"]

CLOCK_SQL = "SELECT extract(epoch FROM clock_timestamp())::float8"


def check_database() -> Iterator[Finding]:
    """Reachable, quick, new enough, durable."""
    try:
        connection.ensure_connection()
    except DatabaseError as problem:
        yield failure(
            "database",
            f"Postgres does not answer: {_first_line(problem)}",
            "Start Postgres, or set DATABASE_URL to where it runs",
        )
        return
    started_at = time.monotonic()
    facts = dict(_query("SELECT name, setting FROM pg_settings WHERE name = ANY(%s)", [FACTS]))
    milliseconds = (time.monotonic() - started_at) * 1000
    if int(facts["server_version_num"]) < OLDEST_POSTGRES:
        yield failure(
            "database",
            f"Postgres {facts['server_version']} is too old.",
            "Upgrade to Postgres 15 or newer",
        )
    for name in ("fsync", "full_page_writes", "synchronous_commit"):
        if facts[name] == "off":
            yield failure(
                "database",
                f"{name} is off: a crash of Postgres loses committed events.",
                f'manage.py dbshell -- -c "ALTER SYSTEM SET {name} = on" '
                '-c "SELECT pg_reload_conf()"',
            )
    answer = f"Postgres {facts['server_version']} answers in {milliseconds:.0f} ms."
    if milliseconds > SLOW_DATABASE_MS:
        yield warning("database", answer, "Look for load on Postgres, or move the workers near it")
    else:
        yield ok("database", answer)
    if is_pooled():
        yield _examine_pooler()


def _examine_pooler() -> Finding:
    try:
        with limited_transaction():
            pass
    except (OperationalError, InterfaceError) as problem:
        connection.close()
        return failure(
            "database",
            f"The pooler before Postgres allows no transactions: {_first_line(problem)}",
            "Set pool_mode=transaction in the pooler, or DATABASE_URL to Postgres itself",
        )
    return warning(
        "database",
        "A pooler stands before Postgres: statements are planned anew each time, and a worker's"
        " waits for locks have no limit.",
        "Set DATABASE_URL of the workers to Postgres itself",
    )


def check_migrations() -> Iterator[Finding]:
    """Every migration applied."""
    executor = MigrationExecutor(connection)
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    if plan:
        names = ", ".join(f"{migration.app_label}.{migration.name}" for migration, _ in plan)
        yield failure("migrations", f"Not applied: {names}.", "manage.py migrate")
    else:
        yield ok("migrations", "All migrations are applied.")


def check_clock() -> Iterator[Finding]:
    """This machine's clock agrees with the database's."""
    before = time.time()
    database_time = _query(CLOCK_SQL)[0][0]
    after = time.time()
    skew = max(before - database_time, database_time - after, 0.0)
    if skew > SKEW_SECONDS:
        side = "ahead of" if before > database_time else "behind"
        yield failure(
            "clock",
            f"This machine's clock is {skew:.1f} s {side} the database's.",
            "timedatectl set-ntp true (on both machines)",
        )
    else:
        yield ok("clock", "This machine's clock agrees with the database's.")


def check_valkey() -> Iterator[Finding]:
    """Reachable, quick, a single server that never evicts; its queue is being emptied."""
    try:
        client = wakeup.connect(2.0)
        client.ping()
        started_at = time.monotonic()
        client.ping()
        milliseconds = (time.monotonic() - started_at) * 1000
        server: Any = client.info("server")
        # What Redis calls it, and what Valkey does.
        mode = server.get("redis_mode") or server.get("server_mode") or "standalone"
        if mode != "standalone":
            yield failure(
                "valkey",
                f"REDIS_URL leads to a server in {mode} mode: jobs cannot be queued there.",
                "Set REDIS_URL to a single Valkey or Redis (of a Sentinel: to its master)",
            )
            return
        waiting = wakeup.make_queue(client).count
        memory: Any = client.info("memory")
    except RedisError as problem:
        yield warning(
            "valkey",
            f"Valkey does not answer ({type(problem).__name__}): events go out up to a second "
            "later.",
            "Start Valkey, or set REDIS_URL to where it runs",
        )
        return
    # Not every server that speaks the protocol names its policy.
    policy = memory.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        yield warning(
            "valkey",
            f"Valkey throws keys away when it is full ({policy}), jobs included.",
            "valkey-cli CONFIG SET maxmemory-policy noeviction (and in valkey.conf)",
        )
    if waiting >= wakeup.MAX_QUEUE_LENGTH:
        yield warning(
            "valkey",
            f"{waiting:,} jobs wait in the queue {settings.WEBHOOKS_QUEUE!r}: nobody takes them.",
            "manage.py rqworker",
        )
    answer = f"Valkey answers in {milliseconds:.0f} ms."
    if milliseconds > SLOW_VALKEY_MS:
        yield warning("valkey", answer, "Look for slow commands: valkey-cli SLOWLOG GET")
    else:
        yield ok("valkey", answer)


def _first_line(problem: Exception) -> str:
    return (str(problem).strip() or type(problem).__name__).splitlines()[0]


def _query(sql: str, parameters: Any = None) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return list(cursor.fetchall())
