"""Every event type, from every way of writing that can cause it: exact events, exact data, and the
exact number of queries, which for the bulk ways is the same for one row and for a hundred.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.core import serializers
from django.db import connection
from django.db.models import Case, F, Model, Value, When
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from projects.models import Project, User
from sessions_app.models import Agent, Recording, Session, SessionMessage
from webhooks import catalog, service
from webhooks.catalog import wire_time
from webhooks.testing import captured_events

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 11, 23, 10, 30, 0, 123000, tzinfo=UTC)
NOW_TEXT = "2026-11-23T10:30:00.123Z"
GIB = 1024**3

Told = list[tuple[str, dict[str, Any]]]


@pytest.fixture(autouse=True)
def _time_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timezone, "now", lambda: NOW)


@dataclass
class World:
    """The parents of a case's rows."""

    user: User
    project: Project
    session: Session

    def new_user(self, number: int) -> User:
        return User(username=f"u{number}", email=f"u{number}@example.com", name="N", password="pw")

    def new_project(self, number: int) -> Project:
        return Project(owner=self.user, name=f"p{number}", description="D", updated_at=NOW)

    def new_session(self, number: int, **values: Any) -> Session:
        return Session(project=self.project, owner=self.user, title=f"s{number}", **values)

    def new_message(self, number: int) -> SessionMessage:
        return SessionMessage(session=self.session, sender="Ada", content=f"m{number}")

    def new_recording(self, number: int, **values: Any) -> Recording:
        return Recording(session=self.session, title=f"r{number}", **values)

    def new_agent(self, number: int, **values: Any) -> Agent:
        return Agent(owner=self.user, name=f"a{number}", platform="linux", version="1", **values)


@pytest.fixture
def world(user: User, project: Project) -> World:
    session = Session.objects.create(project=project, owner=user, title="Session")
    service.create_webhook(user, name="All", url="http://127.0.0.1:9/", events=["*"])
    # Only the cases about the quota reach it.
    User.objects.update(storage_quota_bytes=10**6 * GIB)
    return World(user, project, session)


# The expected events of each write.


def project_created(row: Project) -> Told:
    data = {"name": row.name, "description": row.description}
    return [
        ("project.created", {"id": str(row.pk), **data, "createdAt": wire_time(row.created_at)})
    ]


def project_updated(row: Project) -> Told:
    data = {"name": row.name, "description": row.description, "archived": row.archived}
    return [("project.updated", {"id": str(row.pk), **data, "updatedAt": NOW_TEXT})]


def project_deleted(row: Project) -> Told:
    return [("project.deleted", {"id": str(row.pk), "name": row.name, "deletedAt": NOW_TEXT})]


def user_created(row: User) -> Told:
    data = {"email": row.email, "name": row.name, "createdAt": wire_time(row.date_joined)}
    return [("user.created", {"id": str(row.pk), **data})]


def user_updated(row: User) -> Told:
    data = {"email": row.email, "name": row.name, "updatedAt": NOW_TEXT}
    return [("user.updated", {"id": str(row.pk), **data})]


def user_deleted(row: User) -> Told:
    return [("user.deleted", {"id": str(row.pk), "email": row.email, "deletedAt": NOW_TEXT})]


def session_told(event_type: str, **data: Any) -> Callable[[Session], Told]:
    def told(row: Session) -> Told:
        belongs = {"id": str(row.pk), "projectId": str(row.project_id), "projectName": "Website"}
        values = {key: value(row) if callable(value) else value for key, value in data.items()}
        return [(event_type, {**belongs, **values})]

    return told


session_started = session_told(
    "session.started", title=lambda row: row.title, startedAt=lambda row: wire_time(row.started_at)
)
session_paused = session_told("session.paused", pausedAt=NOW_TEXT)
session_resumed = session_told("session.resumed", resumedAt=NOW_TEXT)
session_ended = session_told(
    "session.ended",
    duration=lambda row: max(0, int((NOW - row.started_at).total_seconds())),
    endedAt=NOW_TEXT,
)


