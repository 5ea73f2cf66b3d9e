"""The doctor's checks of what goes on: workers, backlog, chores, order."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from django.db import connection
from django.utils import timezone

from webhooks.figures import present
from webhooks.models import Pause, Redelivery, Webhook
from webhooks.postgres import horizon
from webhooks.repair import housekeeping
from webhooks.repair.findings import Finding, failure, ok, warning

OLD_BACKLOG_SECONDS = 60
VERY_OLD_BACKLOG_SECONDS = 600
MANY_FAILURES = 3
"""Turns of a chore that failed one after the other; fewer may be a passing trouble."""
LATELY = timedelta(days=7)
"""How long a mail or a redelivery that was given up is spoken of."""
IDS_SHOWN = 20
"""How many ids of one kind a finding carries; integrity.find_faults() has all."""

EPOCH_SQL = """
SELECT webhooks_examine_epoch(), coalesce(max(number), 0), webhooks_cluster() FROM webhooks_epoch
"""

MENDS = {"mails": "Set EMAIL_URL=smtp://user:password@host:587 and restart the workers"}


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


def check_workers() -> Iterator[Finding]:
    """At least one lives; none has died."""
    lives = present.workers()
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
    backlog = present.backlog()
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
    is_anybody_there = any(worker.is_alive for worker in present.workers())
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


def _query(sql: str, parameters: Any = None) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return list(cursor.fetchall())
