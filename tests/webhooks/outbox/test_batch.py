"""A batch of events of which some are invalid."""

from collections.abc import Callable

from projects.models import User
from webhooks import service
from webhooks.errors import EventDataInvalidError, IdempotencyConflictError
from webhooks.models import Delivery, Event, Webhook
from webhooks.service import Trigger

DATA = {
    "id": "01935710-5a3c-7d2e-9f10-3b6c8e2a4d71",
    "name": "Website",
    "deletedAt": "2026-11-23T10:30:00.123Z",
}


def test_valid_events_are_stored_and_invalid_ones_reported(
    user: User, make_webhook: Callable[..., Webhook]
) -> None:
    make_webhook(events=["project.deleted"])
    told = EventDataInvalidError("Not an event at all.")

    results = service.trigger_each(
        [
            Trigger("project.deleted", user, DATA),
            Trigger("project.deleted", user, {}),
            told,
            Trigger("project.deleted", user, DATA | {"name": "Shop"}),
        ]
    )

    stored = list(Event.objects.filter(type="project.deleted").order_by("sequence"))
    assert [results[0], results[3]] == stored
    assert isinstance(results[1], EventDataInvalidError)
    assert results[2] is told
    assert Delivery.objects.count() == 2


def test_known_keys_give_the_first_event_or_a_conflict(user: User) -> None:
    first = service.trigger_event("project.deleted", user, DATA, "old")

    results = service.trigger_each(
        [
            Trigger("project.deleted", user, DATA, "new"),
            Trigger("project.deleted", user, DATA, "old"),
            Trigger("project.deleted", user, DATA, "new"),
            Trigger("project.deleted", user, DATA | {"name": "Shop"}, "old"),
        ]
    )

    assert results[0] == results[2] != first
    assert results[1] == first
    assert isinstance(results[3], IdempotencyConflictError)
    assert Event.objects.filter(type="project.deleted").count() == 2


def test_empty_batch_has_no_results(db: None) -> None:
    assert service.trigger_each([]) == []
