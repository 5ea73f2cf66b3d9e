"""The doctor's checks of Postgres and Valkey."""

import time
from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.db import DatabaseError, InterfaceError, OperationalError, connection
from django.db.migrations.executor import MigrationExecutor
from redis.exceptions import RedisError

from webhooks.outbox import wakeup
from webhooks.postgres.sql import is_pooled, limited_transaction, query
from webhooks.repair.findings import Finding, failure, ok, warning

OLDEST_POSTGRES = 150_000
SLOW_DATABASE_MS = 20
SLOW_VALKEY_MS = 20
SKEW_SECONDS = 2.0
"""Ids and `created` use this machine's clock, all else the database's, so they must agree."""

FACTS = ["server_version", "server_version_num", "fsync", "full_page_writes", "synchronous_commit"]

CLOCK_SQL = "SELECT extract(epoch FROM clock_timestamp())::float8"


def check_database() -> Iterator[Finding]:
    """Check that Postgres is reachable, fast, new enough and durable."""
    try:
        connection.ensure_connection()
    except DatabaseError as problem:
        yield failure(
            "database",
            f"Postgres is unavailable: {_first_line(problem)}",
            "Start Postgres, or correct DATABASE_URL",
        )
        return
    started_at = time.monotonic()
    facts = dict(query("SELECT name, setting FROM pg_settings WHERE name = ANY(%s)", [FACTS]))
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
    message = f"Postgres {facts['server_version']} responds in {milliseconds:.0f} ms."
    if milliseconds > SLOW_DATABASE_MS:
        yield warning("database", message, "Reduce Postgres's load, or move the workers closer")
    else:
        yield ok("database", message)
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
            f"The connection pooler allows no transactions: {_first_line(problem)}",
            "Set pool_mode=transaction in the pooler, or set DATABASE_URL to Postgres itself",
        )
    return warning(
        "database",
        "DATABASE_URL leads to a connection pooler: statements cannot be prepared, and workers"
        " wait for locks without a limit.",
        "Set DATABASE_URL of the workers to Postgres itself",
    )


def check_migrations() -> Iterator[Finding]:
    """Check that all migrations are applied."""
    if names := missing_migrations():
        yield failure("migrations", f"Not applied: {', '.join(names)}.", "manage.py migrate")
    else:
        yield ok("migrations", "All migrations are applied.")


def missing_migrations() -> list[str]:
    """Return the migrations that are not applied, in their order, as `app.name`."""
    executor = MigrationExecutor(connection)
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    return [f"{migration.app_label}.{migration.name}" for migration, _ in plan]


def check_clock() -> Iterator[Finding]:
    """Check that this machine's clock agrees with the database's."""
    before = time.time()
    database_time = query(CLOCK_SQL)[0][0]
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
    """Check that Valkey is reachable, fast, standalone and without eviction, and its queue short."""
    try:
        client = wakeup.connect(2.0)
        client.ping()
        started_at = time.monotonic()
        client.ping()
        milliseconds = (time.monotonic() - started_at) * 1000
        server: Any = client.info("server")
        # Redis and Valkey use different names.
        mode = server.get("redis_mode") or server.get("server_mode") or "standalone"
        if mode != "standalone":
            yield failure(
                "valkey",
                f"REDIS_URL leads to a server in {mode} mode: jobs cannot be queued there.",
                "Set REDIS_URL to a standalone Valkey or Redis (with Sentinel: to the primary)",
            )
            return
        waiting = wakeup.make_queue(client).count
        memory: Any = client.info("memory")
    except RedisError as problem:
        yield warning(
            "valkey",
            f"Valkey is unavailable ({type(problem).__name__}): events are sent up to a second "
            "later.",
            "Start Valkey, or correct REDIS_URL",
        )
        return
    # Some servers with Redis's protocol do not report their policy.
    policy = memory.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        yield warning(
            "valkey",
            f"Valkey evicts keys, including jobs, when its memory is full ({policy}).",
            "valkey-cli CONFIG SET maxmemory-policy noeviction (and in valkey.conf)",
        )
    if waiting >= wakeup.MAX_QUEUE_LENGTH:
        yield warning(
            "valkey",
            f"The queue {settings.WEBHOOKS_QUEUE!r} has {waiting:,} jobs: no worker takes them.",
            "manage.py rqworker",
        )
    message = f"Valkey responds in {milliseconds:.0f} ms."
    if milliseconds > SLOW_VALKEY_MS:
        yield warning("valkey", message, "Look for slow commands: valkey-cli SLOWLOG GET")
    else:
        yield ok("valkey", message)


def _first_line(problem: Exception) -> str:
    return (str(problem).strip() or type(problem).__name__).splitlines()[0]
