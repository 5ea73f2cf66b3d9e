"""Ask to send again: named deliveries or a selection (redeliver), and events never sent (replay).

A request becomes a Redelivery row; workers carry it out batch by batch
(webhooks/repair/redelivery_batches.py)."""

from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db.models import QuerySet
from django.utils import timezone

from webhooks.errors import RedeliveryScopeError
from webhooks.models import Delivery, Redelivery, Webhook
from webhooks.models.delivery import COUNTED_AT_MOST
from webhooks.repair.redelivery_batches import advance
from webhooks.repair.redelivery_scope import REPEATABLE, Scope, matching, missing, replay_scope


def redeliver(
    scope: Scope, *, requested_by: Any = None, rate_limit: float | None = None
) -> Redelivery:
    """Ask for the deliveries of a scope to be sent once more; workers carry it out.

    Their retry budget starts anew, attempt numbers go on, and they are exempt from the order of an
    ordered webhook: warnings_of() says so. Raises RedeliveryScopeError.
    """
    scope = replace(scope, until=min(scope.until or timezone.now(), timezone.now()))
    return Redelivery.objects.create(
        scope=scope.to_json(),
        matched_count=_count(matching(scope), scope),
        requested_by=requested_by,
        rate_limit=rate_limit,
    )


def _count(found: QuerySet[Any], scope: Scope) -> int:
    most = COUNTED_AT_MOST + 1
    return found.order_by()[: min(scope.limit or most, most)].count()


def redeliver_one(delivery: Delivery, *, requested_by: Any = None) -> Redelivery:
    """Send one delivery again, whatever became of it; raises RedeliveryScopeError if it cannot be."""
    scope = Scope(delivery_ids=(delivery.id,), statuses=tuple(sorted(REPEATABLE)))
    if not matching(scope).exists():
        raise RedeliveryScopeError(
            "This delivery cannot be sent again: it is in flight, its webhook was deleted, or its "
            "payload was erased."
        )
    redelivery = redeliver(scope, requested_by=requested_by)
    advance(redelivery.id)
    redelivery.refresh_from_db()
    return redelivery


def replay(
    webhook: Webhook,
    since: datetime | None,
    until: datetime | None = None,
    *,
    event_id: UUID | None = None,
    event_type: str | None = None,
    limit: int | None = None,
    requested_by: Any = None,
    rate_limit: float | None = None,
) -> Redelivery:
    """Ask for the deliveries of a time range that never existed: the webhook was new or disabled.

    `since` may be None where `event_id` names a single event. They are exempt from the order of an
    ordered webhook: warnings_of() says so. Raises RedeliveryScopeError.
    """
    scope = replay_scope(
        webhook, since, until, event_id=event_id, event_type=event_type, limit=limit
    )
    return Redelivery.objects.create(
        scope=scope.to_json(),
        is_replay=True,
        matched_count=_count(missing(webhook, scope), scope),
        requested_by=requested_by,
        rate_limit=rate_limit,
    )


def cancel(redelivery: Redelivery) -> bool:
    """Stop a redelivery; what it has queued is still sent. False when it has ended already."""
    return bool(
        Redelivery.objects.filter(id=redelivery.id, status=Redelivery.Status.RUNNING).update(
            status=Redelivery.Status.CANCELLED, finished_at=timezone.now()
        )
    )
