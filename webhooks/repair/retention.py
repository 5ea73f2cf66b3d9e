"""Retention: delete deliveries that finished long ago, or erase payloads and keep the rows.

The age of a delivery is the time since it last finished; unfinished and recently redelivered ones are
never touched. Each batch is one transaction that deletes deliveries, their attempts and the events
without other deliveries, so that a crash or Ctrl-C leaves only whole deliveries and the next run
continues. Attempts of large partitions go with their partition (webhooks/repair/partitions.py).
Batches grow and shrink to keep their locks short, and pauses between them leave Postgres to the
workers.
"""

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, astuple, dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db.models import Exists, OuterRef, QuerySet
from django.utils import timezone

from webhooks.choices import DeliveryStatus
from webhooks.ids import first_id_of
from webhooks.models import (
    AuditEntry,
    Delivery,
    Redelivery,
    RedeliveryTakeover,
    SigningSecret,
    Webhook,
)
from webhooks.postgres.sql import limited_transaction, query
from webhooks.repair import partitions
from webhooks.repair.purge_statements import (
    COUNT_ERASED_SQL,
    COUNT_SQL,
    DELETE_LEFT_BEHIND_SQL,
    DELETE_SQL,
    DELETE_UNWANTED_SQL,
    ERASE_SQL,
)

TERMINAL = (DeliveryStatus.SUCCESS, DeliveryStatus.FAILED, DeliveryStatus.CANCELLED)
FIRST = UUID(int=0)
FIRST_BATCH = 500
LARGEST_BATCH = 5_000
TARGET_SECONDS = 0.05
"""The target duration of a batch, which bounds its locks; the hard limit is 200 ms."""
SHARE = 0.2
"""The share of time that a purge spends in Postgres; it pauses for the rest."""
LONGEST_PAUSE_SECONDS = 1.0
LONGEST_TRANSACTION = timedelta(days=1)
"""A transaction that began before a webhook's deletion may still add a delivery for this long."""
SLICE_SECONDS = 1.0
"""The duration of one slice of the daily run."""
RUN_REFERENCE = "retention"


@dataclass(frozen=True)
class Policy:
    """Which deliveries to purge: those with one of `statuses` that finished before `before`.

    With `payloads_only`, a purge keeps the rows and erases payloads, requests and responses. With
    `owner_id`, it erases those of one owner's events; that implies `payloads_only`.
    """

    before: datetime
    statuses: Sequence[str] = TERMINAL
    payloads_only: bool = False
    owner_id: UUID | None = None


