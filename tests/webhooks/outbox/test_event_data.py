"""Callers' values in event data are converted to JSON, or refused with a clear error."""

import json
import uuid
from collections import OrderedDict, UserDict, UserList
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from types import MappingProxyType, SimpleNamespace
from typing import Any, cast

import pytest
from django.contrib.auth.models import AnonymousUser
from django.db import models, transaction
from django.utils.functional import lazy, lazystr
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy

from projects.models import Project, User
from tests.webhooks.history import DELETED
from webhooks import catalog, service
from webhooks.catalog import EventType
from webhooks.errors import (
    EventDataInvalidError,
    EventTypeUnknownError,
    IdempotencyConflictError,
)
from webhooks.models import Event
from webhooks.outbox import event_data, store
from webhooks.testing import captured_events
from webhooks.tracking import writes
from webhooks.tracking.coalescing import build_events
from webhooks.tracking.writes import Change

ID = uuid.UUID("01935710-5a3c-7d2e-9f10-3b6c8e2a4d71")
MOMENT = datetime(2026, 11, 23, 12, 30, 0, 123456, tzinfo=timezone(timedelta(hours=2)))


class Colour(models.TextChoices):
    RED = "red"


class Size(IntEnum):
    LARGE = 3


class Plain(Enum):
    ONE = "one"


@dataclass
class Point:
    x: int


class Backwards(str):
    """Its text differs from its value."""

    def __str__(self) -> str:
        return "shown"


class Angry(UserDict[str, Any]):
    def __iter__(self) -> Iterator[str]:
        raise LookupError("not today")


class Array:
    """A scalar like those of numpy."""

    def tolist(self) -> list[int]:
        return [1]


def _fail() -> str:
    raise AttributeError("no catalogue loaded")


def cyclic() -> dict[str, Any]:
    data: dict[str, Any] = {}
    data["self"] = [data]
    return data


def nested(levels: int) -> list[Any]:
    data: list[Any] = []
    for _ in range(levels):
        data = [data]
    return data


SENT: list[tuple[Any, Any]] = [
    (ID, "01935710-5a3c-7d2e-9f10-3b6c8e2a4d71"),
    (MOMENT, "2026-11-23T10:30:00.123Z"),
    (date(2026, 11, 23), "2026-11-23"),
    (time(10, 30), "10:30:00"),
    (timedelta(minutes=2), 120),
    (timedelta(milliseconds=1500), 1.5),
    (Decimal("12.50"), "12.50"),
    (Decimal(10) ** 300_000, "1.000000000000000000000000000E+300000"),
    (Colour.RED, "red"),
    (Size.LARGE, 3),
    (gettext_lazy("Users"), "Users"),
    (lazystr("late"), "late"),
    (SafeString("<b>"), "<b>"),
    (Backwards("stored"), "stored"),
    ((1, 2), [1, 2]),
    (OrderedDict(a=1), {"a": 1}),
    (MappingProxyType({"a": ID}), {"a": str(ID)}),
    (UserDict({"a": 1}), {"a": 1}),
    ({2: "a", None: "b", True: "c"}, {"2": "a", "null": "b", "true": "c"}),
    (10**30, 10**30),
    (-0.5, -0.5),
    (None, None),
]
REFUSED: list[Any] = [
    b"bytes", bytearray(b"x"), memoryview(b"x"), {1, 2}, frozenset(), Plain.ONE, Point(1), object(),
    Array(), UserList([1]), range(3), (n for n in range(3)), iter([1]), map(str, [1]), int, len,
    SimpleNamespace(a=1), 1j, float("nan"), float("inf"), Decimal("NaN"), Decimal("-Infinity"),
    10**5000, datetime(2026, 1, 1),  # noqa: DTZ001
    datetime.min.replace(tzinfo=timezone(timedelta(hours=2))), "a\0b", lazystr("a\0b"),
    {"a\0b": 1}, "\ud800", "\udfff\ud800", {"\ud800": 1}, {1: "a", "1": "b"},
    {True: 1, "true": 2}, {None: 1, "null": 2}, {ID: 1}, {(1, 2): 3}, {gettext_lazy("Users"): 1},
    cyclic(), nested(40), nested(100_000), Angry(a=1), "x" * 300_000, Project(name="unsaved"),
    User(), Project.objects, ...,
]  # fmt: skip


