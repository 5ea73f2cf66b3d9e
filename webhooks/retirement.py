"""What becomes of a user's webhooks when the user goes."""

from typing import Any

from django.db.models import QuerySet
from django.utils import timezone

from webhooks.choices import DeliveryStatus
from webhooks.models import Delivery, Webhook


def retire_webhooks_of(users: QuerySet[Any]) -> None:
    """Soft-delete the users' webhooks and cancel what waits for them.

    Comes before the events of the deletion: these must not reach the webhooks that go with it.
    What a worker holds is left to it; what other transactions still add, the dispatcher cancels.
    """
    now = timezone.now()
    webhooks = Webhook.objects.filter(owner_id__in=users.order_by().values("pk"))
    webhooks.filter(deleted_at=None).update(active=False, deleted_at=now, updated_at=now)
    Delivery.objects.filter(webhook__in=webhooks, finished_at=None, claimed_by=None).update(
        status=DeliveryStatus.CANCELLED,
        finished_at=now,
        next_attempt_at=None,
        error="The webhook was deleted.",
    )
