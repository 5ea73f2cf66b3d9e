"""Which webhooks an event reaches: the active ones of its owner and the platform's, by filter."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

from django.db import connection
from django.db.models import Q

from webhooks import catalog
from webhooks.models import Delivery, Event, Webhook

RECEIVING_SQL = """
SELECT id, owner_id, events, ordered FROM webhooks_webhook
 WHERE (owner_id = ANY(%s::uuid[]) OR is_platform) AND active AND deleted_at IS NULL
"""


class Receiver(NamedTuple):
    """A webhook as the fan-out needs it; a platform webhook has no owner."""

    id: UUID
    owner_id: UUID | None
    patterns: list[str]
    is_ordered: bool


Target = tuple[Event, Receiver]


def fan_out(events: Sequence[Event]) -> Iterator[Target]:
    """Yield every webhook that is to receive each event, and count them on the event."""
    owner_ids = list({event.owner_id for event in events if event.owner_id is not None})
    receivers = _Receivers(owner_ids)
    for event in events:
        targets = receivers.of(event.type, event.owner_id)
        event.fanout_count = len(targets)
        for receiver in targets:
            yield event, receiver


class _Receivers:
    """The webhooks of some owners and the platform's, in one query."""

    def __init__(self, owner_ids: list[UUID]) -> None:
        with connection.cursor() as cursor:
            cursor.execute(RECEIVING_SQL, [owner_ids])
            self._by_owner: dict[UUID | None, list[Receiver]] = {}
            for row in cursor:
                receiver = Receiver(*row)
                self._by_owner.setdefault(receiver.owner_id, []).append(receiver)
        self._targets: dict[tuple[str, UUID | None], list[Receiver]] = {}

    def of(self, event_type: str, owner_id: UUID | None) -> list[Receiver]:
        key = event_type, owner_id
        if key not in self._targets:
            patterns = catalog.patterns_matching(event_type)
            near = self._by_owner.get(owner_id, ()) if owner_id is not None else ()
            self._targets[key] = [
                receiver
                for receiver in (*near, *self._by_owner.get(None, ()))
                if not patterns.isdisjoint(receiver.patterns)
            ]
        return self._targets[key]


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
    if webhook.created_at > event.created_at:
        return False, f"It was created after the event, at {catalog.wire_time(webhook.created_at)}."
    who = "Every owner's events" if webhook.is_platform else "The owner's events"
    return True, f"{who} reach it, and its filter selects {event.type} by {matching[0]}."
