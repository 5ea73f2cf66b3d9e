"""The outbox (invariant 1): stored events, refused data, rollbacks."""

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from django.db import transaction

from projects.models import Project, User
from tests.webhooks.history import DELETED
from webhooks import service
from webhooks.errors import EventDataInvalidError, EventTypeUnknownError, IdempotencyConflictError
from webhooks.models import Delivery, Event, Webhook
from webhooks.models.owner_keys import NO_OWNER
from webhooks.outbox import event_data, store
from webhooks.testing import captured_events
from webhooks.tracking import Change
from webhooks.tracking.coalescing import build_events


def test_trigger_stores_event_and_one_delivery_per_matching_webhook(
    user: User, other_user: User, make_webhook: Callable[..., Webhook]
) -> None:
    exact = make_webhook(events=["project.deleted"])
    group = make_webhook(events=["session.*", "project.*"])
    platform = make_webhook(owner=None, is_platform=True, events=["*"])
    make_webhook(events=["project.created"])
    make_webhook(active=False)
    make_webhook(owner=other_user)
    service.delete_webhook(make_webhook())

    event = service.trigger_event("project.deleted", user, DELETED)

    stored = Event.objects.get(id=event.id)
    assert stored.fanout_count == 3
    assert set(stored.deliveries.values_list("webhook_id", "owner_id", "status", "event_type")) == {
        (exact.id, user.id, "PENDING", "project.deleted"),
        (group.id, user.id, "PENDING", "project.deleted"),
        (platform.id, NO_OWNER, "PENDING", "project.deleted"),
    }


def test_payload_holds_envelope_and_untouched_data(user: User) -> None:
    data = DELETED | {"name": "Zoë \u2028 🚀 </script>"}

    event = Event.objects.get(id=service.trigger_event("project.deleted", user, data).id)

    assert bytes(event.payload).decode() == (
        '{{"id":"{}","type":"project.deleted","created":"{}","data":{}}}'.format(
            event.public_id,
            event.created_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            json.dumps(data, ensure_ascii=False, separators=(",", ":")),
        )
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, '"id" is a required property'),
        (DELETED | {"name": 7}, "name: 7 is not of type"),
        (DELETED | {"extra": 1}, "Additional properties"),
        (DELETED | {"name": "a\0b"}, "NUL"),
        (DELETED | {"name": "\ud800"}, "cannot be sent as JSON"),
        (DELETED | {"name": "x" * event_data.MAX_DATA_BYTES}, "the limit is 262,144"),
    ],
)
def test_invalid_data_is_refused_and_nothing_stored(
    user: User, data: dict[str, Any], message: str
) -> None:
    Event.objects.all().delete()

    with pytest.raises(EventDataInvalidError, match=message):
        service.trigger_event("project.deleted", user, data)

    assert not Event.objects.exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, b"x"])
def test_values_that_are_not_json_are_refused(value: object) -> None:
    with pytest.raises(EventDataInvalidError, match="cannot be sent as JSON"):
        event_data.encode({"value": value})


def test_nesting_is_bounded() -> None:
    deep: dict[str, Any] = {}
    for _ in range(event_data.MAX_NESTING):
        deep = {"deeper": deep}

    with pytest.raises(EventDataInvalidError, match="deeper than 32"):
        event_data.encode(deep)


def test_escaped_backslash_before_u0000_is_not_a_nul() -> None:
    assert event_data.encode({"path": "C:\\u0000"}).text == rb'{"path":"C:\\u0000"}'


def test_unknown_type_is_refused_and_nothing_stored(user: User) -> None:
    count = Event.objects.count()

    with pytest.raises(EventTypeUnknownError, match=r"no event type 'project\.exploded'"):
        service.trigger_event("project.exploded", user, {})

    assert Event.objects.count() == count


def test_one_bad_trigger_refuses_the_whole_batch(user: User) -> None:
    count = Event.objects.count()
    triggers = [
        service.Trigger("project.deleted", user, DELETED),
        service.Trigger("project.deleted", user, {}),
    ]

    with pytest.raises(EventDataInvalidError):
        service.trigger_events(triggers)

    assert Event.objects.count() == count


