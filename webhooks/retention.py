"""Retention: remove what has ended long ago, or erase payloads and keep the history.

Counted from the *terminal* time of a delivery; what is still to be sent, or was sent again lately,
is never touched. One batch is one transaction: deliveries, their attempts and the events that are
left without any go together, so that a crash or Ctrl-C leaves whole deliveries behind and the next
run goes on. Batches grow and shrink to keep their locks short, and pauses between them leave
Postgres to the workers.
"""

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, astuple, dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Exists, OuterRef
from django.utils import timezone

from webhooks.choices import DeliveryStatus
from webhooks.ids import first_id_of
from webhooks.models import AuditEntry, Delivery, Redelivery, Webhook

TERMINAL = (DeliveryStatus.SUCCESS, DeliveryStatus.FAILED, DeliveryStatus.CANCELLED)
FIRST_BATCH = 500
LARGEST_BATCH = 5_000
TARGET_SECONDS = 0.05
"""How long a batch shall take, and so its locks; they must never be held for 200 ms."""
SHARE = 0.2
"""Of the time, how much is spent purging; the rest is the workers'."""
LONGEST_PAUSE_SECONDS = 1.0
DAILY = timedelta(days=1)
LONGEST_TRANSACTION = timedelta(days=1)
"""One that began before a webhook was deleted may still add a delivery, unseen by others."""
SLICE_SECONDS = 1.0
"""How long the daily run may keep other housekeeping waiting."""
LOOK_AGAIN_SECONDS = 60.0
RUN_REFERENCE = "retention"
ANSWERS_KEPT_FOR = timedelta(hours=24)
"""How long a POST can be repeated with its Idempotency-Key (webhooks/api/idempotency.py)."""


@dataclass(frozen=True)
class Policy:
    """What may go: deliveries that ended before `before`, in one of these statuses.

    With `payloads_only` rows stay and lose what was sent and answered. `owner_id` erases the
    payloads of one owner's events, however young; it implies `payloads_only`.
    """

    before: datetime
    statuses: Sequence[str] = TERMINAL
    payloads_only: bool = False
    owner_id: UUID | None = None


