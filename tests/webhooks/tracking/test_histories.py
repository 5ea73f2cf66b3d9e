"""Random histories of writes, under savepoints and rollbacks, against a model of the expected events.

The model keeps whole copies of a small world, one for each open savepoint, and a plain list of
what the transaction tells; the rule is written down once more in `Model.write` and `Model.delete`.
"""

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest
from django.db import connection, transaction
from hypothesis import given, settings
from hypothesis import strategies as st

from projects.models import Project, User
from sessions_app.models import Agent, Recording, Session, SessionMessage
from webhooks.models import Event

QUOTA = 10
SLOTS = 2
"""Everything lives in a few places with fixed keys: a user with one project, one session and so on;
so that objects are deleted and created again under the same key.
"""

MODELS: dict[str, Any] = {
    "user": User, "project": Project, "session": Session, "message": SessionMessage,
    "recording": Recording, "agent": Agent,
}  # fmt: skip
PARENT = {
    "project": "user", "session": "project", "message": "session", "recording": "session",
    "agent": "user",
}  # fmt: skip
FIELD = {
    "user": "name", "project": "name", "session": "status", "message": "content",
    "recording": "status", "agent": "status",
}  # fmt: skip
"""The column that the writes change."""
VALUES = {
    "user": ["A", "B"], "project": ["A", "B"], "message": ["A", "B"],
    "session": ["ACTIVE", "PAUSED", "COMPLETED"],
    "recording": ["UPLOADING", "READY", "FAILED"],
    "agent": ["OFFLINE", "ONLINE", "BUSY"],
}  # fmt: skip

Place = tuple[str, int]
"""A kind and a slot: one object, if it exists."""


def key_of(place: Place) -> UUID:
    return UUID(int=(7 << 76) | (2 << 62) | (list(MODELS).index(place[0]) << 16) | place[1])


def size_of(slot: int) -> int:
    """Sizes of a user's only recording: above the warning, above the quota."""
    return (9, 12)[slot]


# The model.


@dataclass
class Told:
    event_type: str
    place: Place
    data: dict[str, Any]


@dataclass
class Life:
    """An object's events since the start of the transaction or its latest creation in it."""

    start: Any
    """The value at the start; None where it was created here."""
    told: list[Told] = field(default_factory=list)
    steps: list[Told] = field(default_factory=list)


@dataclass
class Model:
    rows: dict[Place, str] = field(default_factory=dict)
    levels: dict[int, int] = field(default_factory=dict)
    gone_users: set[int] = field(default_factory=set)
    lives: dict[Place, Life] = field(default_factory=dict)
    told: list[Told] = field(default_factory=list)

    def begin(self) -> None:
        self.lives, self.told = {}, []

    def has_room_for(self, place: Place) -> bool:
        kind, slot = place
        if kind == "user":
            return slot not in self.gone_users
        return (PARENT[kind], slot) in self.rows

    def write(self, place: Place, value: str) -> None:
        kind = place[0]
        was = self.rows.get(place)
        self.rows[place] = value
        life = self.lives.get(place) if was is not None else None
        if life is None:
            life = self.lives[place] = Life(was)
        self._tell_net(place, life, self._net(place, life))
        for told in self._steps(kind, place, was, value):
            life.steps.append(told)
            self.told.append(told)

    def _tell_net(self, place: Place, life: Life, net: list[Told]) -> None:
        by_type = {told.event_type: told for told in life.told}
        for told in net:
            if told.event_type in by_type:
                by_type.pop(told.event_type).data = told.data
            else:
                life.told.append(told)
                self.told.append(told)
        for told in by_type.values():
            life.told.remove(told)
            self._withdraw(told)

    def _withdraw(self, told: Told) -> None:
        self.told = [other for other in self.told if other is not told]

    def _net(self, place: Place, life: Life) -> list[Told]:
        kind, slot = place
        value = self.rows[place]
        name: dict[str, dict[str, Any]] = {
            "user": {"email": f"{slot}@example.com", "name": value},
            "project": {"name": value, "description": ""},
            "session": {"title": "T", "projectName": self.rows.get(("project", slot))},
            "message": {"sender": "S", "content": value},
        }
        if life.start is None:
            born = {"session": "session.started", "message": "session.message"}
            event_type = born.get(kind, f"{kind}.created")
            return [Told(event_type, place, name[kind])] if kind in name else []
        if kind in ("user", "project") and life.start != value:
            extra = {"archived": False} if kind == "project" else {}
            return [Told(f"{kind}.updated", place, name[kind] | extra)]
        return []

    def _steps(self, kind: str, place: Place, was: str | None, value: str) -> Iterator[Told]:
        data: dict[str, Any]
        was = was or {"session": "ACTIVE", "agent": "OFFLINE"}.get(kind)
        if was == value:
            return
        if kind == "session":
            types = {"ACTIVE": "resumed", "PAUSED": "paused", "COMPLETED": "ended"}
            data = {"projectName": self.rows["project", place[1]]}
            yield Told(f"session.{types[value]}", place, data)
        elif kind == "recording" and value == "READY":
            data = {"url": "", "thumbnailUrl": None, "duration": 0, "fileSize": size_of(place[1])}
            yield Told("recording.completed", place, data)
        elif kind == "recording" and value == "FAILED":
            yield Told("recording.failed", place, {"error": ""})
        elif kind == "agent" and was == "OFFLINE":
            data = {"name": "N", "platform": "P", "version": "1"}
            yield Told("agent.connected", place, data)
        elif kind == "agent" and value == "OFFLINE":
            yield Told("agent.disconnected", place, {"name": "N", "reason": None})
        elif kind == "agent":
            data = {"name": "N", "previousStatus": was, "status": value}
            yield Told("agent.status_changed", place, data)

    def delete(self, places: list[Place]) -> None:
        """Delete objects of one kind, then their dependents."""
        for place in places:
            value = self.rows.pop(place)
            life = self.lives.pop(place, None)
            for told in life.told if life else []:
                self._withdraw(told)
            if life is not None and life.start is None:
                for told in life.steps:
                    self._withdraw(told)
            elif place[0] == "project":
                self.told.append(Told("project.deleted", place, {"name": value}))
            elif place[0] == "user":
                data = {"email": f"{place[1]}@example.com"}
                self.told.append(Told("user.deleted", place, data))
            if place[0] == "user":
                self.gone_users.add(place[1])
        slots = {slot for _, slot in places}
        for kind, parent in PARENT.items():
            if places and parent == places[0][0]:
                self.delete(
                    [place for place in self.rows if place[0] == kind and place[1] in slots]
                )

    def review_storage(self) -> None:
        for slot in range(SLOTS):
            is_ready = self.rows.get(("recording", slot)) == "READY"
            used = size_of(slot) if is_ready else 0
            level = (used >= 8) + (used >= QUOTA)
            was = self.levels.get(slot, 0)
            if level == was:
                continue
            self.levels[slot] = level
            place = ("storage", slot)
            life = self.lives.setdefault(place, Life(was))
            data = {"usedBytes": used, "quotaBytes": QUOTA, "percent": 10.0 * used}
            types = ["storage.quota_warning", "storage.quota_exceeded"][life.start : level]
            self._tell_net(place, life, [Told(name, ("user", slot), data) for name in types])


