"""Events hold the database's values and go to the database's owner, never an instance's."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import connection, transaction
from django.db.models.signals import pre_save

from projects.models import Project, User
from sessions_app.models import Recording, Session, SessionMessage
from webhooks.models import Delivery, Webhook
from webhooks.testing import captured_events

pytestmark = pytest.mark.django_db(transaction=True)


class Undo(Exception):
    pass


@pytest.fixture
def session(project: Project) -> Session:
    return Session.objects.create(project=project, owner=project.owner, title="S")


def rename(project: Project) -> None:
    """Set a name in memory that the database does not hold."""
    with pytest.raises(Undo), transaction.atomic():
        project.name = "Rolled back"
        project.save()
        raise Undo


CREATE: dict[str, Callable[[Project], Any]] = {
    "create": lambda p: Session.objects.create(project=p, owner=p.owner, title="S"),
    "bulk_create": lambda p: Session.objects.bulk_create(
        [Session(project=p, owner=p.owner, title="S", status="PAUSED")]
    ),
    "ignore_conflicts": lambda p: Session.objects.bulk_create(
        [Session(project=p, owner=p.owner, title="S")], ignore_conflicts=True
    ),
    "update_conflicts": lambda p: Session.objects.bulk_create(
        [Session(project=p, owner=p.owner, title="S")],
        update_conflicts=True,
        update_fields=["title"],
        unique_fields=["id"],
    ),
    "related manager": lambda p: p.sessions.create(owner=p.owner, title="S"),
}


@pytest.mark.parametrize("way", CREATE)
def test_new_session_carries_the_name_that_its_project_has(project: Project, way: str) -> None:
    rename(project)

    with captured_events() as captured:
        CREATE[way](project)

    assert {data["projectName"] for _, data in captured.types_and_data} == {"Website"}


CHANGE: dict[str, Callable[[Session], Any]] = {
    "save": Session.end,
    "update": lambda s: Session.objects.filter(pk=s.pk).update(status="PAUSED"),
    "bulk_update": lambda s: Session.objects.bulk_update([s], ["status"]),
}


@pytest.mark.parametrize("way", CHANGE)
def test_changed_session_carries_the_name_that_its_project_has(session: Session, way: str) -> None:
    session.project.name = "Never saved"
    session.status = Session.Status.PAUSED if way == "bulk_update" else Session.Status.ACTIVE

    with captured_events() as captured:
        CHANGE[way](session)

    assert [data["projectName"] for _, data in captured.types_and_data] == ["Website"]


def test_project_that_was_renamed_by_another_process(project: Project, session: Session) -> None:
    Project.objects.filter(pk=project.pk).update(name="Renamed")

    with captured_events() as captured:
        session.pause()
        Session.objects.create(project=project, owner=project.owner, title="S")

    assert [data["projectName"] for _, data in captured.types_and_data] == ["Renamed", "Renamed"]


def hand_over(session: Session, owner: User) -> None:
    """Change the owner in the database, but not in `session`."""
    Session.objects.filter(pk=session.pk).update(owner=owner)


OF_A_SESSION: dict[str, Callable[[Session], Any]] = {
    "message": lambda s: SessionMessage.objects.create(session=s, sender="A", content="M"),
    "messages": lambda s: SessionMessage.objects.bulk_create(
        [SessionMessage(session=s, sender="A", content="M")]
    ),
    "recording": lambda s: Recording.objects.create(session=s, title="R", status="READY"),
    "failed recording": lambda s: Recording.objects.create(session=s, title="R").fail("E"),
    "status": Session.pause,
    "title": lambda s: Session.objects.filter(pk=s.pk).update(status="PAUSED", title="T"),
}


@pytest.mark.parametrize("way", OF_A_SESSION)
def test_session_that_changed_hands_announces_to_its_new_owner(
    session: Session, other_user: User, make_webhook: Callable[..., Webhook], way: str
) -> None:
    make_webhook()
    theirs = make_webhook(owner=other_user)
    hand_over(session, other_user)
    assert session.owner_id != other_user.pk

    with captured_events() as captured:
        OF_A_SESSION[way](session)

    (event,) = captured.events
    assert event.owner_id == other_user.pk
    assert [delivery.webhook_id for delivery in Delivery.objects.filter(event=event)] == [theirs.pk]


def test_recording_counts_for_the_owner_that_its_session_has(
    session: Session, other_user: User
) -> None:
    User.objects.update(storage_quota_bytes=10)
    hand_over(session, other_user)

    with captured_events() as captured:
        Recording.objects.create(session=session, title="R", status="READY", file_size_bytes=8)

    assert [(event.type, event.owner_id) for event in captured.events] == [
        ("recording.completed", other_user.pk),
        ("storage.quota_warning", other_user.pk),
    ]


@contextmanager
def trigger(table: str, event: str, body: str) -> Iterator[None]:
    with connection.cursor() as cursor:
        cursor.execute(
            f"CREATE FUNCTION tidy() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body}; "
            f"RETURN NEW; END $$; CREATE TRIGGER tidy BEFORE {event} ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION tidy()"
        )
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP FUNCTION tidy CASCADE")


def padded(project: Project) -> Project:
    project.name = "  Padded "
    return project


WRITE_NAME: dict[str, Callable[[Project], Any]] = {
    "create": lambda p: Project.objects.create(owner=p.owner, name="  Padded "),
    "bulk_create": lambda p: Project.objects.bulk_create(
        [Project(owner=p.owner, name="  Padded ")]
    ),
    "save": lambda p: padded(p).save(),
    "update": lambda p: Project.objects.update(name="  Padded "),
    "update_conflicts": lambda p: Project.objects.bulk_create(
        [padded(p)], update_conflicts=True, update_fields=["name"], unique_fields=["id"]
    ),
}


@pytest.mark.parametrize("way", WRITE_NAME)
def test_events_hold_values_changed_by_a_database_trigger(project: Project, way: str) -> None:
    with (
        trigger("projects_project", "INSERT OR UPDATE", "NEW.name := trim(NEW.name)"),
        captured_events() as captured,
    ):
        WRITE_NAME[way](project)

    assert [data["name"] for _, data in captured.types_and_data] == ["Padded"]


def test_upsert_of_a_row_found_by_a_value_changed_by_a_trigger(user: User) -> None:
    again = User(username="again", email=user.email.upper(), name="New name")
    with (
        trigger("projects_user", "INSERT", "NEW.email := lower(NEW.email)"),
        captured_events() as captured,
    ):
        User.objects.bulk_create(
            [again], update_conflicts=True, update_fields=["name"], unique_fields=["email"]
        )

    ((kind, data),) = captured.types_and_data
    assert (kind, data["id"], data["name"]) == ("user.updated", str(user.pk), "New name")


def test_write_refused_by_a_trigger_causes_no_event(project: Project) -> None:
    body = "IF NEW.name = 'Refused' THEN RETURN NULL; END IF"
    with trigger("projects_project", "UPDATE", body), captured_events() as captured:
        assert Project.objects.update(name="Refused") == 0

    assert captured.types == []


def test_events_hold_values_set_by_pre_save_receivers(project: Project) -> None:
    def shout(instance: Project, **_: Any) -> None:
        instance.name = instance.name.upper()

    pre_save.connect(shout, sender=Project)
    try:
        with captured_events() as captured:
            project.save()
    finally:
        pre_save.disconnect(shout, sender=Project)

    assert [data["name"] for _, data in captured.types_and_data] == ["WEBSITE"]


@pytest.mark.parametrize("status", ["COMPLETED", "ACTIVE"])
def test_status_that_is_not_saved_changes_nothing(session: Session, status: str) -> None:
    if status == "ACTIVE":
        session.end()
    stored = Session.objects.get()
    session.status = status
    session.title = "Renamed"

    with captured_events() as captured:
        session.save(update_fields=["title"])

    assert captured.types == []
    now = Session.objects.get()
    assert (now.status, now.ended_at) == (stored.status, stored.ended_at)


def test_events_of_partial_instances_are_complete(session: Session) -> None:
    partial = Session.objects.only("status").get()
    Project.objects.update(name="Renamed")
    partial.status = Session.Status.PAUSED

    with captured_events() as captured:
        partial.save(update_fields=["status"])

    ((_, data),) = captured.types_and_data
    assert (data["projectName"], data["projectId"]) == ("Renamed", str(session.project_id))
