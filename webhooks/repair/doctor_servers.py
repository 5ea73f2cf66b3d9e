"""The doctor's checks of Postgres, its clock and migrations, and whether to check Valkey."""

import time
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec

from django.conf import settings
from django.db import DatabaseError, InterfaceError, OperationalError, connection
from django.db.migrations.executor import MigrationExecutor

from webhooks.postgres.sql import is_pooled, limited_transaction, query
from webhooks.repair.findings import Finding, failure, ok, warning

OLDEST_POSTGRES = 150_000
SLOW_DATABASE_MS = 20
SKEW_SECONDS = 2.0
"""Ids and `created` use this machine's clock, all else the database's, so they must agree."""

FACTS = [
    "server_version", "server_version_num", "fsync", "full_page_writes", "synchronous_commit",
    "tcp_keepalives_idle",
]  # fmt: skip
MOST_IDLE_SECONDS = 60
"""How long Postgres may trust a silent connection: its open transaction keeps ordered webhooks waiting."""

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
    if int(facts["tcp_keepalives_idle"]) > MOST_IDLE_SECONDS:
        yield warning(
            "database",
            "Postgres notices only after hours that a host has vanished; until then its open "
            "transactions keep ordered webhooks waiting.",
            "psql --set role=… --file deploy/grants.sql, which sets tcp_keepalives_idle for the role",
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
    """Check Valkey (webhooks/repair/doctor_valkey.py) where its client is installed."""
    if settings.WEBHOOKS_WAKEUP != "rq" and not (settings.REDIS_URL and find_spec("redis")):
        yield ok("valkey", "Valkey is not used.")
    else:
        # By name: without the package redis this module must load all the same.
        yield from import_module("webhooks.repair.doctor_valkey").check_valkey()


def _first_line(problem: Exception) -> str:
    return (str(problem).strip() or type(problem).__name__).splitlines()[0]
