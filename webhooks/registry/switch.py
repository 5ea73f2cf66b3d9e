"""Switching webhooks off and on, by people and by themselves, and what becomes of what waits.

Disabled keeps: deliveries of a disabled webhook wait until it is enabled again (invariant 12).
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Literal
from urllib.parse import urlsplit
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from webhooks import catalog
from webhooks.errors import WebhookUnprovedError
from webhooks.models import Delivery, Pause, Webhook
from webhooks.models.delivery import COUNTED_AT_MOST, DeliveryQuerySet
from webhooks.outbox import store, wakeup
from webhooks.pace.breaker import Breaker

UNPROVED = "It is not proved yet that this URL's owner wants our requests: verify the webhook."
"""Why a webhook is off where WEBHOOKS_ENDPOINT_PROOF is `require`."""

RECENT = timedelta(days=3)
BATCH = 5_000
"""Deliveries cancelled by one statement."""

Waiting = Literal["recent", "all", "none"]
"""What is sent of that which waited: what is younger than three days, everything, nothing."""


def disable(webhook: Webhook, reason: str = "") -> None:
    """Stop sending to a webhook; its deliveries wait. Takes effect within a second everywhere."""
    webhook.active = False
    webhook.disabled_reason = reason
    webhook.disabled_at = timezone.now()
    webhook.save(update_fields=["active", "disabled_reason", "disabled_at", "updated_at"])


def enable(webhook: Webhook, *, send: Waiting = "recent") -> int:
    """Send to a webhook again, as if it had never failed; returns how many deliveries now wait.

    What is not to be sent is cancelled. A webhook that was deleted meanwhile stays deleted. At most
    COUNTED_AT_MOST + 1 are counted. Raises WebhookUnprovedError.
    """
    waiting = Delivery.objects.filter(webhook=webhook).waiting()
    if send == "none":
        _cancel_all(waiting)
    elif send == "recent":
        _cancel_all(waiting.filter(created_at__lt=timezone.now() - RECENT))
    count = waiting[: COUNTED_AT_MOST + 1].count()
    if settings.WEBHOOKS_ENDPOINT_PROOF == "require" and not webhook.verified:
        raise WebhookUnprovedError
    healthy = Breaker()
    changes = {
        "active": True,
        "disabled_reason": "",
        "disabled_at": None,
        "failing_since": None,
        "held_until": None,
        "notice_due_at": None,
        "notice_failures": 0,
        "notice_error": "",
        "breaker_state": healthy.state,
        "breaker_failures": 0,
        "breaker_probes": 0,
        # The same as after a recovery: it starts with one at a time.
        "breaker_changed_at": timezone.now(),
        "breaker_probe_at": None,
    }
    for name, value in changes.items():
        setattr(webhook, name, value)
    # Last: others wait for the webhook's row, as long as it is locked. These columns and no others: the
    # instance may be older than what somebody else has changed.
    webhook.save(update_fields=[*changes, "updated_at"])
    transaction.on_commit(wakeup.nudge, robust=True)
    return count


def resume_webhooks_of(owner_ids: Sequence[UUID]) -> None:
    """Have workers look at once at the webhooks of accounts that are active again.

    Left alone they look within a minute. What waited is sent, as after a recovery.
    """
    rows = Webhook.objects.filter(owner_id__in=owner_ids, active=True, deleted_at=None)
    rows.filter(breaker_state="closed").update(breaker_changed_at=timezone.now())
    transaction.on_commit(wakeup.nudge, robust=True)


def _cancel_all(unwanted: DeliveryQuerySet) -> None:
    """Cancel in batches, each its own transaction where the caller has none, in the order of ids."""
    while True:
        with transaction.atomic():
            locked = unwanted.select_for_update(no_key=True).order_by("id")
            ids = list(locked.values_list("id", flat=True)[:BATCH])
            Delivery.objects.filter(id__in=ids).cancel("It waited while the webhook was disabled.")
        if len(ids) < BATCH:
            return


def disable_automatically(webhook_ids: Sequence[UUID], reason: str, now: datetime) -> None:
    """Disable webhooks, owe their owners a mail, and tell the owners' other webhooks."""
    with transaction.atomic():
        webhooks = list(
            Webhook.objects.select_for_update(no_key=True)
            .filter(id__in=webhook_ids, active=True, deleted_at=None)
            .order_by("id")
        )
        Webhook.objects.filter(id__in=[webhook.id for webhook in webhooks]).update(
            active=False,
            disabled_reason=reason,
            disabled_at=now,
            notice_due_at=now,
            notice_failures=0,
            notice_error="",
        )
        store.trigger_events(
            [
                store.Trigger(
                    "webhook.disabled",
                    webhook.owner_id,
                    {
                        "webhookId": webhook.public_id,
                        "name": webhook.name,
                        "url": server_of(webhook.url),
                        "reason": reason,
                        "disabledAt": catalog.wire_time(now),
                    },
                    object_reference=f"webhook:{webhook.id}",
                )
                for webhook in webhooks
            ]
        )


def server_of(url: str) -> str:
    """Return a URL without its path and query, which may be secrets of their own."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def cancel(delivery: Delivery, reason: str = "Cancelled by hand.") -> bool:
    """Cancel a delivery that waits; False when it does not wait (any more)."""
    return bool(Delivery.objects.filter(id=delivery.id).waiting().cancel(reason))


def pause_sending(reason: str = "", *, paused_by: Any = None) -> Pause:
    """Stop all sending within a second; everything waits. The first pause stands, with its reason."""
    pause, _ = Pause.objects.get_or_create(
        id=True, defaults={"reason": reason, "paused_by": paused_by}
    )
    return pause


def resume_sending() -> bool:
    """Send again; False where nothing was paused."""
    with transaction.atomic():
        deleted, _ = Pause.objects.all().delete()
        transaction.on_commit(wakeup.nudge, robust=True)
    return bool(deleted)