def message_posted(row: SessionMessage) -> Told:
    belongs = {"sessionId": str(row.session_id), "projectId": str(row.session.project_id)}
    data = {"sender": row.sender, "content": row.content, "createdAt": wire_time(row.created_at)}
    return [("session.message", {"id": str(row.pk), **belongs, **data})]


def recording_told(event_type: str, **data: Any) -> Callable[[Recording], Told]:
    def told(row: Recording) -> Told:
        belongs = {"sessionId": str(row.session_id), "projectId": str(row.session.project_id)}
        return [(event_type, {"id": str(row.pk), **belongs, **data})]

    return told


READY = {
    "status": "READY", "url": "https://c.example/r", "duration_seconds": 60, "file_size_bytes": 7,
}  # fmt: skip
FAILED = {"status": "FAILED", "error": "Cut off."}
recording_completed = recording_told(
    "recording.completed", url=READY["url"], thumbnailUrl=None, duration=60, fileSize=7
)
recording_failed = recording_told("recording.failed", error="Cut off.", failedAt=NOW_TEXT)


def agent_told(event_type: str, **data: Any) -> Callable[[Agent], Told]:
    return lambda row: [(event_type, {"id": str(row.pk), "name": row.name, **data})]


agent_connected = agent_told("agent.connected", platform="linux", version="1", connectedAt=NOW_TEXT)
agent_busy = agent_told(
    "agent.status_changed", previousStatus="ONLINE", status="BUSY", changedAt=NOW_TEXT
)
agent_disconnected = agent_told(
    "agent.disconnected", reason="heartbeat lost", disconnectedAt=NOW_TEXT
)


def both(*parts: Callable[[Any], Told]) -> Callable[[Any], Told]:
    return lambda row: [told for part in parts for told in part(row)]


# The cases: rows that are created, changed, deleted.


@dataclass(frozen=True)
class Cause:
    new: Callable[[World, int], Model]
    told: Callable[[Any], Told]
    changes: dict[str, Any] = field(default_factory=dict)
    extra_queries: int = 0
    """Additional statements per announcement, for the storage review."""


CREATED = {
    "project": Cause(World.new_project, project_created),
    "user": Cause(World.new_user, user_created),
    "session": Cause(World.new_session, session_started),
    "paused session": Cause(
        lambda world, n: world.new_session(n, status="PAUSED"),
        both(session_started, session_paused),
    ),
    "completed session": Cause(
        lambda world, n: world.new_session(n, status="COMPLETED", ended_at=NOW),
        both(session_started, session_ended),
    ),
    "message": Cause(World.new_message, message_posted),
    "ready recording": Cause(
        lambda world, n: world.new_recording(n, **READY), recording_completed, extra_queries=3
    ),
    "failed recording": Cause(lambda world, n: world.new_recording(n, **FAILED), recording_failed),
    "connected agent": Cause(lambda world, n: world.new_agent(n, status="ONLINE"), agent_connected),
}

CHANGED = {
    "project": Cause(World.new_project, project_updated, {"name": "New", "archived": True}),
    "user": Cause(World.new_user, user_updated, {"name": "New"}),
    "session paused": Cause(World.new_session, session_paused, {"status": "PAUSED"}),
    "session resumed": Cause(
        lambda world, n: world.new_session(n, status="PAUSED"),
        session_resumed,
        {"status": "ACTIVE"},
    ),
    "session ended": Cause(
        World.new_session, session_ended, {"status": "COMPLETED", "ended_at": NOW}
    ),
    "recording completed": Cause(World.new_recording, recording_completed, READY, extra_queries=3),
    "recording failed": Cause(World.new_recording, recording_failed, FAILED),
    "agent connected": Cause(World.new_agent, agent_connected, {"status": "ONLINE"}),
    "agent busy": Cause(
        lambda world, n: world.new_agent(n, status="ONLINE"), agent_busy, {"status": "BUSY"}
    ),
    "agent disconnected": Cause(
        lambda world, n: world.new_agent(n, status="BUSY"),
        agent_disconnected,
        {"status": "OFFLINE", "disconnect_reason": "heartbeat lost"},
    ),
}

DELETED = {
    "project": Cause(World.new_project, project_deleted),
    "user": Cause(World.new_user, user_deleted),
}


# The ways of writing.