@dataclass(frozen=True)
class Purged:
    """How much was removed, or erased, or would be."""

    deliveries: int = 0
    attempts: int = 0
    events: int = 0
    webhooks: int = 0
    redeliveries: int = 0

    def __add__(self, other: "Purged") -> "Purged":
        return Purged(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


# Who sends again locks events before deliveries; here nothing waits for a lock, so that neither
# way round can end in a deadlock. What is locked is left for the next run.
DELETE_SQL = """
WITH page AS MATERIALIZED (
    SELECT id, event_id, status, finished_at FROM webhooks_delivery
     WHERE id > %(after)s AND id < %(last)s
     ORDER BY id LIMIT %(batch)s
), doomed AS MATERIALIZED (
    SELECT d.id, d.event_id FROM webhooks_delivery d JOIN page USING (id)
     WHERE d.finished_at < %(before)s AND d.status = ANY(%(statuses)s)
       FOR UPDATE OF d SKIP LOCKED
), locked AS MATERIALIZED (
    SELECT e.id, e.fanout_count, counted.count
      FROM webhooks_event e
      JOIN (SELECT event_id, count(*) FROM doomed GROUP BY 1) AS counted ON counted.event_id = e.id
       FOR UPDATE OF e SKIP LOCKED
), going AS MATERIALIZED (
    SELECT doomed.id FROM doomed JOIN locked ON locked.id = doomed.event_id
), attempts AS (
    DELETE FROM webhooks_attempt a USING going WHERE a.delivery_id = going.id RETURNING 1
), deliveries AS (
    DELETE FROM webhooks_delivery d USING going WHERE d.id = going.id RETURNING 1
), events AS (
    DELETE FROM webhooks_event e USING locked
     WHERE e.id = locked.id AND locked.fanout_count <= locked.count RETURNING 1
), recounted AS (
    UPDATE webhooks_event e SET fanout_count = locked.fanout_count - locked.count
      FROM locked
     WHERE e.id = locked.id AND locked.fanout_count > locked.count
)
SELECT (SELECT id FROM page ORDER BY id DESC LIMIT 1),
       (SELECT count(*) FROM deliveries), (SELECT count(*) FROM attempts),
       (SELECT count(*) FROM events)
"""

# Events that no webhook wanted, or whose deliveries went earlier.
DELETE_UNWANTED_SQL = """
WITH page AS MATERIALIZED (
    SELECT id FROM webhooks_event
     WHERE id > %(after)s AND id < %(last)s
     ORDER BY id LIMIT %(batch)s
), doomed AS MATERIALIZED (
    SELECT e.id FROM webhooks_event e JOIN page USING (id)
     WHERE e.fanout_count = 0
       AND NOT EXISTS (SELECT FROM webhooks_delivery d WHERE d.event_id = e.id)
       FOR UPDATE OF e SKIP LOCKED
), events AS (
    DELETE FROM webhooks_event e USING doomed WHERE e.id = doomed.id RETURNING 1
)
SELECT (SELECT id FROM page ORDER BY id DESC LIMIT 1), 0, 0, (SELECT count(*) FROM events)
"""

# The deliveries are locked too, and all must be there: none may be sent again meanwhile.
ERASE_SQL = """
WITH page AS MATERIALIZED (
    SELECT id FROM webhooks_event
     WHERE id > %(after)s AND id < %(last)s
       AND (%(owner)s::uuid IS NULL OR owner_id = %(owner)s)
     ORDER BY id LIMIT %(batch)s
), doomed AS MATERIALIZED (
    SELECT e.id, e.fanout_count FROM webhooks_event e JOIN page USING (id)
     WHERE e.payload <> '' AND NOT EXISTS (
        SELECT FROM webhooks_delivery d
         WHERE d.event_id = e.id AND (d.finished_at IS NULL OR d.finished_at >= %(before)s
                                      OR d.status <> ALL(%(statuses)s)))
       FOR NO KEY UPDATE OF e SKIP LOCKED
), locked AS MATERIALIZED (
    SELECT d.id, d.event_id FROM webhooks_delivery d JOIN doomed ON d.event_id = doomed.id
     WHERE d.finished_at < %(before)s AND d.status = ANY(%(statuses)s)
       FOR UPDATE OF d SKIP LOCKED
), going AS MATERIALIZED (
    SELECT doomed.id FROM doomed
     WHERE (SELECT count(*) FROM locked WHERE locked.event_id = doomed.id) >= doomed.fanout_count
), attempts AS (
    UPDATE webhooks_attempt a
       SET request_head = '', response_head = NULL, response_body = NULL
      FROM locked JOIN going ON going.id = locked.event_id
     WHERE a.delivery_id = locked.id
    RETURNING 1
), events AS (
    UPDATE webhooks_event e SET payload = '' FROM going WHERE e.id = going.id RETURNING 1
)
SELECT (SELECT id FROM page ORDER BY id DESC LIMIT 1),
       0, (SELECT count(*) FROM attempts), (SELECT count(*) FROM events)
"""

COUNT_SQL = """
WITH doomed AS MATERIALIZED (
    SELECT id, event_id FROM webhooks_delivery
     WHERE id < %(last)s AND finished_at < %(before)s AND status = ANY(%(statuses)s)
)
SELECT (SELECT count(*) FROM doomed),
       (SELECT count(*) FROM webhooks_attempt a JOIN doomed ON doomed.id = a.delivery_id),
       (SELECT count(*) FROM webhooks_event e
          JOIN (SELECT event_id, count(*) FROM doomed GROUP BY 1) AS gone ON gone.event_id = e.id
         WHERE e.fanout_count <= gone.count)
     + (SELECT count(*) FROM webhooks_event e
         WHERE e.id < %(last)s AND e.fanout_count = 0 AND %(all_statuses)s)
"""

COUNT_ERASED_SQL = """
WITH doomed AS MATERIALIZED (
    SELECT e.id FROM webhooks_event e
     WHERE e.id < %(last)s AND e.payload <> ''
       AND (%(owner)s::uuid IS NULL OR e.owner_id = %(owner)s)
       AND NOT EXISTS (
        SELECT FROM webhooks_delivery d
         WHERE d.event_id = e.id AND (d.finished_at IS NULL OR d.finished_at >= %(before)s
                                      OR d.status <> ALL(%(statuses)s)))
)
SELECT 0,
       (SELECT count(*) FROM doomed JOIN webhooks_delivery d ON d.event_id = doomed.id
          JOIN webhooks_attempt a ON a.delivery_id = d.id),
       (SELECT count(*) FROM doomed)
"""


def count(policy: Policy) -> Purged:
    """Return what purge() would remove or erase now; changes nothing."""
    sql = COUNT_ERASED_SQL if _erases(policy) else COUNT_SQL
    deliveries, attempts, events = _query(sql, _parameters(policy))[0]
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
    """Return how many of an owner's events keep their payload because it is still to be sent."""
    sql = """
    SELECT count(DISTINCT e.id) FROM webhooks_event e JOIN webhooks_delivery d ON d.event_id = e.id
     WHERE e.owner_id = %(owner)s AND e.payload <> '' AND d.finished_at IS NULL
    """
    return int(_query(sql, {"owner": owner_id})[0][0])


def purge(
    policy: Policy, *, batch_size: int = LARGEST_BATCH, share: float = SHARE
) -> Generator[Purged]:
    """Remove or erase what the policy lets go, a batch per step; yields what each batch did.

    May be stopped between any two steps, and run by several at once. `share` is the part of the
    time that is spent in Postgres.
    """
    parameters = _parameters(policy)
    passes = [ERASE_SQL] if _erases(policy) else [DELETE_SQL]
    if not _erases(policy) and parameters["all_statuses"]:
        passes.append(DELETE_UNWANTED_SQL)
    for sql in passes:
        yield from _walk(sql, parameters, batch_size, share)
    if not _erases(policy):
        yield _remove_unreferenced(policy)


def _walk(
    sql: str, parameters: Mapping[str, Any], batch_size: int, share: float
) -> Iterator[Purged]:
    after: UUID | None = UUID(int=0)
    batch = min(FIRST_BATCH, batch_size)
    while after is not None:
        started_at = time.monotonic()
        rows = _query(sql, {**parameters, "after": after, "batch": batch})
        seconds = time.monotonic() - started_at
        after, deliveries, attempts, events = rows[0]
        yield Purged(deliveries, attempts, events)
        batch = next_batch(batch, seconds, batch_size)
        time.sleep(min(seconds * (1 / share - 1), LONGEST_PAUSE_SECONDS))


def next_batch(batch: int, seconds: float, largest: int) -> int:
    """Return how many rows the next batch looks at, after one that took this long."""
    if seconds > 2 * TARGET_SECONDS:
        return max(batch // 4, 1)
    if seconds > TARGET_SECONDS:
        return max(batch // 2, 1)
    return min(batch + batch // 2 + 1, largest) if seconds < TARGET_SECONDS / 2 else batch


def _erases(policy: Policy) -> bool:
    return policy.payloads_only or policy.owner_id is not None


def _parameters(policy: Policy) -> dict[str, Any]:
    return {
        # What ended before then was also created before then.
        "last": first_id_of(policy.before),
        "before": policy.before,
        "statuses": list(policy.statuses),
        "all_statuses": set(policy.statuses) == set(TERMINAL),
        "owner": policy.owner_id,
    }


# What nothing points at any more.


def _unreferenced_webhooks(policy: Policy) -> Any:
    return Webhook.objects.filter(
        ~Exists(Delivery.objects.filter(webhook=OuterRef("id"))),
        deleted_at__lt=min(policy.before, timezone.now() - LONGEST_TRANSACTION),
    )


def _unreferenced_redeliveries(policy: Policy) -> Any:
    return Redelivery.objects.filter(
        ~Exists(Delivery.objects.filter(redelivery=OuterRef("id"))), finished_at__lt=policy.before
    )


def _remove_unreferenced(policy: Policy) -> Purged:
    _, webhooks = _unreferenced_webhooks(policy).delete()
    _, redeliveries = _unreferenced_redeliveries(policy).delete()
    return Purged(
        webhooks=webhooks.get(Webhook._meta.label, 0),
        redeliveries=redeliveries.get(Redelivery._meta.label, 0),
    )


# The daily run.


def record(purged: Purged, actor_id: UUID | None = None) -> None:
    """Note in the audit log what a run did."""
    AuditEntry.objects.create(
        actor_id=actor_id,
        action="purge",
        object_reference=RUN_REFERENCE,
        changes=asdict(purged),
    )


class DailyPurge:
    """Purges once a day in slices, in whichever worker is first to start; for housekeeping."""

    def __init__(self) -> None:
        self._steps: Iterator[Purged] | None = None
        self._purged = Purged()
        self._look_again_at = 0.0

    def advance(self) -> bool:
        """Do a slice of a run if one is due; returns whether it goes on."""
        if self._steps is None:
            self._steps = self._start()
        ends_at = time.monotonic() + SLICE_SECONDS
        for purged in self._steps or ():
            self._purged += purged
            if time.monotonic() >= ends_at:
                return True
        if self._steps is not None:
            record(self._purged)
            self._steps = None
        return False

    def _start(self) -> Iterator[Purged] | None:
        days = settings.WEBHOOKS_RETENTION_DAYS
        if not days or time.monotonic() < self._look_again_at:
            return None
        self._look_again_at = time.monotonic() + LOOK_AGAIN_SECONDS
        if not _take_the_day():
            return None
        self._purged = Purged()
        return purge(Policy(timezone.now() - timedelta(days=days)))


def _take_the_day() -> bool:
    """Note that today's run has started; False when another worker did so."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", [RUN_REFERENCE])
        last = AuditEntry.objects.filter(object_reference=RUN_REFERENCE).order_by("-id").first()
        if last is not None and last.created_at > timezone.now() - DAILY:
            return False
        AuditEntry.objects.create(action="purge started", object_reference=RUN_REFERENCE)
        return True


# Stored answers.

FORGET_ANSWERS_SQL = """
DELETE FROM webhooks_idempotentanswer
 WHERE id IN (
    SELECT id FROM webhooks_idempotentanswer
     WHERE created_at <= clock_timestamp() - make_interval(secs => %(kept)s)
     ORDER BY created_at LIMIT %(batch)s
       FOR UPDATE SKIP LOCKED)
"""


class AnswerExpiry:
    """Removes stored answers when their time is up, however long events are kept; for housekeeping.

    Any number may do it at once.
    """

    def __init__(self) -> None:
        self._look_again_at = 0.0

    def advance(self) -> bool:
        """Remove a batch once a minute; returns whether there may be more."""
        if time.monotonic() < self._look_again_at:
            return False
        parameters = {"kept": ANSWERS_KEPT_FOR.total_seconds(), "batch": FIRST_BATCH}
        with connection.cursor() as cursor:
            cursor.execute(FORGET_ANSWERS_SQL, parameters)
            has_more = bool(cursor.rowcount == FIRST_BATCH)
        if not has_more:
            self._look_again_at = time.monotonic() + LOOK_AGAIN_SECONDS
        return has_more


def _query(sql: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    with closing(connection.cursor()) as cursor:
        cursor.execute(sql, parameters)
        return list(cursor.fetchall())
