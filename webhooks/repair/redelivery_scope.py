"""Select the deliveries of a redelivery and the missing events of a replay. Only reads."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.models import Exists, OuterRef, QuerySet

from webhooks.choices import DeliveryStatus, Order
from webhooks.errors import RedeliveryScopeError
from webhooks.ids import first_id_of
from webhooks.models import Delivery, Event, Redelivery, Webhook
from webhooks.models.delivery import DeliveryQuerySet
from webhooks.models.owner_keys import parse_owner_key
from webhooks.outbox.filtering import let_through, reasons
from webhooks.postgres.sql import database_now

CLOCKS_APART = timedelta(hours=1)
"""The id of an event or a delivery is never older than its `created_at` by more: they are by different
clocks."""
MAX_NAMED_WEBHOOKS = 3
"""How many webhooks a warning names."""

REPEATABLE = frozenset(DeliveryStatus.values) - {DeliveryStatus.SENDING}
"""The statuses of deliveries that may be sent again: all except those in flight."""


@dataclass(frozen=True)
class Scope:
    """The deliveries that match all of these conditions; times are those of their creation."""

    delivery_ids: tuple[UUID, ...] | None = None
    """None means any delivery; an empty tuple means none."""
    webhook_id: UUID | None = None
    event_id: UUID | None = None
    event_type: str | None = None
    owner_id: Any = None
    statuses: tuple[str, ...] = (DeliveryStatus.FAILED,)
    failure_kind: str | None = None
    """Why the last attempt failed (FailureKind)."""
    response_codes: tuple[int, int] | None = None
    """The first and last response code of the last attempt that match."""
    since: datetime | None = None
    until: datetime | None = None
    limit: int | None = None
    """The maximum number of deliveries, the oldest first."""

    def check(self) -> None:
        """Raise RedeliveryScopeError if the scope is unlimited or cannot match any delivery."""
        has_ids = self.delivery_ids is not None
        if not (has_ids or self.webhook_id or self.event_id or self.owner_id):
            raise RedeliveryScopeError
        if unknown := set(self.statuses) - REPEATABLE:
            raise RedeliveryScopeError(
                f"Deliveries with this status cannot be redelivered: {', '.join(sorted(unknown))}."
            )
        if self.since and self.until and self.since > self.until:
            raise RedeliveryScopeError("The time range ends before it starts.")

    def to_json(self) -> dict[str, Any]:
        return {name: _plain(value) for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Scope":
        values = dict(stored)
        for name in ("webhook_id", "event_id"):
            if name in values:
                values[name] = UUID(values[name])
        if "owner_id" in values:
            values["owner_id"] = parse_owner_key(values["owner_id"])
        for name in ("since", "until"):
            if name in values:
                values[name] = datetime.fromisoformat(values[name])
        if "delivery_ids" in values:
            values["delivery_ids"] = tuple(map(UUID, values["delivery_ids"]))
        if "response_codes" in values:
            first, last = values["response_codes"]
            values["response_codes"] = first, last
        values["statuses"] = tuple(values.get("statuses", ()))
        return cls(**values)


def scope_of(redelivery: Redelivery) -> Scope | None:
    """Return a redelivery's scope, or None if another version wrote it in an unknown form."""
    try:
        return Scope.from_json(redelivery.scope)
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


def not_after_now(until: datetime | None) -> datetime:
    """Return `until`, or now where that is earlier, by the clock that wrote `created_at`."""
    now = database_now()
    return min(until or now, now)


def matching(scope: Scope) -> DeliveryQuerySet:
    """Return the deliveries that a redelivery of this scope sends, oldest first, without the limit.

    Raises RedeliveryScopeError for an invalid scope.
    """
    scope.check()
    matches = Delivery.objects.filter(status__in=scope.statuses, webhook__deleted_at=None).exclude(
        event__payload=b""
    )
    if scope.delivery_ids is not None:
        matches = matches.filter(id__in=scope.delivery_ids)
    for name in ("webhook_id", "event_id", "event_type", "owner_id", "failure_kind"):
        if value := getattr(scope, name):
            matches = matches.filter(**{name: value})
    if scope.response_codes:
        matches = matches.filter(response_code__range=scope.response_codes)
    if scope.since:
        matches = matches.filter(created_at__gte=scope.since, id__gte=_first_id(scope.since))
    if scope.until:
        matches = matches.filter(created_at__lt=scope.until)
    return matches.order_by("id")


