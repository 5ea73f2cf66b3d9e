"""Which deliveries a redelivery sends again, and which events a replay finds missing: reads only."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db.models import Exists, OuterRef, QuerySet
from django.utils import timezone

from webhooks import catalog
from webhooks.choices import DeliveryStatus
from webhooks.errors import RedeliveryScopeError
from webhooks.ids import first_id_of
from webhooks.models import Delivery, Event, Redelivery, Webhook
from webhooks.models.delivery import DeliveryQuerySet

SHOWN = 3
"""Webhooks that a warning names."""


REPEATABLE = frozenset(DeliveryStatus.values) - {DeliveryStatus.SENDING}
"""What is in flight is left alone; everything else may go (again) now."""


@dataclass(frozen=True)
class Scope:
    """Which deliveries: all conditions together. Times are those of the delivery's creation."""

    delivery_ids: tuple[UUID, ...] | None = None
    """None for all that fit the rest; an empty tuple names none."""
    webhook_id: UUID | None = None
    event_id: UUID | None = None
    event_type: str | None = None
    owner_id: UUID | None = None
    statuses: tuple[str, ...] = (DeliveryStatus.FAILED,)
    since: datetime | None = None
    until: datetime | None = None
    limit: int | None = None
    """At most so many, the oldest first."""

    def check(self) -> None:
        """Raise RedeliveryScopeError for a scope that means everything, or nothing possible."""
        is_named = self.delivery_ids is not None
        if not (is_named or self.webhook_id or self.event_id or self.owner_id):
            raise RedeliveryScopeError
        if unknown := set(self.statuses) - REPEATABLE:
            raise RedeliveryScopeError(
                f"Not a status that can be redelivered: {', '.join(sorted(unknown))}."
            )
        if self.since and self.until and self.since > self.until:
            raise RedeliveryScopeError("The time range ends before it starts.")

    def to_json(self) -> dict[str, Any]:
        return {name: _plain(value) for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Scope":
        values = dict(stored)
        for name in ("webhook_id", "event_id", "owner_id"):
            if name in values:
                values[name] = UUID(values[name])
        for name in ("since", "until"):
            if name in values:
                values[name] = datetime.fromisoformat(values[name])
        if "delivery_ids" in values:
            values["delivery_ids"] = tuple(map(UUID, values["delivery_ids"]))
        values["statuses"] = tuple(values.get("statuses", ()))
        return cls(**values)


def scope_of(asked: Redelivery) -> Scope | None:
    """Return what was asked for; None where another version wrote it and this cannot read it."""
    try:
        return Scope.from_json(asked.scope)
    except (AttributeError, TypeError, ValueError):
        return None


def _plain(value: Any) -> Any:
    if isinstance(value, int):
        return value
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value)


def matching(scope: Scope) -> DeliveryQuerySet:
    """Return the deliveries that a redelivery of this scope would send, oldest first."""
    scope.check()
    found = Delivery.objects.filter(status__in=scope.statuses, webhook__deleted_at=None).exclude(
        event__payload=b""
    )
    if scope.delivery_ids is not None:
        found = found.filter(id__in=scope.delivery_ids)
    for name in ("webhook_id", "event_id", "event_type", "owner_id"):
        if value := getattr(scope, name):
            found = found.filter(**{name: value})
    if scope.since:
        found = found.filter(created_at__gte=scope.since)
    if scope.until:
        found = found.filter(created_at__lt=scope.until)
    return found.order_by("id")


def warnings_of(scope: Scope | None) -> list[str]:
    """Return what whoever asks for this redelivery or replay should know, a sentence each.

    That is, so far: which ordered webhooks it may send to, whose order it does not keep.
    """
    if scope is None:
        return []
    webhooks = Webhook.objects.filter(deleted_at=None)
    if scope.webhook_id:
        webhooks = webhooks.filter(id=scope.webhook_id)
    elif scope.delivery_ids is not None or scope.event_id:
        # A replay names its webhook; so these deliveries exist.
        of_webhook = Delivery.objects.filter(webhook=OuterRef("id"))
        if scope.delivery_ids is not None:
            of_webhook = of_webhook.filter(id__in=scope.delivery_ids)
        if scope.event_id:
            of_webhook = of_webhook.filter(event_id=scope.event_id)
        webhooks = webhooks.filter(Exists(of_webhook))
    if scope.owner_id:
        webhooks = webhooks.filter(owner_id=scope.owner_id)
    return order_warnings(webhooks)


def order_warnings(webhooks: QuerySet[Webhook]) -> list[str]:
    """Return the sentence about those of the webhooks that are ordered, if any. One statement."""
    names = list(
        webhooks.filter(ordered=True).order_by("id").values_list("name", flat=True)[: SHOWN + 1]
    )
    if not names:
        return []
    named = ", ".join(names[:SHOWN]) + (" and others" if len(names) > SHOWN else "")
    return [
        f"Not in order: {named} receives its events in their order, but what is redelivered or "
        "replayed is exempt from it and can arrive in any order, also behind newer events."
    ]


def replay_scope(
    webhook: Webhook,
    since: datetime | None,
    until: datetime | None = None,
    *,
    event_id: UUID | None = None,
    event_type: str | None = None,
    limit: int | None = None,
) -> Scope:
    """Return the scope of a replay, for missing(); raises RedeliveryScopeError."""
    if since is None and event_id is None:
        raise RedeliveryScopeError("Say from when on events are to be looked at, or name one.")
    scope = Scope(
        webhook_id=webhook.id,
        event_id=event_id,
        event_type=event_type,
        since=since,
        until=min(until or timezone.now(), timezone.now()),
        limit=limit,
        statuses=(),
    )
    scope.check()
    return scope


def missing(webhook: Webhook, scope: Scope) -> QuerySet[Event]:
    """Return the events of a time range that this webhook selects and has no delivery of."""
    types = [one.name for one in catalog.all_types() if webhook.receives(one.name)]
    if scope.event_type:
        types = [name for name in types if name == scope.event_type]
    found = Event.objects.filter(type__in=types).exclude(payload=b"")
    if scope.event_id:
        found = found.filter(id=scope.event_id)
    if webhook.is_platform:
        found = found.filter(is_self_reported=False)
    else:
        found = found.filter(owner_id=webhook.owner_id)
    if scope.since:
        found = found.filter(id__gte=first_id_of(scope.since), created_at__gte=scope.since)
    if scope.until:
        found = found.filter(created_at__lt=scope.until)
    exists = Exists(Delivery.objects.filter(webhook=webhook, event_id=OuterRef("id")))
    return found.exclude(exists)


def webhooks_missing(event: Event) -> list[Webhook]:
    """Return the webhooks that select an event now and have no delivery of it."""
    found = Webhook.objects.receiving(event).exclude(
        Exists(Delivery.objects.filter(webhook=OuterRef("id"), event_id=event.id))
    )
    return [webhook for webhook in found.order_by("id") if webhook.receives(event.type)]
