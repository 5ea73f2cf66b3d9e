"""Carry out redeliveries in batches; workers do this, and so does `manage.py redeliver`.

Each batch is one transaction that also moves the redelivery's cursor, so that after a crash the
redelivery continues there and queues nothing twice. A batch does not wait for locked rows: it skips
them and tries them again later. A redelivery that fails is marked as failed with the reason, and does
not delay others.
"""

import logging
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db import (
    InterfaceError,
    OperationalError,
    ProgrammingError,
    connection,
    transaction,
)
from django.db.models import F, Q, QuerySet, Window
from django.db.models.functions import Now, RowNumber
from django.utils import timezone

from webhooks.choices import Order
from webhooks.errors import RedeliveryScopeError
from webhooks.figures.cells import reopen_sql
from webhooks.ids import new_id
from webhooks.models import Delivery, Redelivery, Webhook
from webhooks.models.owner_keys import NO_OWNER
from webhooks.outbox import wakeup
from webhooks.postgres.sql import limited_transaction
from webhooks.repair.chores import in_one_line
from webhooks.repair.redelivery_scope import Scope, matching, missing

logger = logging.getLogger(__name__)

BATCH = 5000
"""Deliveries per transaction, which locks them for about a fifth of a second."""
TURN_SECONDS = 1.0
"""How long one call of advance_all() continues after it has done one batch per requester."""
LONGEST_TURN_SECONDS = 5.0
MAX_REDELIVERIES_PER_TURN = 100
RETRY_LOCKED_AFTER = timedelta(seconds=1)
MAX_FAILURES = 10
"""Consecutive database errors after which a redelivery fails."""
LONGEST_PAUSE = timedelta(minutes=5)

RETRIED_ERRORS = (OperationalError, ProgrammingError, InterfaceError)
"""Errors that may be temporary: a time-out, a deadlock, a table that is being migrated."""


def run(redelivery_id: UUID) -> None:
    """Carry out a redelivery until no batch is left to do at once."""
    while advance(redelivery_id):
        pass


def advance_all() -> bool:
    """Carry out batches of the running redeliveries for about TURN_SECONDS, and return whether more
    can be done at once.

    Every requester gets one batch before any gets a second; among one requester's redeliveries, the
    one that has waited longest comes first.
    """
    started_at = time.monotonic()
    has_more = False
    for redelivery_id, place in _due():
        seconds = time.monotonic() - started_at
        if seconds > (TURN_SECONDS if place > 1 else LONGEST_TURN_SECONDS):
            return True
        has_more |= advance(redelivery_id)
    return has_more


def _due() -> list[tuple[UUID, int]]:
    """Return redeliveries with their places, counted from 1, in the queue of their requester."""
    # None waits for longer than a pause, unless the database's clock was set back.
    is_due = Q(due_at__lte=Now()) | Q(due_at__gt=Now() + 2 * LONGEST_PAUSE)
    due = Redelivery.objects.filter(is_due, status=Redelivery.Status.RUNNING)
    place = Window(RowNumber(), partition_by=F("requested_by"), order_by="due_at")
    in_turn = due.annotate(place=place).order_by("place", "due_at")
    return list(in_turn.values_list("id", "place")[:MAX_REDELIVERIES_PER_TURN])


def advance(redelivery_id: UUID) -> bool:
    """Carry out one batch, and return whether the next can be done at once.

    Safe to call in many processes at once. A redelivery that cannot be carried out is marked as
    failed. Raises database errors only if the connection is lost.
    """
    try:
        return _advance(redelivery_id)
    except RedeliveryScopeError as problem:
        _give_up(redelivery_id, str(problem))
    except RETRIED_ERRORS as problem:
        # The error may concern this redelivery only; with a usable connection, others continue.
        is_connection_lost = not connection.is_usable()
        if is_connection_lost:
            connection.close()
        _postpone(redelivery_id, in_one_line(problem))
        if is_connection_lost:
            raise
    except Exception as problem:
        # The row stores the failure, so that other redeliveries continue.
        logger.exception("Redelivery %s failed.", redelivery_id)
        _give_up(redelivery_id, in_one_line(problem))
    return False


def _postpone(redelivery_id: UUID, reason: str) -> None:
    """Schedule the next try after a growing pause; after MAX_FAILURES, mark the row as failed."""
    with limited_transaction():
        redelivery = _lock(redelivery_id)
        if redelivery is None:
            return
        if redelivery.failures + 1 >= MAX_FAILURES:
            _give_up(redelivery_id, reason)
            return
        pause = min(timedelta(seconds=2**redelivery.failures), LONGEST_PAUSE)
        Redelivery.objects.filter(id=redelivery_id).update(
            failures=F("failures") + 1, due_at=Now() + pause, error=reason
        )


