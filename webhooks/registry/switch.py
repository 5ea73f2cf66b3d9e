"""Enable and disable webhooks, by hand or automatically, and pause all sending.

Deliveries of a disabled webhook wait until it is enabled again (invariant 12).
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Literal
from urllib.parse import urlsplit
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import Q, QuerySet
from django.db.models.functions import Now
from django.utils import timezone

from webhooks import catalog
from webhooks.choices import BreakerState
from webhooks.errors import WebhookNotSendingError, WebhookUnprovedError
from webhooks.models import Delivery, Pause, Webhook
from webhooks.models.delivery import COUNTED_AT_MOST, DeliveryQuerySet
from webhooks.models.owner_keys import NO_OWNER
from webhooks.outbox import store, wakeup
from webhooks.pace.breaker import THRESHOLD
from webhooks.postgres.objects import make_next_due

UNPROVED = "It is not proved yet that this URL's owner wants our requests: verify the webhook."
"""Why a webhook is disabled if WEBHOOKS_ENDPOINT_PROOF is `require`."""
DELETED = "The webhook is deleted: make a new one."

RECENT = timedelta(days=3)
BATCH = 5_000
"""The maximum deliveries that one statement cancels."""

RECOVERED: dict[str, Any] = {
    "breaker_state": BreakerState.CLOSED,
    "breaker_failures": 0,
    "breaker_probes": 0,
    # The window starts at one.
    "breaker_changed_at": Now(),
    "breaker_probe_at": None,
    "failing_since": None,
    "held_until": None,
}
"""The health of a webhook whose failures and holds are over."""

Waiting = Literal["recent", "all", "none"]
"""Which pending deliveries to send: those younger than three days, all, or none."""


def disable(webhook: Webhook, reason: str = "") -> None:
    """Stop sending to a webhook; its deliveries wait. Takes effect within a second everywhere.

    Raises WebhookNotSendingError for one that is disabled already, whose reason stays, or deleted.
    """
    changes = {"active": False, "disabled_reason": reason, "disabled_at": Now()}
    _switch(webhook, changes)


def enable(webhook: Webhook, *, send: Waiting = "recent") -> int:
    """Enable a webhook as if it had never failed; return its number of pending deliveries.

    Cancels the deliveries that `send` leaves out. Counts at most COUNTED_AT_MOST + 1. Raises
    WebhookUnprovedError, and WebhookNotSendingError for one that is not disabled, or deleted; then it
    cancels nothing, unless somebody else was faster and the caller has no transaction.
    """
    if not Webhook.objects.filter(id=webhook.id, active=False, deleted_at=None).exists():
        raise _refusal(webhook)
    if settings.WEBHOOKS_ENDPOINT_PROOF == "require" and not webhook.verified:
        raise WebhookUnprovedError
    waiting = Delivery.objects.filter(webhook=webhook).waiting()
    if send == "none":
        _cancel_all(waiting)
    elif send == "recent":
        _cancel_all(waiting.filter(created_at__lt=Now() - RECENT))
    count = waiting[: COUNTED_AT_MOST + 1].count()
    changes = {
        "active": True,
        "disabled_reason": "",
        "disabled_at": None,
        "notice_due_at": None,
        "notice_failures": 0,
        "notice_error": "",
        **RECOVERED,
    }
    # Last, because other transactions wait for the row while it is locked.
    _switch(webhook, changes)
    transaction.on_commit(wakeup.nudge, robust=True)
    return count


def _switch(webhook: Webhook, changes: dict[str, Any]) -> None:
    """Write the columns of a switch, and no others; raises WebhookNotSendingError if it is so already.

    The statement itself looks at the row, because the instance may be older than another
    transaction's change.
    """
    changes["updated_at"] = timezone.now()
    rows = Webhook.objects.filter(id=webhook.id, active=not changes["active"], deleted_at=None)
    if not rows.update(**changes):
        raise _refusal(webhook)
    webhook.refresh_from_db(fields=[*changes])


def _refusal(webhook: Webhook) -> WebhookNotSendingError:
    rows = Webhook.objects.filter(id=webhook.id, deleted_at=None)
    is_active = rows.values_list("active", flat=True).first()
    if is_active is None:
        return WebhookNotSendingError(DELETED)
    return WebhookNotSendingError(
        "The webhook is not disabled: look at its page before you enable it."
        if is_active
        else "The webhook is disabled already: enable it first."
    )


def close_breaker(webhook: Webhook) -> bool:
    """Close a breaker that is not closed, as after a successful probe; return whether it was open."""
    rows = Webhook.objects.filter(id=webhook.id, active=True, deleted_at=None)
    return _recover(webhook, rows.exclude(breaker_state=BreakerState.CLOSED))


def forget_failures(webhook: Webhook) -> None:
    """Begin anew with a webhook that fails or is held, because it has moved to another server."""
    healthy = Q(breaker_state=BreakerState.CLOSED, failing_since=None, held_until=None)
    _recover(webhook, Webhook.objects.filter(id=webhook.id).exclude(healthy))


def _recover(webhook: Webhook, rows: QuerySet[Webhook]) -> bool:
    is_changed = bool(rows.update(**RECOVERED))
    if is_changed:
        webhook.refresh_from_db(fields=[*RECOVERED])
        transaction.on_commit(wakeup.nudge, robust=True)
    return is_changed


@transaction.atomic
def try_now(webhook: Webhook) -> None:
    """Send a webhook's next delivery at once, whatever its breaker, Retry-After or retry waits for.

    Success closes the breaker and the other deliveries follow; one failure opens it again. Raises
    WebhookNotSendingError for a disabled webhook, and if no delivery waits.
    """
    found = Webhook.objects.select_for_update(no_key=True).filter(
        id=webhook.id, active=True, deleted_at=None
    )
    if not found.exists():
        raise WebhookNotSendingError("The webhook is disabled: enable it first.")
    waiting = Delivery.objects.filter(owner_id=webhook.owner_id or NO_OWNER, webhook=webhook)
    waiting = waiting.filter(finished_at=None)
    # One of each index of unfinished rows.
    nearest = waiting.filter(order_key=None).order_by("next_attempt_at")
    in_order = waiting.exclude(order_key=None).order_by("epoch", "order_key", "id")
    ids = [delivery.id for rows in (nearest, in_order) for delivery in rows.only("id")[:1]]
    if not ids:
        raise WebhookNotSendingError("No delivery waits: send a test request instead.")
    Delivery.objects.filter(id__in=ids, next_attempt_at__gt=Now()).waiting().update(
        next_attempt_at=Now()
    )
    found.filter(held_until__gt=Now()).update(held_until=None, breaker_changed_at=Now())
    found.exclude(breaker_state=BreakerState.CLOSED).update(
        breaker_state=BreakerState.CLOSED,
        breaker_failures=THRESHOLD - 1,
        breaker_probes=0,
        breaker_changed_at=Now(),
        breaker_probe_at=None,
    )
    transaction.on_commit(wakeup.nudge, robust=True)


def resume_webhooks_of(owner_ids: Sequence[UUID]) -> None:
    """Make workers visit the webhooks of reactivated accounts at once rather than within a minute.

    Workers then send the pending deliveries as after a recovery.
    """
    rows = Webhook.objects.filter(owner_id__in=owner_ids, active=True, deleted_at=None)
    rows.filter(breaker_state="closed").update(breaker_changed_at=Now())
    transaction.on_commit(wakeup.nudge, robust=True)


def _cancel_all(unwanted: DeliveryQuerySet) -> None:
    """Cancel in batches, in the order of ids; each is a transaction unless the caller has one."""
    while True:
        with transaction.atomic():
            locked = unwanted.select_for_update(no_key=True).order_by("id")
            ids = list(locked.values_list("id", flat=True)[:BATCH])
            Delivery.objects.filter(id__in=ids).cancel("It waited while the webhook was disabled.")
            _wake_next_of(ids)
        if len(ids) < BATCH:
            return


def disable_automatically(webhook_ids: Sequence[UUID], reason: str, now: datetime) -> None:
    """Disable webhooks, schedule the mails to their owners, and trigger `webhook.disabled`."""
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
    """Return a URL without its path and query, which may hold secrets."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def cancel(delivery: Delivery, reason: str = "Cancelled by hand.") -> bool:
    """Cancel a pending delivery; return False if it is not pending."""
    with transaction.atomic():
        is_cancelled = bool(Delivery.objects.filter(id=delivery.id).waiting().cancel(reason))
        if is_cancelled and delivery.object_key is not None:
            _wake_next_of([delivery.id])
    return is_cancelled


def _wake_next_of(cancelled: Sequence[UUID]) -> None:
    """Once these are finished, make due what waited for them in the order of their objects."""

    def wake() -> None:
        if make_next_due(cancelled):
            wakeup.nudge()

    transaction.on_commit(wake, robust=True)


def pause_sending(reason: str = "", *, paused_by: Any = None) -> Pause:
    """Pause all sending within a second; deliveries wait. An existing pause keeps its reason.

    `is_new` of the pause says whether this call has begun it.
    """
    pause, is_new = Pause.objects.get_or_create(
        id=True, defaults={"reason": reason, "paused_by": paused_by}
    )
    pause.is_new = is_new
    return pause


def resume_sending() -> bool:
    """End the pause; return False if there was none."""
    with transaction.atomic():
        deleted, _ = Pause.objects.all().delete()
        transaction.on_commit(wakeup.nudge, robust=True)
    return bool(deleted)
