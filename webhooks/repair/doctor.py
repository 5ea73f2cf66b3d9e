"""The doctor: is everything here that delivering needs, and is nothing wrong?

Each check looks at one thing and returns findings: what is so, how bad it is, and the command that
mends it. A check that cannot look is a failure itself; it never hides the others. Nothing is
changed here but by integrity.mend().
"""

from collections import Counter
from collections.abc import Iterator, Sequence

from django.conf import settings
from django.db import DatabaseError, connection

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
    check_workers,
)
from webhooks.repair.findings import Check, Finding, Level, failure, ok, warning
from webhooks.repair.integrity import Question


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


# Postgres.


# Valkey.


# Workers and what they have to do.


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
    return any(part in where for part in settings.WEBHOOKS_DEVELOPMENT_SERVERS)


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
