"""Delete an owner's webhooks together with the owner."""

from typing import Any

from django.db.models import QuerySet
from django.utils import timezone

from webhooks.choices import DeliveryStatus
from webhooks.models import Delivery, Webhook

AT_ONCE = 5_000
"""The maximum deliveries cancelled in the transaction that deletes their webhooks."""


def retire_webhooks_of(owners: QuerySet[Any]) -> None:
    """Soft-delete the owners' webhooks and cancel their pending deliveries.

    Call it before the events of the deletion are stored: these must not reach the deleted webhooks.
    Deliveries that a worker holds stay with it. The dispatcher cancels the rest: deliveries above
    AT_ONCE, since other transactions may wait for this one, locked ones, and those added later.
    """
    now = timezone.now()
    webhooks = Webhook.objects.filter(owner_id__in=owners.order_by().values("pk"))
    webhooks.filter(deleted_at=None).update(active=False, deleted_at=now, updated_at=now)
    waiting = Delivery.objects.filter(webhook__in=webhooks, finished_at=None, claimed_by=None)
    free = waiting.select_for_update(skip_locked=True, of=("self",)).values_list("id", flat=True)
    Delivery.objects.filter(id__in=list(free[:AT_ONCE])).update(
        status=DeliveryStatus.CANCELLED,
        finished_at=now,
        next_attempt_at=None,
        error="The webhook was deleted.",
    )
