"""Request redeliveries of existing deliveries, and replays of events that a webhook missed.

A request is stored as a Redelivery row; workers carry it out in batches
(webhooks/repair/redelivery_batches.py).
"""

from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db.models import Q, QuerySet
from django.utils import timezone

from webhooks.errors import RedeliveryScopeError
from webhooks.models import Delivery, Redelivery, Webhook
from webhooks.models.delivery import COUNTED_AT_MOST
from webhooks.models.owner_keys import plain_owner_key
from webhooks.models.owners import owners_are_users
from webhooks.repair.redelivery_batches import advance
from webhooks.repair.redelivery_scope import (
    REPEATABLE,
    Scope,
    matching,
    missing,
    not_after_now,
    replay_scope,
)


def redeliver(
    scope: Scope,
    *,
    requested_by: Any = None,
    rate_limit: float | None = None,
    matched_count: int | None = None,
) -> Redelivery:
    """Store a request to send the scope's deliveries again; workers carry it out.

    The deliveries get a new retry budget, their attempt numbers continue, and ordered webhooks may
    receive them out of order (see warnings_of()). `rate_limit` is in deliveries per second.
    `matched_count` is the number of the deliveries if the caller has counted them. Raises
    RedeliveryScopeError.
    """
    scope = replace(scope, until=not_after_now(scope.until))
    return Redelivery.objects.create(
        scope=scope.to_json(),
        matched_count=_count(matching(scope), scope, matched_count),
        requested_by=requested_by,
        rate_limit=rate_limit,
    )


def _count(rows: QuerySet[Any], scope: Scope, counted: int | None) -> int:
    limit = min(scope.limit or COUNTED_AT_MOST + 1, COUNTED_AT_MOST + 1)
    return rows.order_by()[:limit].count() if counted is None else min(counted, limit)


def redeliver_one(delivery: Delivery, *, requested_by: Any = None) -> Redelivery:
    """Queue one delivery again, whatever its status except in flight, and return the redelivery.

    Raises RedeliveryScopeError if the delivery is in flight, its webhook was deleted or its payload
    was erased.
    """
    # The webhook says whose redelivery it is where no user is known to have asked.
    scope = Scope(
        delivery_ids=(delivery.id,),
        webhook_id=delivery.webhook_id,
        statuses=tuple(sorted(REPEATABLE)),
    )
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
    matched_count: int | None = None,
) -> Redelivery:
    """Store a request to create deliveries of events that the webhook missed in a time range.

    A webhook misses events before it is created and while it is disabled. `since` may be None if
    `event_id` names a single event. An ordered webhook may receive the deliveries out of order (see
    warnings_of()). `rate_limit` is in deliveries per second. `matched_count` is the number of the
    events if the caller has counted them. Raises RedeliveryScopeError.
    """
    scope = replay_scope(
        webhook, since, until, event_id=event_id, event_type=event_type, limit=limit
    )
    return Redelivery.objects.create(
        scope=scope.to_json(),
        is_replay=True,
        matched_count=_count(missing(webhook, scope), scope, matched_count),
        requested_by=requested_by,
        rate_limit=rate_limit,
    )


def redeliveries_of(owner_id: Any, *, is_operator: bool = False) -> QuerySet[Redelivery]:
    """Return what an owner may see: the redeliveries of the owner or of one of the owner's webhooks.

    Where owners are users, only those that the owner asked for; with `is_operator`, of others too.
    """
    rows = Redelivery.objects.all()
    if owners_are_users():
        rows = rows.filter(requested_by_id=owner_id)
        if is_operator:
            return rows
    webhooks = Webhook.objects.filter(owner_id=owner_id).values_list("pk", flat=True)
    # Not all that the user asked for: he may act, or have acted, for other owners, too.
    return rows.filter(
        Q(scope__owner_id=plain_owner_key(owner_id))
        | Q(scope__webhook_id__in=list(map(str, webhooks)))
    )


def cancel(redelivery: Redelivery) -> bool:
    """Stop a redelivery and return whether it was running; queued deliveries are still sent."""
    return bool(
        Redelivery.objects.filter(id=redelivery.id, status=Redelivery.Status.RUNNING).update(
            status=Redelivery.Status.CANCELLED, finished_at=timezone.now()
        )
    )
