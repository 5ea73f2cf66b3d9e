"""The public Python API: trigger events, manage webhooks, look at deliveries.

A caller's mistake raises at once; nothing here ever raises because of delivery.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from django.db import transaction
from django.utils import timezone

from webhooks.models import Delivery, SigningSecret, Webhook
from webhooks.models.delivery import DeliveryQuerySet
from webhooks.outbox import Owner, Trigger, trigger_event, trigger_events
from webhooks.routing import Considered, Explanation, explain

__all__ = [
    "Considered",
    "Explanation",
    "Trigger",
    "create_webhook",
    "delete_webhook",
    "explain",
    "get_deliveries",
    "get_webhooks",
    "trigger_event",
    "trigger_events",
]


def create_webhook(
    owner: Owner,
    *,
    name: str,
    url: str,
    events: Sequence[str],
    headers: Mapping[str, str] | None = None,
    secret: str | None = None,
    **settings: Any,
) -> Webhook:
    """Register a webhook and return it; `webhook.secret` is readable on this instance only.

    `owner=None` with `is_platform=True` makes a platform webhook. Raises ValidationError, naming
    every field that is wrong, and stores nothing then.
    """
    webhook = Webhook(
        owner_id=getattr(owner, "pk", owner), name=name, url=url, events=list(events), **settings
    )
    webhook.headers = dict(headers or {})
    webhook.full_clean()
    value = secret or None
    with transaction.atomic():
        webhook.save(force_insert=True)
        signing_secret = SigningSecret.build(webhook, value)
        signing_secret.save(force_insert=True)
    webhook._secret = signing_secret.value
    return webhook


def get_webhooks(owner: Owner) -> Any:
    """Return the owner's webhooks, newest first."""
    return Webhook.objects.for_owner(getattr(owner, "pk", owner)).order_by("-id")


def delete_webhook(webhook: Webhook) -> None:
    """Delete a webhook softly; the dispatcher cancels what is waiting for it."""
    webhook.active = False
    webhook.deleted_at = timezone.now()
    webhook.save(update_fields=["active", "deleted_at", "updated_at"])


def get_deliveries(
    webhook: Webhook, owner: Owner, *, status: str | None = None
) -> DeliveryQuerySet:
    """Return a webhook's deliveries, newest first; none where the webhook is not the owner's."""
    deliveries = Delivery.objects.filter(
        webhook=webhook, webhook__owner_id=getattr(owner, "pk", owner)
    ).select_related("event")
    if status is not None:
        deliveries = deliveries.filter(status=status)
    return deliveries.order_by("-id")
