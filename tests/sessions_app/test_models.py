"""Sessions, recordings and agents: allowed status changes, even by two processes at once."""

import importlib
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.db.models import Case, Value
from django.utils import timezone

from projects.models import Project, User
from sessions_app.errors import TransitionNotAllowedError
from sessions_app.models import Agent, Recording, Session
from tests.concurrency import in_thread, wait_for_lock
from webhooks.catalog import wire_time
from webhooks.testing import captured_events

pytestmark = pytest.mark.django_db

COMPLETE = {"url": "https://c.example/r", "duration_seconds": 1, "file_size_bytes": 1}


@pytest.fixture
def session(project: Project) -> Session:
    return Session.objects.create(project=project, owner=project.owner, title="S")


def new(kind: str, status: str, session: Session) -> Any:
    owner: dict[str, Any] = {"owner": session.owner}
    if kind == "session":
        row: Any = Session(project=session.project, title="S", **owner)
    elif kind == "recording":
        row = Recording(session=session, title="R")
    else:
        row = Agent(name="A", platform="linux", version="1", **owner)
    row.status = status
    row.save()
    return row


def new_agent(owner: User) -> Agent:
    agent: Agent = Agent.objects.create(owner=owner, name="A", platform="linux", version="1")
    return agent


ACTIONS: dict[str, tuple[str, Callable[[Any], None], str, str]] = {
    # What it is called on, what it does, from where, to where.
    "pause": ("session", lambda row: row.pause(), "ACTIVE", "PAUSED"),
    "resume": ("session", lambda row: row.resume(), "PAUSED", "ACTIVE"),
    "end": ("session", lambda row: row.end(), "ACTIVE PAUSED", "COMPLETED"),
    "complete": (
        "recording",
        lambda row: row.complete(**COMPLETE),
        "UPLOADING PROCESSING",
        "READY",
    ),
    "fail": ("recording", lambda row: row.fail("Cut off."), "UPLOADING PROCESSING", "FAILED"),
    "connect": ("agent", lambda row: row.connect(), "OFFLINE", "ONLINE"),
    "set busy": ("agent", lambda row: row.set_busy(), "ONLINE", "BUSY"),
    "set idle": ("agent", lambda row: row.set_idle(), "BUSY", "ONLINE"),
    "disconnect": ("agent", lambda row: row.disconnect("gone"), "ONLINE BUSY", "OFFLINE"),
}
STATUSES = {
    "session": Session.Status.values,
    "recording": Recording.Status.values,
    "agent": Agent.Status.values,
}


@pytest.mark.parametrize(
    ("action", "status"),
    [(action, status) for action, (kind, *_) in ACTIONS.items() for status in STATUSES[kind]],
)
def test_every_action_from_every_status(session: Session, action: str, status: str) -> None:
    kind, act, allowed, target = ACTIONS[action]
    row = new(kind, status, session)

    if status in allowed.split():
        act(row)
        row.refresh_from_db()
        assert row.status == target
        return
    with captured_events() as captured, pytest.raises(TransitionNotAllowedError) as refusal:
        act(row)

    assert str(refusal.value).startswith("Cannot ")
    assert f"from {status}; possible from {allowed.replace(' ', ' or ')}." in str(refusal.value)
    assert captured.types == []
    row.refresh_from_db()
    assert row.status == status


def test_refusal_leaves_the_callers_transaction_usable(session: Session) -> None:
    with transaction.atomic():
        with pytest.raises(TransitionNotAllowedError):
            session.resume()
        session.pause()

    assert Session.objects.get(pk=session.pk).status == "PAUSED"


@pytest.mark.django_db(transaction=True)
def test_of_two_that_end_a_session_at_once_one_is_refused(session: Session) -> None:
    refused: list[TransitionNotAllowedError] = []
    again = Session.objects.get(pk=session.pk)

    def end() -> None:
        try:
            again.end()
        except TransitionNotAllowedError as refusal:
            refused.append(refusal)

    with captured_events() as captured:
        with transaction.atomic():
            session.end()
            thread = in_thread(end)
            wait_for_lock()
        thread.join()

    assert captured.types == ["session.ended"]
    assert len(refused) == 1


def test_plain_saves_keep_the_end_of_a_session_right(session: Session) -> None:
    session.status = "COMPLETED"
    session.save(update_fields=["status"])
    first_end = Session.objects.get().ended_at
    session.status = "ACTIVE"
    session.save()

    assert first_end is not None
    assert Session.objects.get().ended_at is None


def test_disconnect_reason_is_sent_and_cleared_on_reconnect(user: User) -> None:
    agent = new_agent(user)
    with captured_events() as captured:
        agent.connect()
        agent.disconnect("heartbeat lost")
        agent.status = "ONLINE"
        agent.save(update_fields=["status"])
        agent.status = "OFFLINE"
        agent.save()

    reasons = [data["reason"] for data in captured.data_of("agent.disconnected")]
    assert reasons == ["heartbeat lost", None]


