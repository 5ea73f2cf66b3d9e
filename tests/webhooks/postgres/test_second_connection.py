"""Writes through a connection other than Django's default one store events through it, too."""

from collections.abc import Iterator

import pytest
from django.db import connection, connections, transaction

from projects.models import Project, User
from sessions_app.models import Recording, Session, StorageLevel
from webhooks.models import Event
from webhooks.testing import captured_events

SECOND = "second"

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", SECOND])


@pytest.fixture(scope="module", autouse=True)
def _second_way_to_the_database(django_db_setup: None) -> Iterator[None]:
    mirror = {**connection.settings_dict["TEST"], "MIRROR": "default"}
    connections.settings[SECOND] = {**connection.settings_dict, "TEST": mirror}
    yield
    del connections[SECOND], connections.settings[SECOND]


@pytest.fixture(autouse=True)
def _closed_afterwards() -> Iterator[None]:
    yield
    connections[SECOND].close()


class Undo(Exception):
    pass


def test_event_is_stored_over_the_connection_of_its_write(user: User) -> None:
    with captured_events() as captured:
        project = Project(owner_id=user.pk, name="Undone")
        with pytest.raises(Undo), transaction.atomic(using=SECOND):
            project.save(using=SECOND)
            Project.objects.using(SECOND).update(name="Undone, too")
            raise Undo
        with transaction.atomic(using=SECOND):
            project.save(using=SECOND, force_insert=True)
            Project.objects.using(SECOND).update(name="Done")

    assert [(kind, data["name"]) for kind, data in captured.types_and_data] == [
        ("project.created", "Done")
    ]


def test_storage_is_reviewed_over_the_connection_of_the_recording(project: Project) -> None:
    User.objects.update(storage_quota_bytes=10)
    session = Session.objects.create(project=project, owner=project.owner, title="S")
    connections[SECOND].cursor().execute("SET statement_timeout = '20s'")
    connection.cursor().execute("SET statement_timeout = '20s'")

    with captured_events() as captured:
        recording = Recording(session_id=session.pk, title="R", status="READY", file_size_bytes=8)
        recording.save(using=SECOND)
        Recording.objects.using(SECOND).update(file_size_bytes=11)
        User.objects.using(SECOND).update(storage_quota_bytes=20)
        Recording.objects.using(SECOND).all().delete()

    assert captured.types == [
        "recording.completed", "storage.quota_warning", "storage.quota_exceeded",
    ]  # fmt: skip
    assert StorageLevel.objects.get().used_bytes == 0
    connection.close()


def test_connections_have_separate_journals(project: Project) -> None:
    other = Project.objects.create(owner=project.owner, name="Other")

    with captured_events() as captured, transaction.atomic():
        Project.objects.filter(pk=project.pk).update(name="Second")
        with transaction.atomic(using=SECOND):
            Project.objects.using(SECOND).filter(pk=other.pk).update(name="Theirs")
        Project.objects.filter(pk=project.pk).update(name="Third")

    assert {data["name"] for _, data in captured.types_and_data} == {"Third", "Theirs"}
    assert Event.objects.filter(type="project.updated").count() == 2
