"""With a router that reads from a replica, events come from the transaction that stores them."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection, connections, transaction

from projects.models import Project, User
from sessions_app.models import Recording, Session, StorageLevel
from webhooks.testing import captured_events

REPLICA = "replica"

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", REPLICA])


class Router:
    """Reads from the replica, which does not show what a transaction has not committed."""

    def db_for_read(self, *_: Any, **hints: Any) -> str:
        return REPLICA

    def db_for_write(self, *_: Any, **hints: Any) -> str:
        return "default"

    def allow_relation(self, *_: Any, **hints: Any) -> bool:
        return True


@pytest.fixture(scope="module", autouse=True)
def _second_way_to_the_database(django_db_setup: None) -> Iterator[None]:
    mirror = {**connection.settings_dict["TEST"], "MIRROR": "default"}
    connections.settings[REPLICA] = {**connection.settings_dict, "TEST": mirror}
    yield
    del connections[REPLICA], connections.settings[REPLICA]


@pytest.fixture(autouse=True)
def _replica(settings: Any) -> Iterator[None]:
    settings.DATABASE_ROUTERS = [Router()]
    yield
    connections[REPLICA].close()


def levels() -> dict[Any, str]:
    return dict(StorageLevel.objects.values_list("owner__username", "level"))


def test_quota_that_is_set_in_the_same_transaction_counts(project: Project) -> None:
    session = Session.objects.create(project=project, owner=project.owner, title="S")

    with captured_events() as captured, transaction.atomic():
        User.objects.update(storage_quota_bytes=100)
        Recording.objects.create(session=session, title="R", status="READY", file_size_bytes=85)

    assert captured.types == ["recording.completed", "storage.quota_warning"]
    assert levels() == {project.owner.username: "warning"}


def test_owner_who_is_made_in_the_same_transaction_is_reviewed(project: Project) -> None:
    with captured_events() as captured, transaction.atomic():
        owner = User.objects.create(username="new", email="new@x.example", storage_quota_bytes=100)
        session = Session.objects.create(project=project, owner=owner, title="S")
        Recording.objects.create(session=session, title="R", status="READY", file_size_bytes=85)

    assert captured.types[-1] == "storage.quota_warning"
    assert levels() == {"new": "warning"}


def test_recording_that_leaves_a_session_of_the_same_transaction_is_reviewed(
    project: Project, other_user: User
) -> None:
    User.objects.update(storage_quota_bytes=100)
    theirs = Session.objects.create(project=project, owner=other_user, title="Theirs")

    with transaction.atomic():
        session = Session.objects.create(project=project, owner=project.owner, title="S")
        row = Recording.objects.create(
            session=session, title="R", status="READY", file_size_bytes=85
        )
        row.session = theirs
        row.save()

    assert levels() == {project.owner.username: "ok", other_user.username: "warning"}