# The writes, made on the model and on the database.


def columns(place: Place, value: str) -> dict[str, Any]:
    kind, slot = place
    user = {"owner_id": key_of(("user", slot))}
    others: dict[str, dict[str, Any]] = {
        "user": {
            "username": f"u{slot}", "email": f"{slot}@example.com", "storage_quota_bytes": QUOTA,
        },
        "project": user,
        "session": {**user, "project_id": key_of(("project", slot)), "title": "T"},
        "message": {"session_id": key_of(("session", slot)), "sender": "S"},
        "recording": {"session_id": key_of(("session", slot)), "file_size_bytes": size_of(slot)},
        "agent": {**user, "name": "N", "platform": "P", "version": "1"},
    }  # fmt: skip
    return {"id": key_of(place), FIELD[kind]: value, **others[kind]}


def create_by(way: str, place: Place, value: str) -> None:
    kind = place[0]
    model, row = MODELS[kind], MODELS[kind](**columns(place, value))
    if way == "save":
        row.save()
    elif way == "get_or_create":
        model.objects.get_or_create(id=row.pk, defaults=columns(place, value))
    elif way == "upsert":
        upsert(kind, row)
    else:
        model.objects.bulk_create([row], ignore_conflicts=way == "ignore_conflicts")


def upsert(kind: str, row: Any) -> None:
    MODELS[kind].objects.bulk_create(
        [row], update_conflicts=True, update_fields=[FIELD[kind]], unique_fields=["id"]
    )


def change_by(way: str, places: list[Place], value: str) -> None:
    kind = places[0][0]
    model = MODELS[kind]
    chosen = model.objects.filter(pk__in=map(key_of, places))
    if way == "update":
        chosen.update(**{FIELD[kind]: value})
        return
    rows = list(chosen.order_by("pk"))
    for row in rows:
        setattr(row, FIELD[kind], value)
    if way == "bulk_update":
        model.objects.bulk_update(rows, [FIELD[kind]])
        return
    for row in rows:
        if way == "upsert":
            upsert(kind, row)
        else:
            row.save(update_fields=[FIELD[kind]] if way == "update_fields" else None)


def delete_by(way: str, places: list[Place]) -> None:
    chosen = MODELS[places[0][0]].objects.filter(pk__in=map(key_of, places))
    if way == "queryset":
        chosen.delete()
    else:
        for row in chosen.order_by("pk"):
            row.delete()


Apply = Callable[["Model"], None]
"""One write, applied to the database and to the model."""


def created(place: Place, value: str, way: str) -> Apply:
    def apply(model: Model) -> None:
        create_by(way, place, value)
        model.write(place, value)
        model.review_storage()

    return apply


