"""Tracked models and their events live in one database: another alias is refused in words."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.db import connection, connections, transaction
from django.db.models import Model

from projects.models import Project, User
from sessions_app.models import Recording, Session, StorageLevel
from tests.concurrency import in_thread
from webhooks.errors import OtherDatabaseError
from webhooks.models import Event
from webhooks.testing import captured_events
from webhooks.tracking.checks import check_database

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


WRITES: dict[str, Callable[[Project], Any]] = {
    "save": lambda project: project.save(using=SECOND),
    "insert": lambda project: Project(owner_id=project.owner_id, name="New").save(using=SECOND),
    "create": lambda project: Project.objects.using(SECOND).create(
        owner_id=project.owner_id, name="New"
    ),
    "delete": lambda project: project.delete(using=SECOND),
    "update": lambda project: Project.objects.using(SECOND).update(name="Renamed"),
    "delete rows": lambda project: Project.objects.using(SECOND).all().delete(),
    "bulk_create": lambda project: Project.objects.using(SECOND).bulk_create(
        [Project(owner_id=project.owner_id, name="New")]
    ),
    "upsert": lambda project: Project.objects.using(SECOND).bulk_create(
        [project], update_conflicts=True, unique_fields=["id"], update_fields=["name"]
    ),
    "bulk_update": lambda project: Project.objects.using(SECOND).bulk_update([project], ["name"]),
    "read there, saved": lambda project: Project.objects.using(SECOND).get().save(),
    "manager": lambda project: Session.objects.db_manager(SECOND).create(
        project_id=project.pk, owner_id=project.owner_id, title="S"
    ),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_write_through_another_alias_is_refused(
    project: Project, write: Callable[[Project], Any]
) -> None:
    project.name = "Renamed"
    before = list(Project.objects.values())

    with captured_events() as captured, pytest.raises(OtherDatabaseError) as refused:
        write(project)

    assert "is tracked, so it is written through the database 'default'" in str(refused.value)
    assert "'second' was asked for" in str(refused.value)
    assert list(Project.objects.values()) == before
    assert (captured.types, Session.objects.count()) == ([], 0)


def test_untracked_columns_are_refused_too(project: Project) -> None:
    with pytest.raises(OtherDatabaseError):
        Project.objects.using(SECOND).update(updated_at=None)


def test_reads_through_another_alias_are_allowed(project: Project) -> None:
    assert Project.objects.using(SECOND).get().pk == project.pk


def test_events_follow_their_cause_through_rollback_and_commit(user: User) -> None:
    with captured_events() as captured:
        project = Project(owner_id=user.pk, name="Undone")
        with pytest.raises(Undo), transaction.atomic():
            project.save()
            Project.objects.update(name="Undone, too")
            raise Undo
        with transaction.atomic():
            project.save(force_insert=True)
            Project.objects.update(name="Done")

    assert [(kind, data["name"]) for kind, data in captured.types_and_data] == [
        ("project.created", "Done")
    ]


class Undo(Exception):
    pass


def test_storage_is_reviewed_in_autocommit(project: Project) -> None:
    User.objects.update(storage_quota_bytes=10)
    session = Session.objects.create(project=project, owner=project.owner, title="S")

    with captured_events() as captured:
        recording = Recording(session_id=session.pk, title="R", status="READY", file_size_bytes=8)
        recording.save()
        Recording.objects.update(file_size_bytes=11)
        User.objects.update(storage_quota_bytes=20)
        Recording.objects.all().delete()

    assert captured.types == [
        "recording.completed", "storage.quota_warning", "storage.quota_exceeded",
    ]  # fmt: skip
    assert StorageLevel.objects.get().used_bytes == 0


def test_threads_have_separate_journals(project: Project) -> None:
    other = Project.objects.create(owner=project.owner, name="Other")

    with captured_events() as captured, transaction.atomic():
        Project.objects.filter(pk=project.pk).update(name="Second")
        in_thread(lambda: Project.objects.filter(pk=other.pk).update(name="Theirs")).join()
        Project.objects.filter(pk=project.pk).update(name="Third")

    assert {data["name"] for _, data in captured.types_and_data} == {"Third", "Theirs"}
    assert Event.objects.filter(type="project.updated").count() == 2


class Router:
    """Sends some models to the second database."""

    def __init__(self, *models: type[Model]) -> None:
        self.models = models

    def db_for_write(self, model: type[Model], **hints: Any) -> str | None:
        return SECOND if model in self.models else None


class ReadRouter:
    """Reads some models from the second database."""

    def __init__(self, *models: type[Model]) -> None:
        self.models = models

    def db_for_read(self, model: type[Model], **hints: Any) -> str | None:
        return SECOND if model in self.models else None


def test_e014_router_of_a_tracked_model(settings: Any) -> None:
    assert check_database(None) == []
    settings.DATABASE_ROUTERS = [Router(Recording)]

    (problem,) = check_database(None)

    assert (problem.id, problem.msg) == (
        "webhooks.E014",
        "DATABASE_ROUTERS send sessions_app.Recording to the database 'second'.",
    )
    with pytest.raises(SystemCheckError, match=r"webhooks\.E014"):
        call_command("check")


def test_e014_replica_of_our_own_rows(settings: Any) -> None:
    settings.DATABASE_ROUTERS = [ReadRouter(Event, Recording)]

    (problem,) = check_database(None)

    assert problem.msg == "DATABASE_ROUTERS send webhooks.Event to the database 'second'."
