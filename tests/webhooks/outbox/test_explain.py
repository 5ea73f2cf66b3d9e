"""service.explain(): which webhooks receive an event, and why the others do not."""

from collections.abc import Callable

import pytest

from projects.models import Project, User
from webhooks import service
from webhooks.models import Event, Webhook
from webhooks.outbox.explain import MAX_DELETED

pytestmark = pytest.mark.django_db


@pytest.fixture
def event(user: User, make_webhook: Callable[..., Webhook]) -> Event:
    make_webhook(name="exact", events=["project.created"])
    make_webhook(name="group", events=["session.*", "project.*"])
    make_webhook(name="other type", events=["project.deleted"])
    make_webhook(name="off", active=False)
    make_webhook(name="platform", owner=None, is_platform=True, events=["*"])
    doomed = make_webhook(name="deleted", events=["user.created"])
    Project.objects.create(owner=user, name="P")
    service.delete_webhook(doomed)
    return Event.objects.get(type="project.created")


def test_webhooks_deleted_before_the_event_are_left_out(
    user: User, make_webhook: Callable[..., Webhook]
) -> None:
    service.delete_webhook(make_webhook(name="long gone"))
    doomed = make_webhook(name="gone since")
    Project.objects.create(owner=user, name="P")
    service.delete_webhook(doomed)

    assert set(reasons(Event.objects.get(type="project.created"))) == {"gone since"}


def reasons(event: Event) -> dict[str, tuple[bool, str, bool]]:
    return {
        considered.webhook.name: (
            considered.matches,
            considered.reason,
            considered.delivery is not None,
        )
        for considered in service.explain(event).considered
    }


def test_explains_every_webhook_of_the_owner_and_of_the_platform(
    event: Event, other_user: User, make_webhook: Callable[..., Webhook]
) -> None:
    make_webhook(name="somebody else's", owner=other_user)
    make_webhook(name="later")

    explained = reasons(event)

    deleted = explained.pop("deleted")
    later = explained.pop("later")
    assert (deleted[0], deleted[1][:18], deleted[2]) == (False, "It was deleted at ", False)
    assert later[1].startswith("It was created after the event, at ")
    assert explained == {
        "exact": (
            True,
            "It receives its owner's events, and its list of events selects project.created by project.created.",
            True,
        ),
        "group": (
            True,
            "It receives its owner's events, and its list of events selects project.created by project.*.",
            True,
        ),
        "platform": (
            True,
            "It receives every owner's events, and its list of events selects project.created by *.",
            True,
        ),
        "other type": (
            False,
            "Its list of events (project.deleted) does not select project.created.",
            False,
        ),
        "off": (False, "It is disabled: disabled manually.", False),
    }


def test_current_settings_and_recorded_deliveries_are_both_returned(event: Event) -> None:
    Webhook.objects.filter(name="exact").update(events=["session.*"])
    Webhook.objects.filter(name="group").update(active=False, disabled_reason="Failing for 5 days.")

    explained = reasons(event)

    assert service.explain(event).fanout_count == 3
    assert explained["exact"] == (
        False,
        "Its list of events (session.*) does not select project.created.",
        True,
    )
    assert explained["group"] == (False, "It is disabled: Failing for 5 days.", True)


def test_takes_two_queries(event: Event, django_assert_num_queries: Callable[..., object]) -> None:
    with django_assert_num_queries(2):  # type: ignore[attr-defined]
        service.explain(event)


def test_event_without_an_owner_goes_to_platform_webhooks_only(
    user: User, make_webhook: Callable[..., Webhook]
) -> None:
    make_webhook()
    platform = make_webhook(owner=None, is_platform=True)
    data = {"id": "pay_1", "subscriptionId": None, "amount": 1, "currency": "EUR"}

    event = service.trigger_event(
        "payment.succeeded", None, {**data, "paidAt": "2026-11-23T10:30:00Z"}
    )

    assert [considered.webhook for considered in service.explain(event).considered] == [platform]
    assert event.deliveries.get().webhook_id == platform.pk


def test_owner_may_be_given_as_text(user: User, make_webhook: Callable[..., Webhook]) -> None:
    make_webhook()
    data = {"id": "pay_1", "subscriptionId": None, "amount": 1, "currency": "EUR"}

    event = service.trigger_event(
        "payment.succeeded", str(user.pk), {**data, "paidAt": "2026-11-23T10:30:00Z"}
    )

    assert event.fanout_count == 1


def test_only_the_latest_of_many_deleted_webhooks_are_explained(
    user: User, make_webhook: Callable[..., Webhook]
) -> None:
    Project.objects.create(owner=user, name="P")
    for number in range(MAX_DELETED + 2):
        service.delete_webhook(make_webhook(name=str(number)))

    found = reasons(Event.objects.get(type="project.created"))

    assert len(found) == MAX_DELETED
    assert str(MAX_DELETED + 1) in found
