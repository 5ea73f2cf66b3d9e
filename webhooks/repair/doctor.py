"""The doctor: is everything here that delivering needs, and is nothing wrong?

Each check looks at one thing and returns findings: what is so, how bad it is, and the command that
mends it. A check that cannot look is a failure itself; it never hides the others. Nothing is
changed here but by integrity.mend().
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import IntEnum
from typing import Any

from django.conf import settings
from django.db import DatabaseError, InterfaceError, OperationalError, connection
from django.db.migrations.executor import MigrationExecutor
from django.utils import timezone
from redis.exceptions import RedisError

from webhooks.figures import stats
from webhooks.models import Pause, Redelivery, Webhook
from webhooks.models.encryption import headers_of_known_keys
from webhooks.outbox import wakeup
from webhooks.postgres import horizon
from webhooks.postgres.sql import is_pooled, limited_transaction
from webhooks.repair import housekeeping, integrity, reencryption
from webhooks.repair.integrity import Question

OLDEST_POSTGRES = 150_000
SLOW_DATABASE_MS = 20
SLOW_VALKEY_MS = 20
OLD_BACKLOG_SECONDS = 60
VERY_OLD_BACKLOG_SECONDS = 600
SKEW_SECONDS = 2.0
"""Ids and `created` carry this machine's time, everything else the database's."""
MANY_FAILURES = 3
"""Turns of a chore that failed one after the other; fewer may be a passing trouble."""
LATELY = timedelta(days=7)
"""How long a mail or a redelivery that was given up is spoken of."""
IDS_SHOWN = 20
"""How many ids of one kind a finding carries; integrity.find_faults() has all."""


class Level(IntEnum):
    """How bad a finding is."""

    OK = 0
    WARNING = 1
    FAILURE = 2


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    check: str
    level: Level
    message: str
    mend: str = ""
    """The command, or else the step, that mends it; empty where nothing is to be done."""
    count: int = 0
    """Of rows concerned."""
    ids: list[str] = field(default_factory=list)
    """Public ids of the first of them."""


Check = Callable[[], Iterator[Finding]]


def examine(checks: Sequence[Check] | None = None) -> Iterator[Finding]:
    """Run the checks in order and yield what each finds as soon as it is known.

    Without a database only those that need none.
    """
    for check in CHECKS if checks is None else checks:
        name = check.__name__.removeprefix("check_")
        if connection.connection is None and check not in WITHOUT_DATABASE:
            continue
        try:
            yield from check()
        except DatabaseError as problem:
            yield Finding(
                name,
                Level.FAILURE,
                f"Could not look: {_first_line(problem)}",
                "Mend the database or its migrations first, then look again",
            )


def ok(check: str, message: str) -> Finding:
    return Finding(check, Level.OK, message)


def warning(check: str, message: str, mend: str, **rows: Any) -> Finding:
    return Finding(check, Level.WARNING, message, mend, **rows)


def failure(check: str, message: str, mend: str, **rows: Any) -> Finding:
    return Finding(check, Level.FAILURE, message, mend, **rows)


# Postgres.


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


FACTS = ["server_version", "server_version_num", "fsync", "full_page_writes", "synchronous_commit"]


def check_migrations() -> Iterator[Finding]:
    """Every migration applied."""
    executor = MigrationExecutor(connection)
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    if plan:
        names = ", ".join(f"{migration.app_label}.{migration.name}" for migration, _ in plan)
        yield failure("migrations", f"Not applied: {names}.", "manage.py migrate")
    else:
        yield ok("migrations", "All migrations are applied.")


CLOCK_SQL = "SELECT extract(epoch FROM clock_timestamp())::float8"


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


EPOCH_SQL = """
SELECT webhooks_examine_epoch(), coalesce(max(number), 0), webhooks_cluster() FROM webhooks_epoch
"""


def check_order() -> Iterator[Finding]:
    """Nobody holds back what is read in order; this server can be told from others."""
    current, recorded, cluster = _query(EPOCH_SQL)[0]
    held = horizon.holder()
    if held:
        level = failure if held.seconds > VERY_OLD_BACKLOG_SECONDS else warning
        yield level("order", str(held), held.mend)
    if "?" in cluster:
        yield warning(
            "order",
            "Postgres does not say which server this is: after a restore, cursors of the feed may "
            "skip events.",
            "GRANT EXECUTE ON FUNCTION pg_control_system(), pg_current_wal_lsn(), "
            "pg_walfile_name(pg_lsn) TO the owner of the function webhooks_cluster()",
        )
    elif not held and current > recorded > 0:
        yield ok(
            "order", "Events of another server are stored here; they go before all later ones."
        )
    elif not held:
        yield ok("order", "Events are in order with the transactions of this server.")


# Valkey.


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


# Workers and what they have to do.


def check_workers() -> Iterator[Finding]:
    """At least one lives; none has died."""
    lives = stats.workers()
    for one in lives:
        if not one.is_alive:
            yield failure(
                "workers",
                f"Worker {one.host}:{one.pid} has been silent for {one.silent_seconds:.0f} s.",
                "manage.py rqworker",
                count=1,
                ids=[str(one.id)],
            )
    alive = sum(one.is_alive for one in lives)
    if alive:
        yield ok("workers", f"{alive} {'worker is' if alive == 1 else 'workers are'} alive.")
    elif not lives:
        yield failure("workers", "No worker runs: nothing is delivered.", "manage.py rqworker")


def check_backlog() -> Iterator[Finding]:
    """What could go has not been due for long; sending is not paused."""
    backlog = stats.backlog()
    for pause in Pause.objects.all():
        yield warning(
            "backlog",
            f"All sending is paused since {pause.created_at:%Y-%m-%d %H:%M} UTC"
            + (f": {pause.reason}" if pause.reason else "."),
            "manage.py pause --end",
        )
    seconds = backlog.oldest_due_seconds or 0.0
    what = f"Deliveries due: {backlog.due:,}, the oldest for {seconds:.0f} s."
    if seconds > OLD_BACKLOG_SECONDS:
        level = failure if seconds > VERY_OLD_BACKLOG_SECONDS else warning
        yield level("backlog", what, "manage.py rqworker-pool --num-workers 4", count=backlog.due)
    else:
        yield ok("backlog", what if backlog.due else "Nothing is due.")


def check_chores() -> Iterator[Finding]:
    """Every chore of housekeeping comes round and ends well; nothing of it was given up lately."""
    found = [*_troubled_chores(), *_given_up()]
    yield from found
    if not found:
        yield ok("chores", "Housekeeping does its chores.")


def _troubled_chores() -> Iterator[Finding]:
    is_anybody_there = any(worker.is_alive for worker in stats.workers())
    for chore in housekeeping.states():
        if chore.failures >= MANY_FAILURES:
            yield failure(
                "chores",
                f"The chore {chore.name!r} failed {chore.failures:,} times in a row: "
                f"{chore.last_error}",
                MENDS.get(chore.name, "Read the workers' logs"),
                count=chore.failures,
            )
        elif chore.is_overdue and is_anybody_there:
            yield warning(
                "chores",
                f"The chore {chore.name!r} has been due for {chore.due_seconds:.0f} s and nobody "
                "does it.",
                "Restart the workers",
            )


MENDS = {"mails": "Set EMAIL_URL=smtp://user:password@host:587 and restart the workers"}


def _given_up() -> Iterator[Finding]:
    since = timezone.now() - LATELY
    mails = Webhook.objects.filter(
        disabled_at__gte=since, active=False, notice_due_at=None, deleted_at=None
    ).exclude(notice_error="")
    if count := mails.count():
        shown = list(mails.order_by("-disabled_at")[:IDS_SHOWN])
        yield warning(
            "chores",
            f"Mails about disabled webhooks that were given up: {count:,}, the last one because of: "
            f"{shown[0].notice_error}",
            "Tell the owners another way",
            count=count,
            ids=[webhook.public_id for webhook in shown],
        )
    failed = Redelivery.objects.filter(
        status=Redelivery.Status.FAILED, finished_at__gte=since, dismissed_at=None
    )
    if count := failed.count():
        last = list(failed.order_by("-id")[:IDS_SHOWN])
        yield warning(
            "chores",
            f"Redeliveries that could not be carried out: {count:,}, the last one because of: "
            f"{last[0].error}",
            "Ask for them anew, or dismiss them in the admin",
            count=count,
            ids=[redelivery.public_id for redelivery in last],
        )


# Keys and settings.


def check_encryption() -> Iterator[Finding]:
    """Every stored value can be read with a key that is set, and none needs a former key."""
    is_good = True
    for column in reencryption.COLUMNS:
        unreadable = column.with_header().exclude(header__in=headers_of_known_keys())
        if count := unreadable.count():
            is_good = False
            yield failure(
                "encryption",
                f"{column.noun.capitalize()} that no key in WEBHOOKS_ENCRYPTION_KEYS decrypts: "
                f"{count:,}.",
                "Put their key behind the first one and restart, then manage.py reencrypt",
                count=count,
                ids=list(
                    map(str, unreadable.order_by("id").values_list("id", flat=True)[:IDS_SHOWN])
                ),
            )
        elif count := column.outdated().count():
            is_good = False
            yield warning(
                "encryption",
                f"{column.noun.capitalize()} that still need a former key: {count:,}.",
                "manage.py reencrypt",
                count=count,
            )
    if is_good:
        yield ok("encryption", "All stored values can be decrypted with the first key.")


def check_settings() -> Iterator[Finding]:
    """No setting that is for development only, outside development."""
    found = list(_harmful_settings())
    yield from found
    if not found:
        yield ok("settings", "No setting hurts.")


def _harmful_settings() -> Iterator[Finding]:
    if settings.DEBUG:
        return
    open_networks = [
        str(network)
        for network in settings.WEBHOOKS_ALLOWED_NETWORKS
        if network.is_loopback or network.is_link_local or network.prefixlen == 0
    ]
    if open_networks:
        yield failure(
            "settings",
            f"Webhooks may reach {', '.join(open_networks)}: this machine, or everything.",
            "Take these networks out of WEBHOOKS_ALLOWED_NETWORKS and restart",
        )
    if not settings.WEBHOOKS_REQUIRE_HTTPS:
        yield warning(
            "settings",
            "Webhooks may have http:// URLs: payloads travel in the clear.",
            "Set WEBHOOKS_REQUIRE_HTTPS=1 and restart",
        )
    if not settings.WEBHOOKS_RETENTION_DAYS:
        yield warning(
            "settings",
            "Nothing is ever purged: the tables grow for ever.",
            "Set WEBHOOKS_RETENTION_DAYS=90 and restart the workers, or run manage.py purge",
        )
    if settings.EMAIL_BACKEND.endswith((".console.EmailBackend", ".dummy.EmailBackend")):
        yield warning(
            "settings",
            "Mails to owners of disabled webhooks go nowhere.",
            "Set EMAIL_URL=smtp://user:password@host:587 and restart",
        )
    embedded = [
        name
        for name, where in (
            ("Postgres", str(connection.settings_dict.get("HOST", ""))),
            ("Postgres", str(connection.settings_dict.get("OPTIONS", {}).get("host", ""))),
            ("Valkey", settings.REDIS_URL),
        )
        if _is_embedded(where)
    ]
    if embedded:
        yield failure(
            "settings",
            f"{' and '.join(embedded)} of the development environment in production.",
            "Set DATABASE_URL and REDIS_URL to servers of their own",
        )


def _is_embedded(where: str) -> bool:
    return str(settings.VAR_DIR) in where or "/remotedevai-" in where


# The rows.


def check_audit() -> Iterator[Finding]:
    """Nothing is lost, nothing is stuck: see webhooks/repair/integrity.py."""
    counts: Counter[Question] = Counter()
    ids: dict[Question, list[str]] = {}
    for fault in integrity.find_faults():
        counts[fault.question] += 1
        shown = ids.setdefault(fault.question, [])
        if len(shown) < IDS_SHOWN:
            shown.append(fault.id)
    for question in integrity.QUESTIONS:
        if counts[question]:
            yield failure(
                "audit",
                f"{question.what}: {counts[question]:,}.",
                question.mend.format(id=ids[question][0]),
                count=counts[question],
                ids=ids[question],
            )
    if not counts:
        yield ok("audit", "Every event has its deliveries, and every delivery is where it says.")


CHECKS: tuple[Check, ...] = (
    check_database,
    check_migrations,
    check_clock,
    check_valkey,
    check_workers,
    check_backlog,
    check_chores,
    check_order,
    check_encryption,
    check_settings,
    check_audit,
)
WITHOUT_DATABASE = (check_database, check_valkey, check_settings)
QUICK_CHECKS = tuple(check for check in CHECKS if check is not check_audit)


def _query(sql: str, parameters: Any = None) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return list(cursor.fetchall())


def _first_line(problem: Exception) -> str:
    return (str(problem).strip() or type(problem).__name__).splitlines()[0]
