"""The doctor: check the servers, the settings and the stored rows.

Each check yields findings: a message, its severity and the command that fixes the problem. A check
that cannot run yields a failure and does not prevent the others. No check changes anything;
integrity.mend() repairs rows.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress

from django.conf import settings
from django.db import DatabaseError, InterfaceError, connection

from webhooks.models.encryption import headers_of_known_keys
from webhooks.repair import integrity, reencryption
from webhooks.repair.doctor_servers import (
    _first_line,
    check_clock,
    check_database,
    check_migrations,
    check_valkey,
)
from webhooks.repair.doctor_work import (
    IDS_SHOWN,
    check_backlog,
    check_chores,
    check_order,
    check_partitions,
    check_versions,
    check_workers,
)
from webhooks.repair.failover import check_failover
from webhooks.repair.findings import Check, Finding, Level, failure, ok, warning
from webhooks.repair.integrity import Rule
from webhooks.wire.versions import bundled


def examine(checks: Sequence[Check] | None = None) -> Iterator[Finding]:
    """Run the checks (default: all) in order and yield their findings at once.

    Without a database connection, skip the checks that need it.
    """
    for check in [*CHECKS, *added_checks] if checks is None else checks:
        name = check.__name__.removeprefix("check_")
        if connection.connection is None and check not in WITHOUT_DATABASE:
            continue
        try:
            yield from check()
        except (DatabaseError, InterfaceError) as problem:
            _reconnect_if_lost()
            yield Finding(
                name,
                Level.FAILURE,
                f"The check could not run: {_first_line(problem)}",
                "Fix the database or its migrations first, then run the doctor again",
            )
        except Exception as problem:
            # Its message may show a URL, and the URL a password.
            yield failure(
                name,
                f"The check could not run ({type(problem).__name__}).",
                "Correct the settings that this check reads, such as REDIS_URL for valkey",
            )


def _reconnect_if_lost() -> None:
    connection.close_if_unusable_or_obsolete()
    with suppress(DatabaseError):
        connection.ensure_connection()


# Keys and settings.


def check_encryption() -> Iterator[Finding]:
    """Check that the first key decrypts all stored values."""
    is_good = True
    for column in reencryption.COLUMNS:
        unreadable = column.with_header().exclude(header__in=headers_of_known_keys())
        if count := unreadable.count():
            is_good = False
            yield failure(
                "encryption",
                f"{column.noun.capitalize()} that no key in WEBHOOKS_ENCRYPTION_KEYS decrypts: "
                f"{count:,}.",
                "Add their key after the first one and restart, then run manage.py reencrypt",
                count=count,
                ids=list(
                    map(str, unreadable.order_by("id").values_list("id", flat=True)[:IDS_SHOWN])
                ),
            )
        elif count := column.outdated().count():
            is_good = False
            yield warning(
                "encryption",
                f"{column.noun.capitalize()} that still need an old key: {count:,}.",
                "manage.py reencrypt",
                count=count,
            )
    if is_good:
        yield ok("encryption", "All stored values can be decrypted with the first key.")


def check_libraries() -> Iterator[Finding]:
    """Name the C libraries inside the installed wheels, to compare with security advisories."""
    shown = "; ".join(f"{name} {version}" for name, version in bundled().items())
    yield ok("libraries", f"{shown}.")


def check_settings() -> Iterator[Finding]:
    """Check that production does not use settings for development."""
    findings = list(_risky_settings())
    yield from findings
    if not findings:
        yield ok("settings", "No setting is risky.")


def _risky_settings() -> Iterator[Finding]:
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
            f"Webhooks may reach {', '.join(open_networks)}: this machine, or all addresses.",
            "Remove these networks from WEBHOOKS_ALLOWED_NETWORKS and restart",
        )
    if not settings.WEBHOOKS_REQUIRE_HTTPS:
        yield warning(
            "settings",
            "Webhooks may use http:// URLs: payloads are sent unencrypted.",
            "Set WEBHOOKS_REQUIRE_HTTPS=1 and restart",
        )
    if not settings.WEBHOOKS_RETENTION_DAYS:
        yield warning(
            "settings",
            "Old deliveries are never purged: the tables grow without limit.",
            "Set WEBHOOKS_RETENTION_DAYS=90 and restart the workers, or run manage.py purge",
        )
    if settings.EMAIL_BACKEND.endswith((".console.EmailBackend", ".dummy.EmailBackend")):
        yield warning(
            "settings",
            "Mails to owners of disabled webhooks are not sent.",
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
            f"Production uses the development environment's {' and '.join(embedded)}.",
            "Set DATABASE_URL and REDIS_URL to production servers",
        )


def _is_embedded(where: str) -> bool:
    return any(part in where for part in settings.WEBHOOKS_DEVELOPMENT_SERVERS)


# The rows.


def check_audit() -> Iterator[Finding]:
    """Check that no delivery is lost or stuck (webhooks/repair/integrity.py)."""
    counts: Counter[Rule] = Counter()
    ids: dict[Rule, list[str]] = {}
    for fault in integrity.find_faults():
        counts[fault.rule] += 1
        shown = ids.setdefault(fault.rule, [])
        if len(shown) < IDS_SHOWN:
            shown.append(fault.id)
    for rule in integrity.RULES:
        if counts[rule]:
            yield failure(
                "audit",
                f"{rule.description}: {counts[rule]:,}.",
                rule.mend.format(id=ids[rule][0]),
                count=counts[rule],
                ids=ids[rule],
            )
    if not counts:
        yield ok("audit", "All events, deliveries and attempts are consistent.")


CHECKS: tuple[Check, ...] = (
    check_database,
    check_migrations,
    check_clock,
    check_valkey,
    check_workers,
    check_backlog,
    check_chores,
    check_partitions,
    check_order,
    check_failover,
    check_versions,
    check_encryption,
    check_libraries,
    check_settings,
    check_audit,
)
added_checks: list[Check] = []
"""Of other apps."""


def add_check(check: Check) -> None:
    """Let the doctor run a check of another app as well, after all others."""
    added_checks.append(check)


WITHOUT_DATABASE = (check_database, check_valkey, check_libraries, check_settings)
QUICK_CHECKS = tuple(check for check in CHECKS if check is not check_audit)
