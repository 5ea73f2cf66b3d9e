"""Self-reported events and product events have separate idempotency keys."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from projects.models import User
from tests.webhooks.history import DELETED
from webhooks import service
from webhooks.errors import IdempotencyConflictError
from webhooks.models import Event, Webhook
from webhooks.service import Trigger

Door = Callable[[Trigger], Event]


def one(trigger: Trigger) -> Event:
    (event,) = service.trigger_events([trigger])
    return event


def each(trigger: Trigger) -> Event:
    (event,) = service.trigger_each([trigger])
    assert isinstance(event, Event), event
    return event


@pytest.mark.parametrize("other_data", [{}, {"name": "Other"}])
@pytest.mark.parametrize("is_first_self_reported", [True, False])
@pytest.mark.parametrize("first_door", [one, each])
@pytest.mark.parametrize("second_door", [one, each])
def test_an_owner_cannot_take_the_key_of_a_product_event(
    user: User,
    make_webhook: Callable[..., Webhook],
    other_data: dict[str, str],
    is_first_self_reported: bool,
    first_door: Door,
    second_door: Door,
) -> None:
    platform = make_webhook(owner=None, is_platform=True)
    own = make_webhook()
    taken = Trigger(
        "project.deleted", user, DELETED, "inv-1", is_self_reported=is_first_self_reported
    )
    late = replace(taken, data=DELETED | other_data, is_self_reported=not is_first_self_reported)

    first, second = first_door(taken), second_door(late)

    assert first.id != second.id
    assert first_door(taken).id == first.id
    assert second_door(late).id == second.id
    heard = {event.is_self_reported: _webhooks_of(event) for event in (first, second)}
    assert heard == {True: {own.id}, False: {own.id, platform.id}}


def _webhooks_of(event: Event) -> set[object]:
    return set(event.deliveries.values_list("webhook_id", flat=True))


def test_one_batch_may_hold_both_kinds(user: User) -> None:
    product = Trigger("project.deleted", user, DELETED, "k")
    reported = replace(product, is_self_reported=True)
    other = replace(reported, data=DELETED | {"name": "Other"})

    first, second, third, fourth, fifth = service.trigger_each(
        [product, reported, reported, product, other]
    )

    assert isinstance(first, Event)
    assert isinstance(second, Event)
    assert first.id != second.id
    assert (third, fourth) == (second, first)
    assert isinstance(fifth, IdempotencyConflictError)
    assert Event.objects.filter(idempotency_key="k").count() == 2


def test_keys_of_events_without_an_owner_are_known_too(db: None) -> None:
    trigger = Trigger("project.deleted", None, DELETED, "k")

    assert one(trigger).id == one(trigger).id != one(replace(trigger, is_self_reported=True)).id
