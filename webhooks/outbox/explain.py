"""Explain why an event was or was not sent to each webhook.

The fan-out itself is STORE_SQL in webhooks/outbox/store.py.
"""

from dataclasses import dataclass
from typing import Any

from django.db.models import Q

from webhooks import catalog
from webhooks.models import Delivery, Event, Webhook
from webhooks.outbox import filtering

MAX_DELETED = 100
"""Deleted webhooks do not count towards an owner's maximum, so that there may be any number."""


@dataclass(frozen=True, slots=True)
class Considered:
    """A webhook of the event's owner or of the platform, and whether it receives the event."""

    webhook: Webhook
    matches: bool
    """Whether the webhook would receive the event with its current settings."""
    reason: str
    """A sentence that explains `matches`."""
    delivery: Delivery | None
    """The delivery that the fan-out stored at the time, if any."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """The recipients of an event, at the time and with the webhooks' current settings."""

    event: Event
    fanout_count: int
    """The number of deliveries that the fan-out stored at the time."""
    considered: list[Considered]


def explain(event: Event, *, with_values: bool = True) -> Explanation:
    """Explain for each webhook of the event's owner and of the platform whether it receives the event.

    Webhooks that were deleted before the event are left out, and all but the latest of those that were
    deleted since. The reasons come from the current settings, because the fan-out stores nothing for a
    webhook that does not match. The deliveries stored at the time are returned beside them.

    The reason for a filter quotes the data, unless `with_values` is false.
    """
    deliveries: dict[Any, Delivery] = {
        delivery.webhook_id: delivery for delivery in event.deliveries.all()
    }
    listening = Q(is_platform=True)
    if event.owner_id is not None:
        listening |= Q(owner_id=event.owner_id)
    deleted = Webhook.objects.filter(listening, deleted_at__gte=event.created_at).order_by("-id")
    was_there = Q(deleted_at=None) | Q(id__in=deleted.values("id")[:MAX_DELETED])
    candidates = listening & was_there | Q(id__in=deliveries.keys())
    webhooks = list(Webhook.objects.filter(candidates).order_by("id"))
    filtered = filtering.reasons(webhooks, event, with_values=with_values)
    considered = [
        Considered(
            webhook, *_reason(webhook, event, filtered.get(webhook.id)), deliveries.get(webhook.id)
        )
        for webhook in webhooks
    ]
    return Explanation(event, event.fanout_count, considered)


def _reason(webhook: Webhook, event: Event, filtered: str | None) -> tuple[bool, str]:
    matching = [
        pattern for pattern in webhook.events if pattern in catalog.patterns_matching(event.type)
    ]
    if webhook.deleted_at is not None:
        return False, f"It was deleted at {catalog.wire_time(webhook.deleted_at)}."
    if not webhook.active:
        why = webhook.disabled_reason.rstrip(".") or "disabled manually"
        return False, f"It is disabled: {why}."
    if not matching:
        return (
            False,
            f"Its list of events ({', '.join(webhook.events)}) does not select {event.type}.",
        )
    if webhook.is_platform and event.is_self_reported:
        return False, (
            "The owner triggered the event; platform webhooks receive only events of the product."
        )
    if webhook.created_at > event.created_at:
        return False, f"It was created after the event, at {catalog.wire_time(webhook.created_at)}."
    if filtered is not None:
        return False, filtered
    whose = "every owner's" if webhook.is_platform else "its owner's"
    return (
        True,
        f"It receives {whose} events, and its list of events selects {event.type} by {matching[0]}.",
    )