@dataclass(frozen=True)
class Purged:
    """The numbers of rows that a purge deleted or erased, or would do."""

    deliveries: int = 0
    attempts: int = 0
    events: int = 0
    webhooks: int = 0
    redeliveries: int = 0

    def __add__(self, other: "Purged") -> "Purged":
        return Purged(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


def count(policy: Policy) -> Purged:
    """Return the numbers of rows that purge() would delete or erase now."""
    sql = COUNT_ERASED_SQL if _erases(policy) else COUNT_SQL
    deliveries, attempts, events = query(sql, _parameters(policy))[0]
    if _erases(policy):
        return Purged(deliveries, attempts, events)
    return Purged(
        deliveries,
        attempts,
        events,
        _unreferenced_webhooks(policy).count(),
        _unreferenced_redeliveries(policy).count(),
    )


def kept_pending(owner_id: UUID) -> int:
    """Return how many of an owner's events keep their payload because of unfinished deliveries."""
    sql = """
    SELECT count(DISTINCT e.id) FROM webhooks_event e JOIN webhooks_delivery d ON d.event_id = e.id
     WHERE e.owner_id = %(owner)s AND e.payload <> '' AND d.finished_at IS NULL
    """
    return int(query(sql, {"owner": owner_id})[0][0])


@dataclass(frozen=True)
class Position:
    """The progress of a purge: completed passes, last row of the current one, batch size."""

    passed: int = 0
    after: UUID = FIRST
    batch: int = FIRST_BATCH


def purge(
    policy: Policy, *, batch_size: int = LARGEST_BATCH, share: float = SHARE
) -> Generator[Purged]:
    """Delete or erase the policy's rows in batches; yield the numbers of each batch.

    The caller may stop after any batch, and several processes may purge at once. `share` (0 to 1) is
    the share of time to spend in Postgres. Raises Django's database errors.
    """
    for purged, _ in _walk(policy, Position(), batch_size, share):
        yield purged


def _walk(
    policy: Policy, position: Position, batch_size: int, share: float
) -> Iterator[tuple[Purged, Position]]:
    """Yield the numbers of each batch and the position of the next."""
    parameters = _parameters(policy)
    passes = _passes(policy, is_for_all=parameters["all_statuses"])
    if DELETE_LEFT_BEHIND_SQL in passes and position == Position():
        partitions.mark_expiring(parameters["last"])
    while position.passed < len(passes):
        is_last_pass = passes[position.passed] == DELETE_LEFT_BEHIND_SQL
        if (
            is_last_pass
            and position.after == FIRST
            and not partitions.exchange_expiring(parameters["last"])
        ):
            break
        started_at = time.monotonic()
        batch = min(position.batch, batch_size)
        rows = query(
            passes[position.passed], {**parameters, "after": position.after, "batch": batch}
        )
        seconds = time.monotonic() - started_at
        after, deliveries, attempts, events = rows[0]
        if after is None:
            if is_last_pass:
                partitions.forget_expiring()
            position = Position(position.passed + 1)
        else:
            position = Position(position.passed, after, next_batch(batch, seconds, batch_size))
        yield Purged(deliveries, attempts, events), position
        leave_to_the_workers(seconds, share)
    while not _erases(policy) and position.passed <= len(passes):
        started_at = time.monotonic()
        removed = _remove_unreferenced(policy)
        seconds = time.monotonic() - started_at
        is_end = max(removed.webhooks, removed.redeliveries) < LARGEST_BATCH
        position = Position(len(passes) + is_end)
        yield removed, position
        if not is_end:
            leave_to_the_workers(seconds, share)


def _passes(policy: Policy, *, is_for_all: bool) -> list[str]:
    if _erases(policy):
        return [ERASE_SQL]
    if is_for_all:
        return [DELETE_SQL, DELETE_UNWANTED_SQL, DELETE_LEFT_BEHIND_SQL]
    return [DELETE_SQL]


def leave_to_the_workers(seconds: float, share: float = SHARE) -> None:
    """Sleep after a statement of this duration, so that purging takes only its share of time."""
    time.sleep(min(seconds * (1 / share - 1), LONGEST_PAUSE_SECONDS))


def next_batch(batch: int, seconds: float, largest: int) -> int:
    """Return the size of the next batch, given the size and the duration of the last one."""
    if seconds > 2 * TARGET_SECONDS:
        return max(batch // 4, 1)
    if seconds > TARGET_SECONDS:
        return max(batch // 2, 1)
    return min(batch + batch // 2 + 1, largest) if seconds < TARGET_SECONDS / 2 else batch


def _erases(policy: Policy) -> bool:
    return policy.payloads_only or policy.owner_id is not None


def _parameters(policy: Policy) -> dict[str, Any]:
    return {
        # A delivery that finished before this time was also created before it.
        "last": first_id_of(policy.before),
        "before": policy.before,
        "statuses": list(policy.statuses),
        "all_statuses": set(policy.statuses) == set(TERMINAL),
        "owner": policy.owner_id,
    }


# Rows without references.


def _unreferenced_webhooks(policy: Policy) -> Any:
    return Webhook.objects.filter(
        ~Exists(Delivery.objects.filter(webhook=OuterRef("id"))),
        deleted_at__lt=min(policy.before, timezone.now() - LONGEST_TRANSACTION),
    )


def _unreferenced_redeliveries(policy: Policy) -> Any:
    return Redelivery.objects.filter(
        ~Exists(Delivery.objects.filter(redelivery=OuterRef("id"))),
        ~Exists(RedeliveryTakeover.objects.filter(redelivery_id=OuterRef("id"))),
        finished_at__lt=policy.before,
    )


def _remove_unreferenced(policy: Policy) -> Purged:
    """Delete up to LARGEST_BATCH unreferenced rows of each kind, except locked ones."""
    with limited_transaction():
        webhooks = _locked(_unreferenced_webhooks(policy))
        secrets = SigningSecret.objects.filter(webhook__in=webhooks)
        free = _locked(secrets)
        busy = {
            webhook for id_, webhook in secrets.values_list("id", "webhook_id") if id_ not in free
        }
        _, removed = Webhook.objects.filter(id__in=webhooks - busy).delete()
    with limited_transaction():
        redeliveries = _locked(_unreferenced_redeliveries(policy))
        _, gone = Redelivery.objects.filter(id__in=redeliveries).delete()
    return Purged(
        webhooks=removed.get(Webhook._meta.label, 0),
        redeliveries=gone.get(Redelivery._meta.label, 0),
    )


def _locked(rows: QuerySet[Any]) -> set[UUID]:
    """Lock up to LARGEST_BATCH of the unlocked rows and return their ids."""
    free = rows.select_for_update(skip_locked=True).order_by("id")
    return set(free.values_list("id", flat=True)[:LARGEST_BATCH])


# The daily run.


def record(purged: Purged, actor_id: UUID | None = None) -> None:
    """Write the numbers of a run to the audit log."""
    AuditEntry.objects.create(
        actor_id=actor_id,
        action="purge",
        object_reference=RUN_REFERENCE,
        changes=asdict(purged),
    )


def purge_daily(progress: dict[str, Any]) -> dict[str, Any] | None:
    """Do a slice of the daily run, and return the new progress, or None at the end.

    A chore (webhooks/repair/chores.py) calls this with the stored progress; {} starts a run.
    """
    if not progress:
        AuditEntry.objects.create(action="purge started", object_reference=RUN_REFERENCE)
    before = (
        progress.get("before")
        or (timezone.now() - timedelta(days=settings.WEBHOOKS_RETENTION_DAYS)).isoformat()
    )
    position = Position(
        progress.get("passed", 0),
        UUID(progress.get("after", FIRST.hex)),
        progress.get("batch", FIRST_BATCH),
    )
    purged = Purged(**progress.get("purged", {}))
    policy = Policy(datetime.fromisoformat(before))
    ends_at = time.monotonic() + SLICE_SECONDS
    for batch, next_position in _walk(policy, position, LARGEST_BATCH, SHARE):
        purged += batch
        if time.monotonic() >= ends_at:
            return {
                "before": before,
                "passed": next_position.passed,
                "after": next_position.after.hex,
                "batch": next_position.batch,
                "purged": asdict(purged),
            }
    record(purged)
    return None