def _give_up(redelivery_id: UUID, reason: str) -> None:
    with limited_transaction():
        if _lock(redelivery_id) is not None:
            Redelivery.objects.filter(id=redelivery_id).update(
                status=Redelivery.Status.FAILED, finished_at=timezone.now(), error=reason
            )


def _lock(redelivery_id: UUID) -> Redelivery | None:
    """Lock and return a running redelivery; None if it is not running or already locked."""
    running = Redelivery.objects.filter(id=redelivery_id, status=Redelivery.Status.RUNNING)
    return running.select_for_update(skip_locked=True, of=("self",), no_key=True).first()


def _advance(redelivery_id: UUID) -> bool:
    with limited_transaction():
        redelivery = _lock(redelivery_id)
        if redelivery is None:
            return False
        scope = Scope.from_json(redelivery.scope)
        webhook = _webhook_of(scope)
        size = BATCH
        if scope.limit is not None:
            taken = redelivery.queued_count + len(redelivery.passed_over)
            size = max(min(BATCH, scope.limit - taken), 0)
        room = min(size, BATCH - len(redelivery.passed_over))
        next_ids = _next_ids(redelivery, scope, webhook, room)
        _queue(redelivery, scope, webhook, [*redelivery.passed_over, *next_ids])
        is_at_end = len(next_ids) < room or room == size < BATCH
        if next_ids:
            redelivery.cursor = next_ids[-1]
        if is_at_end and not redelivery.passed_over:
            redelivery.status = Redelivery.Status.DONE
            redelivery.finished_at = timezone.now()
        redelivery.matched_count = max(redelivery.matched_count, redelivery.queued_count)
        redelivery.failures, redelivery.error = 0, ""
        # With only locked rows left, pause; otherwise queue behind other redeliveries.
        is_waiting = is_at_end or room == 0
        redelivery.due_at = Now() + (RETRY_LOCKED_AFTER if is_waiting else timedelta(0))
        redelivery.save(update_fields=ADVANCED)
        transaction.on_commit(wakeup.nudge, robust=True)
        return not is_waiting


ADVANCED = [
    "status", "finished_at", "cursor", "passed_over", "matched_count", "queued_count", "due_at",
    "failures", "error",
]  # fmt: skip


def _webhook_of(scope: Scope) -> Webhook | None:
    """Return the scope's webhook, or None; raises RedeliveryScopeError if it was deleted."""
    if scope.webhook_id is None:
        return None
    webhook = Webhook.objects.filter(id=scope.webhook_id, deleted_at=None).first()
    if webhook is None:
        raise RedeliveryScopeError("The webhook was deleted.")
    return webhook


def _next_ids(
    redelivery: Redelivery, scope: Scope, webhook: Webhook | None, count: int
) -> list[UUID]:
    """Return the ids of the next deliveries after the cursor; for a replay, of the next events."""
    rows: QuerySet[Any]
    if redelivery.is_replay:
        if webhook is None:
            raise RedeliveryScopeError("A replay needs a webhook.")
        rows = missing(webhook, scope).order_by("id")
    else:
        rows = matching(scope).exclude(redelivery_id=redelivery.id)
    if redelivery.cursor:
        rows = rows.filter(id__gt=redelivery.cursor)
    return list(rows.values_list("id", flat=True)[:count])


def _queue(
    redelivery: Redelivery, scope: Scope, webhook: Webhook | None, ids: Sequence[UUID]
) -> None:
    """Queue the rows that are not locked, and store the ids of the others in `passed_over`."""
    if redelivery.is_replay and webhook is not None:
        queued, redelivery.passed_over = _create_missing(redelivery, webhook, scope, ids)
    else:
        queued, redelivery.passed_over = _repeat(redelivery, scope, ids)
    redelivery.queued_count += queued


