"""What becomes of a user's webhooks when the user goes."""

from typing import Any

from django.db.models import QuerySet
from django.utils import timezone

from webhooks.choices import DeliveryStatus
from webhooks.models import Delivery, Webhook

AT_ONCE = 5_000
"""Deliveries cancelled together with their webhooks."""


def retire_webhooks_of(users: QuerySet[Any]) -> None:
    """Soft-delete the users' webhooks and cancel what waits for them.

    Comes before the events of the deletion: these must not reach the webhooks that go with it.
    What a worker holds is left to it. The dispatcher cancels what is too much to be cancelled while
    others wait for this transaction, what somebody has locked, and what others still add.
    """
    now = timezone.now()
    webhooks = Webhook.objects.filter(owner_id__in=users.order_by().values("pk"))
    webhooks.filter(deleted_at=None).update(active=False, deleted_at=now, updated_at=now)
    waiting = Delivery.objects.filter(webhook__in=webhooks, finished_at=None, claimed_by=None)
    free = waiting.select_for_update(skip_locked=True, of=("self",)).values_list("id", flat=True)
    Delivery.objects.filter(id__in=list(free[:AT_ONCE])).update(
        status=DeliveryStatus.CANCELLED,
        finished_at=now,
        next_attempt_at=None,
        error="The webhook was deleted.",
    )
