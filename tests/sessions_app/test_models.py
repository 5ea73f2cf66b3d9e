"""Sessions, recordings and agents: allowed status changes, even by two processes at once."""

from collections.abc import Callable
from typing import Any

import pytest
from django.db import transaction

from projects.models import Project, User
from sessions_app.errors import TransitionNotAllowedError
from sessions_app.models import Agent, Recording, Session
from tests.concurrency import in_thread, wait_for_lock
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