def _first_id(since: datetime) -> UUID:
    """Return the least id of a row that was created since then: an index finds where to begin."""
    return first_id_of(since - CLOCKS_APART)


def warnings_of(scope: Scope | None) -> list[str]:
    """Return warnings about a redelivery or replay, one sentence each.

    The only warning so far names the ordered webhooks whose order it does not keep.
    """
    if scope is None:
        return []
    webhooks = Webhook.objects.filter(deleted_at=None)
    if scope.webhook_id:
        webhooks = webhooks.filter(id=scope.webhook_id)
    elif scope.delivery_ids is not None or scope.event_id:
        # A replay has a webhook_id, so this is a redelivery, whose deliveries exist.
        deliveries = Delivery.objects.filter(webhook=OuterRef("id"))
        if scope.delivery_ids is not None:
            deliveries = deliveries.filter(id__in=scope.delivery_ids)
        if scope.event_id:
            deliveries = deliveries.filter(event_id=scope.event_id)
        webhooks = webhooks.filter(Exists(deliveries))
    if scope.owner_id:
        webhooks = webhooks.filter(owner_id=scope.owner_id)
    return order_warnings(webhooks)


def order_warnings(webhooks: QuerySet[Webhook]) -> list[str]:
    """Return a warning about the ordered ones of these webhooks, or nothing. One statement."""
    ordered = webhooks.exclude(order=Order.NONE).order_by("id")
    names = list(ordered.values_list("name", flat=True)[: MAX_NAMED_WEBHOOKS + 1])
    if not names:
        return []
    named = ", ".join(names[:MAX_NAMED_WEBHOOKS])
    if len(names) > MAX_NAMED_WEBHOOKS:
        named += " and others"
    return [
        f"Not in order: {named} receives events in order, but redelivered and replayed events may "
        "arrive in any order, also after newer events."
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
        raise RedeliveryScopeError("Give the start of the time range, or an event.")
    scope = Scope(
        webhook_id=webhook.id,
        event_id=event_id,
        event_type=event_type,
        since=since,
        until=not_after_now(until),
        limit=limit,
        statuses=(),
    )
    scope.check()
    return scope


def missing(webhook: Webhook, scope: Scope) -> QuerySet[Event]:
    """Return the scope's events that this webhook selects, filter and all, but has no delivery of."""
    types = [event_type.name for event_type in webhook.event_types]
    if scope.event_type:
        types = [name for name in types if name == scope.event_type]
    events = Event.objects.filter(type__in=types).exclude(payload=b"")
    if scope.event_id:
        events = events.filter(id=scope.event_id)
    if webhook.is_platform:
        events = events.filter(is_self_reported=False)
    else:
        events = events.filter(owner_id=webhook.owner_id)
    if scope.since:
        events = events.filter(created_at__gte=scope.since, id__gte=_first_id(scope.since))
    if scope.until:
        events = events.filter(created_at__lt=scope.until)
    exists = Exists(Delivery.objects.filter(webhook=webhook, event_id=OuterRef("id")))
    return let_through(events.exclude(exists), webhook)


def webhooks_missing(event: Event) -> list[Webhook]:
    """Return the webhooks that currently select an event, filter and all, but have no delivery of it."""
    webhooks = Webhook.objects.receiving(event).exclude(
        Exists(Delivery.objects.filter(webhook=OuterRef("id"), event_id=event.id))
    )
    selecting = [one for one in webhooks.order_by("id") if one.receives(event.type)]
    filtered = reasons(selecting, event, with_values=False)
    return [one for one in selecting if one.id not in filtered]
