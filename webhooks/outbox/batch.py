"""Trigger many events with a separate result for each, so that one error fails only its own event.

The valid events are stored together, in as many statements as a single event takes.
"""

from collections.abc import Callable, Sequence
from uuid import UUID

from django.db.models import Q

from webhooks.errors import IdempotencyConflictError, WebhooksError
from webhooks.models import Event
from webhooks.outbox.store import Trigger, build_trigger, store_events

Result = Event | WebhooksError
Key = tuple[UUID | None, str, bool]
"""The unique columns of an event: owner, idempotency key, whether it is self-reported."""
Store = Callable[[Sequence[Event]], set[UUID]]
"""store_events(), or a function that wraps it."""


def trigger_each(triggers: Sequence[Trigger | WebhooksError]) -> list[Result]:
    """Store the valid events; return an event or an error for each trigger, in the same order.

    For a known idempotency key the result is the event of its first use, even earlier in the same
    batch; if the data differs, it is an IdempotencyConflictError. Errors among the arguments are
    returned as they are. Raises only database errors.
    """
    return store_each([build_each(trigger) for trigger in triggers])


def build_each(trigger: Trigger | WebhooksError) -> Result:
    """Return the unsaved event of a trigger, or the error in it."""
    if isinstance(trigger, WebhooksError):
        return trigger
    try:
        return build_trigger(trigger)
    except WebhooksError as problem:
        return problem


def store_each(results: Sequence[Result], store: Store = store_events) -> list[Result]:
    """Store the events among the results and return the results; see trigger_each()."""
    events = [result for result in results if isinstance(result, Event)]
    # The two statements need no common transaction: a used key stays used.
    stored_ids = store(events)
    first_uses = _first_uses([event for event in events if event.id not in stored_ids])
    return [
        result
        if isinstance(result, WebhooksError) or result.id in stored_ids
        else _first_use(result, first_uses)
        for result in results
    ]


def _first_uses(events: Sequence[Event]) -> dict[Key, Event]:
    """Return the stored events with the idempotency keys of these events. One statement."""
    keys: dict[UUID | None, list[str]] = {}
    for event in events:
        keys.setdefault(event.owner_id, []).append(event.idempotency_key or "")
    if not keys:
        return {}
    wanted = Q()
    for owner_id, texts in keys.items():
        wanted |= Q(owner_id=owner_id, idempotency_key__in=texts)
    # Postgres needs this condition to use the partial index event_idempotency_by_source.
    found = Event.objects.filter(wanted, idempotency_key__isnull=False).defer("payload")
    return {_key_of(event): event for event in found}


def _key_of(event: Event) -> Key:
    return event.owner_id, event.idempotency_key or "", event.is_self_reported


def _first_use(event: Event, first_uses: dict[Key, Event]) -> Result:
    first = first_uses[_key_of(event)]
    if bytes(first.body_hash or b"") == bytes(event.body_hash or b""):
        return first
    return IdempotencyConflictError(
        f"The idempotency key {event.idempotency_key!r} was already used with other data."
    )