@pytest.fixture
def free_form(monkeypatch: pytest.MonkeyPatch) -> str:
    """An event type whose schema accepts any value."""
    event_type = EventType("free.form", "Anything.", {"type": "object"}, {})
    monkeypatch.setitem(catalog._types, event_type.name, event_type)
    monkeypatch.setitem(catalog._validators, event_type.name, catalog.compile_schema(event_type))
    return event_type.name


def data_of(event: Event) -> Any:
    return json.loads(bytes(Event.objects.get(id=event.id).payload))["data"]


@pytest.mark.parametrize(("value", "wire"), SENT, ids=lambda value: type(value).__name__)
def test_values_with_an_obvious_json_form_are_sent_in_it(
    user: User, free_form: str, value: Any, wire: Any
) -> None:
    event = service.trigger_event(free_form, user, {"value": value, "list": [value]})

    assert data_of(event) == {"value": wire, "list": [wire]}


@pytest.mark.parametrize("value", REFUSED, ids=lambda value: type(value).__name__)
def test_all_other_values_are_refused_with_a_clear_error(
    user: User, free_form: str, value: Any
) -> None:
    with pytest.raises(EventDataInvalidError) as refusal:
        service.trigger_event(free_form, user, {"value": value})

    assert str(refusal.value).startswith("The data ")
    assert len(str(refusal.value)) < 400
    assert not Event.objects.filter(type=free_form).exists()


def test_lazy_text_that_fails_is_refused(user: User, free_form: str) -> None:
    with pytest.raises(EventDataInvalidError, match="no catalogue loaded"):
        service.trigger_event(free_form, user, {"value": lazy(_fail, str)()})


@pytest.mark.parametrize("data", [None, [], "text", 7, b"{}", {1, 2}, object(), [("id", 1)]])
def test_data_other_than_mappings_is_refused(user: User, free_form: str, data: Any) -> None:
    with pytest.raises(EventDataInvalidError):
        service.trigger_event(free_form, user, data)


def test_validation_sees_the_sent_values(user: User) -> None:
    as_objects = DELETED | {"id": ID, "deletedAt": MOMENT, "name": gettext_lazy("Website")}

    event = service.trigger_event("project.deleted", user, as_objects)

    assert data_of(event) == DELETED
    with pytest.raises(EventDataInvalidError, match="name: 3 is not of type"):
        service.trigger_event("project.deleted", user, DELETED | {"name": Size.LARGE})
    with pytest.raises(EventDataInvalidError, match='duration: "12" is not of type'):
        service.trigger_event(
            "session.ended",
            user,
            {**catalog.get_type("session.ended").example, "duration": Decimal(12)},
        )


def test_values_and_their_text_have_one_idempotency_key(user: User) -> None:
    first = service.trigger_event("project.deleted", user, DELETED | {"id": ID}, "k1")

    again = service.trigger_event("project.deleted", user, DELETED | {"deletedAt": MOMENT}, "k1")

    assert again.id == first.id
    with pytest.raises(IdempotencyConflictError):
        service.trigger_event("project.deleted", user, DELETED | {"name": "Other"}, "k1")


def test_one_bad_value_refuses_its_event_only(user: User, free_form: str) -> None:
    triggers = [service.Trigger(free_form, user, {"value": value}) for value in REFUSED]
    good = [service.Trigger(free_form, user, {"value": value}) for value, _ in SENT]

    results = service.trigger_each([*triggers, *good])

    assert {type(result) for result in results[: len(REFUSED)]} == {EventDataInvalidError}
    assert [data_of(result)["value"] for result in results[len(REFUSED) :]] == [  # type: ignore[arg-type]
        wire for _, wire in SENT
    ]


@pytest.mark.parametrize(
    "key",
    [
        "",
        "a\0b",
        "\ud800",
        "x" * 256,
        "é\0",
        7,
        ID,
        b"key",
        ["key"],
        True,
        lazystr("key"),
        object(),
    ],
)
def test_invalid_idempotency_keys_are_refused_by_every_function(user: User, key: Any) -> None:
    trigger = service.Trigger("project.deleted", user, DELETED, key)

    for door in (
        lambda: service.trigger_event("project.deleted", user, DELETED, key),
        lambda: service.trigger_events([trigger]),
    ):
        with pytest.raises(EventDataInvalidError, match="idempotency key must be text"):
            door()
    bad, good = service.trigger_each([trigger, replace(trigger, idempotency_key="é" * 255)])

    assert isinstance(bad, EventDataInvalidError)
    assert isinstance(good, Event)
    assert Event.objects.filter(type="project.deleted").count() == 1


