"""Trigger events by hand and follow what becomes of them: what `manage.py trigger` does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from webhooks.choices import BreakerState, DeliveryStatus
from webhooks.ids import WEBHOOK_PREFIX
from webhooks.models import Attempt, Delivery, Event, Pause, Webhook
from webhooks.models.delivery import WAITING
from webhooks.models.owner_keys import NO_OWNER
from webhooks.outbox import wakeup
from webhooks.outbox.store import Owner, Trigger, trigger_events
from webhooks.repair.redelivery_progress import PATIENCE

AWAITED = (DeliveryStatus.PENDING, DeliveryStatus.SENDING)


def trigger_by_hand(
    event_type: str,
    owner: Owner,
    data: Mapping[str, Any],
    *,
    only_to: Webhook | None = None,
    count: int = 1,
    object_reference: str = "",
) -> list[Event]:
    """Store `count` equal events; with `only_to` one webhook gets them, whatever its filter says.
    That webhook gets them in no order.

    Raises what trigger_events() raises.
    """
    with transaction.atomic():
        trigger = Trigger(event_type, owner, data, object_reference=object_reference)
        events = trigger_events([trigger] * count)
        if only_to is not None:
            _address(events, only_to)
        return events


def _address(events: Sequence[Event], webhook: Webhook) -> None:
    """Replace the deliveries, which nobody has seen yet, by one to this webhook."""
    ids = [event.id for event in events]
    Delivery.objects.filter(event__in=ids).delete()
    Delivery.objects.bulk_create(
        Delivery(
            event=event,
            webhook=webhook,
            owner_id=webhook.owner_id or NO_OWNER,
            event_type=event.type,
            form=webhook.recorded_form(event.version).form,
        )
        for event in events
    )
    Event.objects.filter(id__in=ids).update(fanout_count=1)
    transaction.on_commit(wakeup.nudge, robust=True)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Where one delivery stands."""

    event_id: UUID
    delivery_id: UUID
    webhook_id: UUID
    webhook_name: str
    status: str
    response_code: int | None
    duration_ms: int | None
    """Of the last attempt."""
    error: str
    next_attempt_at: datetime | None
    held: str
    """Why nothing is sent to the webhook for now, or empty."""

    @property
    def is_awaited(self) -> bool:
        """Whether its first answer is still to come."""
        return self.status in AWAITED and not self.held

    @property
    def webhook_public_id(self) -> str:
        return WEBHOOK_PREFIX + self.webhook_id.hex


def outcomes(event_ids: Sequence[UUID]) -> list[Outcome]:
    """Return where the deliveries of some events stand, in order. Three statements."""
    is_paused, now = Pause.objects.exists(), timezone.now()
    deliveries = list(
        Delivery.objects.filter(event__in=event_ids)
        .select_related("webhook")
        .order_by("event_id", "id")
    )
    durations = dict(
        Attempt.objects.filter(delivery__in=[delivery.id for delivery in deliveries])
        .order_by("number")
        .values_list("delivery_id", "duration_ms")
    )
    return [
        Outcome(
            event_id=delivery.event_id,
            delivery_id=delivery.id,
            webhook_id=delivery.webhook_id,
            webhook_name=delivery.webhook.name,
            status=delivery.status,
            response_code=delivery.response_code,
            duration_ms=durations.get(delivery.id),
            error=delivery.error,
            next_attempt_at=delivery.next_attempt_at,
            held=_held(delivery, is_paused=is_paused, now=now),
        )
        for delivery in deliveries
    ]


def _held(delivery: Delivery, *, is_paused: bool, now: datetime) -> str:
    webhook = delivery.webhook
    if delivery.status not in WAITING:
        return ""
    if not webhook.active:
        return "switched off"
    # What is retried has had its answer.
    if delivery.status != DeliveryStatus.PENDING:
        return ""
    if is_paused:
        return "all sending is paused"
    is_open = webhook.breaker_state != BreakerState.CLOSED
    if is_open and webhook.breaker_probe_at and webhook.breaker_probe_at > now:
        return f"it keeps failing; next try at {webhook.breaker_probe_at:%H:%M:%S} UTC"
    if webhook.held_until and webhook.held_until > now + PATIENCE:
        return f"it asked for time until {webhook.held_until:%H:%M:%S} UTC"
    return ""