@pytest.mark.django_db(transaction=True)
def test_save_without_a_loaded_status_keeps_the_one_that_another_process_sets(
    session: Session,
) -> None:
    renamed = Session.objects.only("title").get()
    renamed.title = "Renamed"

    with captured_events() as captured:
        with transaction.atomic():
            session.end()
            thread = in_thread(renamed.save)
            wait_for_lock()
        thread.join()

    session.refresh_from_db()
    assert captured.types == ["session.ended"]
    assert (session.title, session.status) == ("Renamed", "COMPLETED")
    assert session.ended_at is not None


@pytest.mark.django_db(transaction=True)
def test_agent_without_a_loaded_status_stays_disconnected(user: User) -> None:
    agent = new_agent(user)
    agent.connect()
    renamed = Agent.objects.only("name").get()
    renamed.name = "Renamed"

    with captured_events() as captured:
        with transaction.atomic():
            agent.disconnect("heartbeat lost")
            thread = in_thread(renamed.save)
            wait_for_lock()
        thread.join()

    agent.refresh_from_db()
    assert captured.types == ["agent.disconnected"]
    assert (agent.name, agent.status) == ("Renamed", "OFFLINE")
    assert agent.disconnect_reason == "heartbeat lost"


def test_names_of_saved_fields_may_come_from_a_generator(session: Session) -> None:
    agent = new_agent(session.owner)
    session.title, session.status = "Over", "COMPLETED"
    agent.name, agent.status = "B", "ONLINE"

    session.save(update_fields=(name for name in ("title", "status")))
    agent.save(update_fields=(name for name in ("name", "status")))

    session.refresh_from_db()
    agent.refresh_from_db()
    assert (session.title, session.status, agent.name, agent.status) == (
        "Over", "COMPLETED", "B", "ONLINE",
    )  # fmt: skip
    assert session.ended_at is not None


# What a row remembers of its last end, disconnection or failure is not said of the next one.


def test_session_that_ends_again_does_not_end_when_it_ended_first(session: Session) -> None:
    Session.objects.update(started_at=timezone.now() - timedelta(hours=3))
    Session.objects.update(status="COMPLETED", ended_at=timezone.now() - timedelta(hours=2))

    Session.objects.update(status="ACTIVE")
    reopened = Session.objects.get()
    with captured_events() as captured:
        Session.objects.update(status="COMPLETED")

    (data,) = captured.data_of("session.ended")
    assert data["duration"] >= 3 * 3600
    assert data["endedAt"] > wire_time(timezone.now() - timedelta(minutes=1))
    assert reopened.ended_at is None


def test_end_that_was_set_before_the_status_is_kept(session: Session) -> None:
    ended_at = timezone.now() + timedelta(hours=1)
    Session.objects.update(ended_at=ended_at)

    with captured_events() as captured:
        Session.objects.update(status="COMPLETED")

    assert captured.data_of("session.ended")[0]["endedAt"] == wire_time(ended_at)


def test_reason_of_the_last_disconnection_is_not_said_of_the_next(user: User) -> None:
    agent = new_agent(user)
    agent.connect()

    with captured_events() as captured:
        agent.disconnect("heartbeat lost")
        Agent.objects.update(status="ONLINE")
        Agent.objects.update(status="OFFLINE")
        Agent.objects.update(status=Case(default=Value("BUSY")))
        Agent.objects.get().disconnect("heartbeat lost")
        Agent.objects.update(status="ONLINE")
        Agent.objects.get().disconnect("heartbeat lost")

    reasons = [data["reason"] for data in captured.data_of("agent.disconnected")]
    assert reasons == ["heartbeat lost", None, "heartbeat lost", "heartbeat lost"]


def test_error_of_the_last_failure_is_not_said_of_the_next(session: Session) -> None:
    recording = Recording.objects.create(session=session, title="R")

    with captured_events() as captured:
        recording.fail("Cut off.")
        Recording.objects.update(status="PROCESSING")
        Recording.objects.update(status="FAILED")
        recording.status = "PROCESSING"
        recording.save()
        recording.status = "FAILED"
        recording.save()

    errors = [data["error"] for data in captured.data_of("recording.failed")]
    assert errors == ["Cut off.", "", ""]


def test_migration_forgets_what_was_left_before_the_triggers(session: Session) -> None:
    agent = new_agent(session.owner)
    agent.connect()
    recording = Recording.objects.create(session=session, title="R")
    gone = Agent.objects.create(owner=session.owner, name="B", platform="linux", version="1")
    Session.objects.update(ended_at=timezone.now())
    Recording.objects.update(error="old")
    Agent.objects.update(disconnect_reason="old")
    migration = importlib.import_module("sessions_app.migrations.0007_forget_what_is_outdated")

    with connection.cursor() as cursor:
        for each in migration.REMEMBERED:
            cursor.execute(migration.FORGET_SQL.format(*each))

    for row in (session, recording, agent, gone):
        row.refresh_from_db()
    assert (session.ended_at, recording.error, agent.disconnect_reason) == (None, "", "")
    assert gone.disconnect_reason == "old"