# The statement never waits for a lock, not even for one of another redelivery of the same rows. It
# locks the events so that no erasure (webhooks/repair/retention.py) can empty a payload meanwhile.
REPEAT_SQL = f"""
WITH picked AS MATERIALIZED (
    SELECT d.id, d.event_id, position
      FROM unnest(%(ids)s::uuid[]) WITH ORDINALITY AS p (id, position)
      JOIN webhooks_delivery d USING (id)
     WHERE d.status = ANY(%(statuses)s) AND d.claimed_by IS NULL
       AND d.redelivery_id IS DISTINCT FROM %(redelivery)s
), free AS MATERIALIZED (
    SELECT d.id, d.redelivery_id FROM webhooks_delivery d
     WHERE d.id = ANY(ARRAY(SELECT id FROM picked))
       AND d.status = ANY(%(statuses)s) AND d.claimed_by IS NULL
     ORDER BY d.id FOR UPDATE SKIP LOCKED
), kept AS MATERIALIZED (
    SELECT e.id, e.payload <> '' AS is_whole FROM webhooks_event e
     WHERE e.id = ANY(ARRAY(SELECT event_id FROM picked))
     ORDER BY e.id FOR SHARE SKIP LOCKED
), taken AS (
    INSERT INTO webhooks_redeliverytakeover (redelivery_id, delivery_id)
    SELECT free.redelivery_id, picked.id
      FROM picked JOIN free USING (id) JOIN kept ON kept.id = picked.event_id AND kept.is_whole
     WHERE free.redelivery_id IS NOT NULL
    ON CONFLICT DO NOTHING
), queued AS (
    UPDATE webhooks_delivery d
       SET status = 'PENDING', round = least(d.round, 32766) + 1,
           attempts_before_round = d.attempt_count,
           next_attempt_at = clock_timestamp()
               + make_interval(secs => coalesce((%(before)s + picked.position - 1) / %(rate)s, 0)),
           finished_at = NULL, order_key = NULL, is_suspect = false, crash_count = 0,
           redelivery_id = %(redelivery)s
      FROM picked JOIN free USING (id) JOIN kept ON kept.id = picked.event_id AND kept.is_whole
     WHERE d.id = picked.id
    RETURNING d.id, d.webhook_id, d.owner_id
), reopened AS ({reopen_sql("queued")}
)
SELECT (SELECT count(*) FROM queued),
       ARRAY(SELECT picked.id FROM picked LEFT JOIN free USING (id)
                    LEFT JOIN kept ON kept.id = picked.event_id
              WHERE free.id IS NULL OR kept.id IS NULL ORDER BY picked.position)
"""  # noqa: S608 (constants only)


def _repeat(redelivery: Redelivery, scope: Scope, ids: Sequence[UUID]) -> tuple[int, list[UUID]]:
    """Queue deliveries again; return the number of queued ones and the ids of locked ones."""
    if not ids:
        return 0, []
    with connection.cursor() as cursor:
        cursor.execute(
            REPEAT_SQL,
            {
                "ids": list(ids),
                "statuses": list(scope.statuses),
                "redelivery": redelivery.id,
                "before": redelivery.queued_count,
                "rate": redelivery.rate_limit,
            },
        )
        queued, locked = cursor.fetchone()
    return queued, locked


# The audit compares fanout_count with the existing deliveries (webhooks/repair/integrity.py).
RECOUNT_SQL = """
UPDATE webhooks_event e
   SET fanout_count = greatest(e.fanout_count,
           (SELECT count(*) FROM webhooks_delivery d WHERE d.event_id = e.id))
 WHERE e.id = ANY(%(ids)s)
"""


# For their headers; they go in any order.
PLACES_SQL = """
UPDATE webhooks_delivery d
   SET object_key = hashtextextended(e.object_reference, 0), object_sequence = e.sequence
  FROM webhooks_event e
 WHERE e.id = d.event_id AND e.object_reference <> '' AND d.id = ANY(%(ids)s)
"""


def _wait_before(redelivery: Redelivery, position: int) -> timedelta:
    """Return how long a new delivery of this batch waits, so that the rate limit is kept."""
    rate = redelivery.rate_limit
    return timedelta(seconds=(redelivery.queued_count + position) / rate if rate else 0)


def _create_missing(
    redelivery: Redelivery, webhook: Webhook, scope: Scope, ids: Sequence[UUID]
) -> tuple[int, list[UUID]]:
    """Create deliveries of events; return their number and the ids of locked events."""
    events = missing(webhook, scope).filter(id__in=ids).order_by("id")
    # The lock keeps a purge from deleting an event while its delivery is created.
    free = list(
        events.select_for_update(no_key=True, skip_locked=True).values_list("id", "type", "version")
    )
    created = Delivery.objects.bulk_create(
        [
            Delivery(
                id=new_id(),
                event_id=event_id,
                webhook=webhook,
                owner_id=webhook.owner_id or NO_OWNER,
                event_type=event_type,
                form=webhook.recorded_form(version).form,
                redelivery=redelivery,
                next_attempt_at=Now() + _wait_before(redelivery, position),
            )
            for position, (event_id, event_type, version) in enumerate(free)
        ],
        ignore_conflicts=True,
    )
    with connection.cursor() as cursor:
        cursor.execute(RECOUNT_SQL, {"ids": [event_id for event_id, *_ in free]})
        if webhook.order == Order.OBJECT:
            cursor.execute(PLACES_SQL, {"ids": [delivery.id for delivery in created]})
    # Events that are still missing are the locked ones: the others have a delivery now.
    return len(created), list(events.values_list("id", flat=True))