def test_batch_takes_one_statement(
    user: User, make_webhook: Callable[..., Webhook], django_assert_num_queries: Any
) -> None:
    make_webhook()
    triggers = [service.Trigger("project.deleted", user, DELETED)] * 100

    with django_assert_num_queries(1):
        events = service.trigger_events(triggers)

    assert Delivery.objects.filter(event__in=events).count() == 100


def test_ids_of_deliveries_are_in_the_order_of_their_events(
    user: User, make_webhook: Callable[..., Webhook]
) -> None:
    for _ in range(20):
        make_webhook()

    events = service.trigger_events([service.Trigger("project.deleted", user, DELETED)] * 100)

    of_delivery = list(Delivery.objects.order_by("id").values_list("event_id", flat=True))
    assert of_delivery == [event.id for event in events for _ in range(20)]
    stored = Event.objects.filter(type="project.deleted").order_by("sequence")
    assert [event.id for event in stored] == [event.id for event in events]


def test_same_idempotency_key_returns_first_event(
    user: User, make_webhook: Callable[..., Webhook]
) -> None:
    make_webhook()
    first = service.trigger_event("project.deleted", user, DELETED, idempotency_key="k1")

    second = service.trigger_event("project.deleted", user, DELETED, idempotency_key="k1")

    assert second.id == first.id
    assert Event.objects.filter(idempotency_key="k1").count() == 1
    assert Delivery.objects.filter(event=first).count() == 1


def test_same_idempotency_key_with_other_data_is_refused(user: User) -> None:
    service.trigger_event("project.deleted", user, DELETED, idempotency_key="k1")

    with pytest.raises(IdempotencyConflictError, match="'k1'"):
        service.trigger_event(
            "project.deleted", user, DELETED | {"name": "Other"}, idempotency_key="k1"
        )


def test_idempotency_keys_of_two_owners_are_separate(user: User, other_user: User) -> None:
    first = service.trigger_event("project.deleted", user, DELETED, idempotency_key="k1")
    second = service.trigger_event("project.deleted", other_user, DELETED, idempotency_key="k1")

    assert first.id != second.id


@pytest.mark.django_db(transaction=True)
def test_rolled_back_save_stores_nothing(user: User) -> None:
    with captured_events() as captured, pytest.raises(RuntimeError), transaction.atomic():
        Project.objects.create(owner=user, name="Gone")
        raise RuntimeError

    assert captured.types == []


@pytest.mark.django_db(transaction=True)
def test_rolled_back_savepoint_stores_nothing_of_its_own(user: User) -> None:
    with captured_events() as captured, transaction.atomic():
        Project.objects.create(owner=user, name="Stays")
        with pytest.raises(RuntimeError), transaction.atomic():
            Project.objects.create(owner=user, name="Gone")
            raise RuntimeError

    assert captured.types == ["project.created"]
    assert captured.data_of("project.created")[0]["name"] == "Stays"


@pytest.mark.django_db(transaction=True)
def test_failing_receiver_leaves_no_row_in_autocommit(
    user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(store, "store_events", fail)

    with pytest.raises(RuntimeError):
        Project.objects.create(owner=user, name="Half-written")

    assert not Project.objects.filter(name="Half-written").exists()


@pytest.mark.unfit_data
def test_invalid_data_of_our_own_is_sent_and_logged(
    user: User, caplog: pytest.LogCaptureFixture
) -> None:
    change = Change("project.deleted", user.id, {"id": "not a uuid"})

    (event,) = build_events([change], "project:1")
    store.store_events([event])

    assert Event.objects.get(id=event.id).type == "project.deleted"
    assert "invalid event of project:1: The data does not fit project.deleted" in caplog.text


def test_stored_payload_equals_the_hashed_one(user: User) -> None:
    event = service.trigger_event("project.deleted", user, DELETED)

    stored = Event.objects.get(id=event.id)

    assert hashlib.sha256(bytes(stored.payload)).digest() == hashlib.sha256(event.payload).digest()