def values_of(row: Model) -> dict[str, Any]:
    return {f.attname: getattr(row, f.attname) for f in row._meta.concrete_fields}


def defaults_of(row: Model) -> dict[str, Any]:
    return {name: value for name, value in values_of(row).items() if name != "id"}


def upsert(model: Any, rows: list[Any], names: list[str]) -> None:
    model.objects.bulk_create(
        rows, update_conflicts=True, update_fields=names, unique_fields=["id"]
    )


def each(write: Callable[[Any], Any]) -> Callable[[Any, list[Any]], None]:
    def write_all(model: Any, rows: list[Any]) -> None:
        for row in rows:
            write(row)

    return write_all


def awaited(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    async def run() -> Any:
        return await function(*args, **kwargs)

    return async_to_sync(run)()


CREATE_EACH: dict[str, tuple[Callable[[Any, list[Any]], None], int]] = {
    # Queries per row without BEGIN and COMMIT: insert, store; some select first,
    # in savepoints.
    "save": (each(lambda row: row.save()), 2),
    "create": (each(lambda row: type(row).objects.create(**values_of(row))), 2),
    "get_or_create": (
        each(lambda row: type(row).objects.get_or_create(id=row.pk, defaults=defaults_of(row))),
        5,
    ),
    "update_or_create": (
        each(lambda row: type(row).objects.update_or_create(id=row.pk, defaults=defaults_of(row))),
        7,
    ),
    "asave": (each(lambda row: awaited(row.asave)), 2),
    "acreate": (each(lambda row: awaited(type(row).objects.acreate, **values_of(row))), 2),
}
CREATE_BULK: dict[str, tuple[Callable[[Any, list[Any]], Any], int]] = {
    "bulk_create": (lambda model, rows: model.objects.bulk_create(rows), 2),
    "abulk_create": (lambda model, rows: awaited(model.objects.abulk_create, rows), 2),
    "ignore_conflicts": (
        lambda model, rows: model.objects.bulk_create(rows, ignore_conflicts=True),
        2,
    ),
    # Selecting conflicting rows, in a savepoint.
    "update_conflicts": (lambda model, rows: upsert(model, rows, [names_of(model)]), 5),
}


def names_of(model: Any) -> str:
    return "name" if hasattr(model, "name") else model._meta.concrete_fields[-1].name


def assign(rows: list[Any], changes: dict[str, Any]) -> list[Any]:
    for row in rows:
        for name, value in changes.items():
            setattr(row, name, value)
    return rows


Change = Callable[[Any, list[Any], dict[str, Any]], Any]


def saved(**options: Any) -> Change:
    def change(model: Any, rows: list[Any], changes: dict[str, Any]) -> None:
        for row in assign(rows, changes):
            row.save(**({"update_fields": list(changes)} if options else {}))

    return change


def chosen(model: Any, rows: list[Any]) -> Any:
    return model.objects.filter(pk__in=[row.pk for row in rows])


CHANGE_EACH: dict[str, tuple[Change, int]] = {
    # The update, which returns old and new values; the store statement.
    "save": (saved(), 2),
    "update_fields": (saved(update_fields=True), 2),
    "update_or_create": (
        lambda model, rows, changes: [
            model.objects.update_or_create(pk=row.pk, defaults=changes) for row in rows
        ],
        5,
    ),
    "asave": (
        lambda model, rows, changes: [awaited(row.asave) for row in assign(rows, changes)],
        2,
    ),
}
CHANGE_BULK: dict[str, tuple[Change, int]] = {
    "update": (lambda model, rows, changes: chosen(model, rows).update(**changes), 2),
    "update with expressions": (
        lambda model, rows, changes: chosen(model, rows).update(
            **{
                name: Case(
                    When(pk__isnull=False, then=Value(value)),
                    default=F(name),
                    output_field=model._meta.get_field(name),
                )
                for name, value in changes.items()
            }
        ),
        2,
    ),
    "aupdate": (lambda model, rows, changes: awaited(chosen(model, rows).aupdate, **changes), 2),
    "bulk_update": (
        lambda model, rows, changes: model.objects.bulk_update(assign(rows, changes), changes),
        2,
    ),
    "abulk_update": (
        lambda model, rows, changes: awaited(
            model.objects.abulk_update, assign(rows, changes), changes
        ),
        2,
    ),
    "update_conflicts": (
        lambda model, rows, changes: upsert(model, assign(rows, changes), list(changes)),
        5,
    ),
}


@dataclass
class Written:
    told: Told
    queries: list[str]


def watch(write: Callable[[], Any]) -> Written:
    with captured_events() as captured, CaptureQueriesContext(connection) as queries:
        write()
    return Written(captured.types_and_data, [query["sql"] for query in queries.captured_queries])


def expect(written: Written, told: Told, queries: int) -> None:
    assert written.told == told
    assert len(written.queries) == queries, "\n".join(str(sql)[:150] for sql in written.queries)


def told_of(rows: list[Any], case: Cause) -> Told:
    return [told for row in rows for told in case.told(row)]


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("way", CREATE_EACH)
@pytest.mark.parametrize("what", CREATED)
def test_created_one_by_one(world: World, what: str, way: str, count: int) -> None:
    case = CREATED[what]
    write, queries = CREATE_EACH[way]
    rows = [case.new(world, number) for number in range(count)]

    written = watch(lambda: write(type(rows[0]), rows))

    expect(written, told_of(rows, case), count * (queries + case.extra_queries))


@pytest.mark.parametrize("count", [1, 100])
@pytest.mark.parametrize("way", CREATE_BULK)
@pytest.mark.parametrize("what", CREATED)
def test_created_in_bulk(world: World, what: str, way: str, count: int) -> None:
    case = CREATED[what]
    write, queries = CREATE_BULK[way]
    rows = [case.new(world, number) for number in range(count)]

    written = watch(lambda: write(type(rows[0]), rows))

    expect(written, told_of(rows, case), queries + case.extra_queries)


def saved_rows(world: World, case: Cause, count: int) -> list[Any]:
    rows = [case.new(world, number) for number in range(count)]
    type(rows[0]).objects.bulk_create(rows)  # type: ignore[attr-defined]
    return list(chosen(type(rows[0]), rows).order_by("pk"))


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("way", CHANGE_EACH)
@pytest.mark.parametrize("what", CHANGED)
def test_changed_one_by_one(world: World, what: str, way: str, count: int) -> None:
    case = CHANGED[what]
    write, queries = CHANGE_EACH[way]
    rows = saved_rows(world, case, count)

    written = watch(lambda: write(type(rows[0]), rows, case.changes))

    told = told_of(assign(rows, case.changes), case)
    expect(written, told, count * (queries + case.extra_queries))


@pytest.mark.parametrize("count", [1, 100])
@pytest.mark.parametrize("way", CHANGE_BULK)
@pytest.mark.parametrize("what", CHANGED)
def test_changed_in_bulk(world: World, what: str, way: str, count: int) -> None:
    case = CHANGED[what]
    write, queries = CHANGE_BULK[way]
    rows = saved_rows(world, case, count)

    written = watch(lambda: write(type(rows[0]), rows, case.changes))

    expect(written, told_of(assign(rows, case.changes), case), queries + case.extra_queries)


DELETE_QUERIES = {"project": 12, "user": 37}
"""The number is the same for any number of rows and dependents; a queryset reads its rows first."""


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("way", ["delete", "adelete"])
@pytest.mark.parametrize("what", DELETED)
def test_deleted_one_by_one(world: World, what: str, way: str, count: int) -> None:
    rows = saved_rows(world, DELETED[what], count)
    told = told_of(rows, DELETED[what])

    written = watch(
        lambda: [awaited(row.adelete) if way == "adelete" else row.delete() for row in rows]
    )

    expect(written, told, count * DELETE_QUERIES[what])


@pytest.mark.parametrize("count", [1, 100])
@pytest.mark.parametrize("way", ["delete", "adelete"])
@pytest.mark.parametrize("what", DELETED)
def test_deleted_in_bulk(world: World, what: str, way: str, count: int) -> None:
    rows = saved_rows(world, DELETED[what], count)
    doomed = chosen(type(rows[0]), rows)

    written = watch(lambda: awaited(doomed.adelete) if way == "adelete" else doomed.delete())

    expect(written, told_of(rows, DELETED[what]), DELETE_QUERIES[what] + 1)


@pytest.mark.parametrize("count", [1, 100])
def test_deleted_by_cascade(world: World, other_user: User, count: int) -> None:
    rows = [Project(owner=other_user, name=f"p{number}") for number in range(count)]
    Project.objects.bulk_create(rows)
    sessions = [Session(project=row, owner=world.user, title="S") for row in rows]
    Session.objects.bulk_create(sessions)
    SessionMessage.objects.bulk_create(
        SessionMessage(session=session, sender="A", content="M") for session in sessions
    )
    told = user_deleted(other_user) + [told for row in rows for told in project_deleted(row)]

    written = watch(other_user.delete)

    # The projects' events, in one insert.
    expect(written, told, DELETE_QUERIES["user"] + 1)
    assert not Session.objects.filter(pk__in=[session.pk for session in sessions]).exists()
    assert not SessionMessage.objects.exists()


STORAGE = {
    # The used bytes after the write, of 10, and the expected events.
    "warning": (8, ["storage.quota_warning"]),
    "exceeded": (12, ["storage.quota_warning", "storage.quota_exceeded"]),
}

STORE: dict[str, Callable[[list[Recording]], Any]] = {
    "save": lambda rows: [row.save() for row in assign(rows, {"status": "READY"})],
    "update": lambda rows: chosen(Recording, rows).update(status="READY"),
    "bulk_update": lambda rows: Recording.objects.bulk_update(
        assign(rows, {"status": "READY"}), ["status"]
    ),
    "bulk_create": lambda rows: Recording.objects.bulk_create(
        Recording(session_id=row.session_id, file_size_bytes=row.file_size_bytes, status="READY")
        for row in rows
    ),
    "lower quota": lambda rows: (
        User.objects.update(storage_quota_bytes=10**12),
        chosen(Recording, rows).update(status="READY"),
        User.objects.update(storage_quota_bytes=10),
    ),
}


@pytest.mark.parametrize("way", STORE)
@pytest.mark.parametrize("what", STORAGE)
def test_quota_crossed(world: World, what: str, way: str) -> None:
    used, types = STORAGE[what]
    User.objects.update(storage_quota_bytes=10)
    rows = [world.new_recording(number, file_size_bytes=used // 4) for number in range(4)]
    Recording.objects.bulk_create(rows)

    written = watch(lambda: STORE[way](rows))

    told = [(event_type, data) for event_type, data in written.told if "storage" in event_type]
    assert [event_type for event_type, _ in told] == types
    assert told[-1][1] == {
        "usedBytes": used, "quotaBytes": 10, "percent": 10.0 * used, "occurredAt": NOW_TEXT,
    }  # fmt: skip


BILLING = [
    "subscription.created", "subscription.updated", "subscription.cancelled",
    "payment.succeeded", "payment.failed",
]  # fmt: skip


@pytest.mark.parametrize("count", [1, 100])
@pytest.mark.parametrize("event_type", BILLING)
def test_triggered(world: World, event_type: str, count: int) -> None:
    data = dict(catalog.get_type(event_type).example)
    triggers = [service.Trigger(event_type, world.user, data)] * count

    written = watch(lambda: service.trigger_events(triggers))

    expect(written, [(event_type, data)] * count, 1)


def test_the_table_covers_every_type(world: World) -> None:
    told = {
        event_type
        for case in [*CREATED.values(), *CHANGED.values(), *DELETED.values()]
        for event_type, _ in case.told(case.new(world, 0))
    }
    storage = {event_type for _, types in STORAGE.values() for event_type in types}

    known = {name for name in catalog.WEBHOOK_EVENTS if not name.startswith("webhook.")}
    assert told | storage | set(BILLING) == known
    assert len(known) == 23


def test_fixtures_cause_no_events(world: World) -> None:
    rows = [world.new_project(1), world.new_recording(1, **READY)]
    text = serializers.serialize("json", [*rows, world.user])

    def load() -> None:
        for item in serializers.deserialize("json", text):
            item.save()

    assert watch(load).told == []
    assert Project.objects.filter(pk=rows[0].pk).exists()