def not_created(place: Place, value: str) -> Apply:
    return lambda model: create_by("ignore_conflicts", place, value)


def changed(places: list[Place], value: str, way: str) -> Apply:
    def apply(model: Model) -> None:
        change_by(way, places, value)
        for place in places:
            model.write(place, value)
            if way not in ("update", "bulk_update"):
                model.review_storage()
        model.review_storage()

    return apply


def deleted(places: list[Place], way: str) -> Apply:
    def apply(model: Model) -> None:
        delete_by(way, places)
        for chosen in [places] if way == "queryset" else [[place] for place in places]:
            model.delete(chosen)
            model.review_storage()

    return apply


CREATE_WAYS = ["save", "get_or_create", "bulk", "ignore_conflicts", "upsert"]
CHANGE_WAYS = ["save", "update_fields", "update", "bulk_update", "upsert"]


@dataclass(frozen=True)
class Write:
    """A write that is possible now, by the objects that exist."""

    choice: int
    value: int
    way: int

    def run(self, model: Model) -> None:
        possible = list(self._possible(model))
        possible[self.choice % len(possible)](model)

    def _possible(self, model: Model) -> Iterator[Apply]:
        for kind in MODELS:
            value = VALUES[kind][self.value % len(VALUES[kind])]
            places = [(kind, slot) for slot in range(SLOTS)]
            present = [place for place in places if place in model.rows]
            for place in places:
                if place in present:
                    yield changed([place], value, CHANGE_WAYS[self.way % 5])
                elif model.has_room_for(place):
                    yield created(place, value, CREATE_WAYS[self.way % 5])
            if present:
                yield changed(present, value, CHANGE_WAYS[self.way % 5])
                yield deleted(present[: 1 + self.value % 2], ["delete", "queryset"][self.way % 2])
        yield lambda _: None


@dataclass(frozen=True)
class Block:
    """Writes in a transaction or, inside a transaction, in a savepoint."""

    parts: tuple[Any, ...]
    is_undone: bool

    def run(self, model: Model) -> None:
        with undoing(model, self.is_undone), transaction.atomic():
            for part in self.parts:
                part.run(model)
            if self.is_undone:
                transaction.set_rollback(True)


@contextmanager
def undoing(model: Model, is_undone: bool) -> Iterator[None]:
    before = copy.deepcopy(vars(model))
    yield
    if is_undone:
        vars(model).update(before)


writes = st.builds(Write, *[st.integers(0, 59)] * 3)
savepoints = st.builds(
    Block,
    st.lists(
        writes | st.builds(Block, st.lists(writes, max_size=3).map(tuple), st.booleans()),
        max_size=4,
    ).map(tuple),
    st.booleans(),
)
transactions = st.builds(
    Block,
    st.lists(st.one_of(writes, writes, savepoints), min_size=2, max_size=7).map(tuple),
    st.sampled_from([False] * 5 + [True]),
)
histories = st.lists(writes | transactions, min_size=1, max_size=3)


def told_since(sequence: int) -> Iterator[tuple[int, tuple[str, str, dict[str, Any]]]]:
    for event in Event.objects.filter(sequence__gt=sequence).order_by("sequence"):
        data = json.loads(bytes(event.payload))["data"]
        kept = {
            name: value
            for name, value in data.items()
            if not name.endswith(("At", "Id", "id"))
            and (name, event.type) != ("duration", "session.ended")
        }
        yield event.sequence, (event.type, event.object_reference, kept)


def reference(place: Place, event_type: str) -> str:
    name = "storage" if event_type.startswith("storage.") else place[0]
    return f"{name}:{key_of(place)}"


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    "cases",
    [60, pytest.param(200, marks=pytest.mark.slow), pytest.param(3000, marks=pytest.mark.full)],
)
def test_random_histories_store_the_events_of_the_model(cases: int) -> None:
    with connection.cursor() as cursor:
        # These rows need not survive a crash.
        cursor.execute("SET synchronous_commit = off")
        try:
            settings(max_examples=cases, deadline=None, database=None)(check_history)()
        finally:
            cursor.execute("RESET synchronous_commit")


@given(size=st.integers(0, len(MODELS)), history=histories)
def check_history(size: int, history: list[Any]) -> None:
    wipe()
    model = Model()
    for kind in list(MODELS)[:size]:
        created((kind, 0), VALUES[kind][0], "bulk")(model)
    sequence = max((number for number, _ in told_since(0)), default=0)

    for part in history:
        model.begin()
        part.run(model)

        told = list(told_since(sequence))
        sequence = max((number for number, _ in told), default=sequence)
        assert [event for _, event in told] == [
            (entry.event_type, reference(entry.place, entry.event_type), entry.data)
            for entry in model.told
        ]


def wipe() -> None:
    tables = [model._meta.db_table for model in [*MODELS.values(), Event]][::-1]
    deletes = "".join(f"DELETE FROM {table};" for table in tables)  # noqa: S608
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM sessions_app_storagelevel")
        cursor.execute(deletes)