@pytest.mark.parametrize("reference", ["x" * 101, "a\0b", "\ud800", 7, ID])
def test_invalid_object_references_are_refused(user: User, reference: Any) -> None:
    trigger = service.Trigger("project.deleted", user, DELETED, object_reference=reference)

    with pytest.raises(EventDataInvalidError, match="object reference must be text"):
        service.trigger_events([trigger])


@pytest.mark.parametrize("owner", ["ada", 7, object(), AnonymousUser(), b"", [], Decimal("NaN")])
def test_invalid_owners_are_refused(user: User, owner: Any) -> None:
    with pytest.raises(EventDataInvalidError, match="neither an owner nor an owner's id"):
        service.trigger_event("project.deleted", owner, DELETED)


@pytest.mark.parametrize("name", [None, 7, [], {}, object(), b"project.deleted", lazystr("x.y")])
def test_event_types_other_than_text_are_refused(user: User, name: Any) -> None:
    with pytest.raises(EventTypeUnknownError):
        service.trigger_event(name, user, DELETED)


def test_error_does_not_repeat_all_of_the_data(user: User) -> None:
    with pytest.raises(EventDataInvalidError) as refusal:
        service.trigger_event("project.deleted", user, {"id": "x" * 200_000})

    assert len(str(refusal.value)) < 3000


def announce(monkeypatch: pytest.MonkeyPatch, *changes: Change) -> None:
    """Make the builder of project events yield these changes for every update."""
    tracking = replace(writes._trackings[Project], updated=lambda row, before: list(changes))
    monkeypatch.setitem(cast(dict[Any, Any], writes._trackings), Project, tracking)


@pytest.mark.unfit_data
@pytest.mark.parametrize("value", REFUSED, ids=lambda value: type(value).__name__)
def test_no_value_of_our_own_builders_aborts_a_save(
    project: Project, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, value: Any
) -> None:
    good = Change("project.deleted", project.owner_id, dict(DELETED))
    announce(monkeypatch, Change("project.updated", project.owner_id, {"id": value}), good)

    with captured_events() as captured:
        project.name = "Saved"
        project.save()

    assert Project.objects.get(pk=project.pk).name == "Saved"
    ((_, sent), deleted) = captured.types_and_data
    # Nothing, or what can be said of a text.
    assert sent["id"] is None or value.encode("utf-8", "replace").decode().startswith(sent["id"])
    assert deleted == ("project.deleted", DELETED)
    assert f"An event of project:{project.pk} lacks what cannot be sent: The data" in caplog.text


@pytest.mark.unfit_data
@pytest.mark.parametrize(
    "change",
    [
        Change("project.exploded", ID, {}),
        Change(None, ID, {}),  # type: ignore[arg-type]
        Change("project.updated", "ada", {}),
        Change("project.updated", ID, None),  # type: ignore[arg-type]
        Change("project.updated", ID, [1]),  # type: ignore[arg-type]
        Change("project.updated", ID, {1, 2}),  # type: ignore[arg-type]
        Change("project.updated", ID, {object(): 1}),  # type: ignore[dict-item]
    ],
)
@pytest.mark.django_db(transaction=True)
def test_no_mistake_of_our_own_builders_aborts_a_save(
    project: Project, monkeypatch: pytest.MonkeyPatch, change: Change
) -> None:
    announce(monkeypatch, change)

    with transaction.atomic():
        project.name = "Saved"
        project.save()

    assert Project.objects.get(pk=project.pk).name == "Saved"


def test_our_own_builders_may_yield_values_with_an_obvious_json_form(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = DELETED | {"id": ID, "deletedAt": MOMENT}
    announce(monkeypatch, Change("project.deleted", str(project.owner_id), data))

    with captured_events() as captured:
        project.name = "Saved"
        project.save()

    assert captured.types_and_data == [("project.deleted", DELETED)]


def test_long_object_reference_is_cut(user: User) -> None:
    (event,) = build_events(
        [Change("project.deleted", user.id, dict(DELETED))], "document:" + "x" * 300
    )
    store.store_events([event])

    assert len(Event.objects.get(id=event.id).object_reference) == 100


def test_encoding_of_plain_data_keeps_order_numbers_and_text() -> None:
    data = {"b": 1, "a": [1.5, -0.0, 10**20, 1e22], "\u2028": "</script> 🚀", "": True}

    encoded = event_data.encode(data)

    assert encoded.text == json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()
    assert encoded.value == data
