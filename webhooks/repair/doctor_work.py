"""The doctor's checks of workers, backlog, chores and order."""

from collections.abc import Iterator
from datetime import timedelta

from django.utils import timezone

from webhooks import catalog
from webhooks.conf import worker_command
from webhooks.figures import present
from webhooks.models import Pause, Redelivery, Webhook
from webhooks.outbox.versions import webhooks_pinning
from webhooks.postgres import horizon
from webhooks.postgres.sql import query
from webhooks.repair import housekeeping, partitions
from webhooks.repair.findings import Finding, failure, ok, warning

OLD_BACKLOG_SECONDS = 60
VERY_OLD_BACKLOG_SECONDS = 600
MANY_FAILURES = 3
"""Consecutive failures of a chore that make a finding; fewer may be temporary."""
RECENT = timedelta(days=7)
"""How long the doctor reports mails and redeliveries that were given up."""
IDS_SHOWN = 20
"""The maximum number of ids in a finding; integrity.find_faults() yields all of them."""

EPOCH_SQL = """
SELECT webhooks_examine_epoch(), coalesce(max(number), 0), webhooks_cluster() FROM webhooks_epoch
"""

MENDS = {"mails": "Set EMAIL_URL=smtp://user:password@host:587 and restart the workers"}


def check_order() -> Iterator[Finding]:
    """Check that no long transaction delays ordered deliveries and that the server has an id."""
    current, recorded, cluster = query(EPOCH_SQL)[0]
    held = horizon.holder()
    if held:
        level = failure if held.seconds > VERY_OLD_BACKLOG_SECONDS else warning
        yield level("order", str(held), held.mend)
    if "?" in cluster:
        yield warning(
            "order",
            "Postgres does not reveal the identity of this server: after a restore, feed cursors "
            "may skip events.",
            "GRANT EXECUTE ON FUNCTION pg_control_system(), pg_current_wal_lsn(), "
            "pg_walfile_name(pg_lsn) TO the owner of the function webhooks_cluster()",
        )
    elif not held and current > recorded > 0:
        yield ok(
            "order", "The stored events come from an earlier server; they precede all new ones."
        )
    elif not held:
        yield ok("order", "Events are in the order of this server's transactions.")


def check_workers() -> Iterator[Finding]:
    """Check that at least one worker is alive and none is dead."""
    workers = present.workers()
    for worker in workers:
        if not worker.is_alive:
            yield failure(
                "workers",
                f"Worker {worker.host}:{worker.pid} has sent no heartbeat for "
                f"{worker.silent_seconds:.0f} s.",
                worker_command(),
                count=1,
                ids=[str(worker.id)],
            )
    alive = sum(worker.is_alive for worker in workers)
    if alive:
        yield ok("workers", f"{alive} {'worker is' if alive == 1 else 'workers are'} alive.")
    elif not workers:
        yield failure("workers", "No worker is running: no event is sent.", worker_command())


def check_versions() -> Iterator[Finding]:
    """Name the webhooks that pin a deprecated version of an event type."""
    is_good = True
    for declared in catalog.all_types():
        for one in declared.older:
            if one.deprecated is None:
                continue
            if pinning := webhooks_pinning(declared.name, one.date):
                is_good = False
                yield warning(
                    "versions",
                    f"Webhooks that still get {declared.name} in the version {one.date}, deprecated "
                    f"since {one.deprecated}: {len(pinning):,}.",
                    "Ask their owners to set a later version",
                    count=len(pinning),
                    ids=[webhook.public_id for webhook in pinning[:IDS_SHOWN]],
                )
    if is_good:
        yield ok("versions", "No webhook pins a deprecated version.")


def check_backlog() -> Iterator[Finding]:
    """Check that deliveries have not been due for long and that sending is not paused."""
    backlog = present.backlog()
    for pause in Pause.objects.all():
        yield warning(
            "backlog",
            f"All sending is paused since {pause.created_at:%Y-%m-%d %H:%M} UTC"
            + (f": {pause.reason}" if pause.reason else "."),
            "manage.py pause --end",
        )
    seconds = backlog.oldest_due_seconds or 0.0
    message = f"Deliveries due: {backlog.due:,}, the oldest for {seconds:.0f} s."
    if seconds > OLD_BACKLOG_SECONDS:
        level = failure if seconds > VERY_OLD_BACKLOG_SECONDS else warning
        mend = "manage.py rqworker-pool --num-workers 4"
        yield level("backlog", message, mend, count=backlog.due)
    else:
        yield ok("backlog", message if backlog.due else "No delivery is due.")


def check_chores() -> Iterator[Finding]:
    """Check that housekeeping chores run and succeed, and that no mail or redelivery failed."""
    findings = [*_failing_chores(), *_given_up()]
    yield from findings
    if not findings:
        yield ok("chores", "All housekeeping chores run and succeed.")


def check_partitions() -> Iterator[Finding]:
    """Check that the attempts of the next days have partitions, and few are outside of all."""
    until = partitions.covered_until()
    if until is None or until < timezone.now() + timedelta(days=1):
        yield warning(
            "partitions",
            "Attempts of tomorrow have no partition; their day cannot be dropped as a whole.",
            "Start a worker: its chore 'partitions' makes them; or read why it failed",
        )
    elif count := partitions.count_outside():
        yield warning(
            "partitions",
            f"Attempts outside of all partitions: more than {count:,}. They are purged row by row.",
            "Set the clocks of the hosts that store events",
            count=count,
        )
    else:
        yield ok("partitions", f"Attempts have daily partitions until {until:%Y-%m-%d}.")


def _failing_chores() -> Iterator[Finding]:
    has_workers = any(worker.is_alive for worker in present.workers())
    for chore in housekeeping.states():
        if chore.failures >= MANY_FAILURES:
            yield failure(
                "chores",
                f"The chore {chore.name!r} failed {chore.failures:,} times in a row: "
                f"{chore.last_error}",
                MENDS.get(chore.name, "Read the workers' logs"),
                count=chore.failures,
            )
        elif chore.is_overdue and has_workers:
            yield warning(
                "chores",
                f"The chore {chore.name!r} has been due for {chore.due_seconds:.0f} s, and no "
                "worker runs it.",
                "Restart the workers",
            )


def _given_up() -> Iterator[Finding]:
    since = timezone.now() - RECENT
    mails = Webhook.objects.filter(
        disabled_at__gte=since, active=False, notice_due_at=None, deleted_at=None
    ).exclude(notice_error="")
    if count := mails.count():
        shown = list(mails.order_by("-disabled_at")[:IDS_SHOWN])
        yield warning(
            "chores",
            f"Mails about disabled webhooks that could not be sent: {count:,}. Last error: "
            f"{shown[0].notice_error}",
            "Inform the owners another way",
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
            f"Failed redeliveries: {count:,}. Last error: {last[0].error}",
            "Request them again, or dismiss them in the admin",
            count=count,
            ids=[redelivery.public_id for redelivery in last],
        )
