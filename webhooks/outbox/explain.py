"""Why an event reached a webhook, or did not (the fan-out itself is webhooks/outbox/store.py)."""

from dataclasses import dataclass
from typing import Any

from django.db.models import Q

from webhooks import catalog
from webhooks.models import Delivery, Event, Webhook


@dataclass(frozen=True, slots=True)
class Considered:
    """One webhook that an event could have reached."""

    webhook: Webhook
    matches: bool
    """Whether it would receive the event by today's settings."""
    reason: str
    """Why it would, or would not."""
    delivery: Delivery | None
    """What the fan-out recorded at the time."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Who got an event and who did not, then and by today's settings."""

    event: Event
    fanout_count: int
    """How many webhooks it was stored for at the time."""
    considered: list[Considered]


def explain(event: Event) -> Explanation:
    """Say for every webhook of the event's owner, and of the platform, why it did or did not get it.

    The reasons are today's settings; nothing is stored for a webhook that did not match. What was
    recorded at the time stands beside them.
    """
    deliveries: dict[Any, Delivery] = {
        delivery.webhook_id: delivery for delivery in event.deliveries.all()
    }
    concerned = Q(is_platform=True) | Q(id__in=deliveries.keys())
    if event.owner_id is not None:
        concerned |= Q(owner_id=event.owner_id)
    considered = [
        Considered(webhook, *_reason(webhook, event), deliveries.get(webhook.id))
        for webhook in Webhook.objects.filter(concerned).order_by("id")
    ]
    return Explanation(event, event.fanout_count, considered)


def _reason(webhook: Webhook, event: Event) -> tuple[bool, str]:
    matching = [
        pattern for pattern in webhook.events if pattern in catalog.patterns_matching(event.type)
    ]
    if webhook.deleted_at is not None:
        return False, f"It was deleted at {catalog.wire_time(webhook.deleted_at)}."
    if not webhook.active:
        why = webhook.disabled_reason.rstrip(".") or "switched off by hand"
        return False, f"It is disabled: {why}."
    if not matching:
        return False, f"Its filter ({', '.join(webhook.events)}) does not select {event.type}."
    if webhook.is_platform and event.is_self_reported:
        return False, "Its owner triggered it; platform webhooks hear only of what happened here."
    if webhook.created_at > event.created_at:
        return False, f"It was created after the event, at {catalog.wire_time(webhook.created_at)}."
    who = "Every owner's events" if webhook.is_platform else "The owner's events"
    return True, f"{who} reach it, and its filter selects {event.type} by {matching[0]}."
