"""Whose transaction a write is in is what Postgres says, whoever begins and ends it; and a write
that fails does to the caller's transaction what one of a plain model would do.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.core.exceptions import FieldDoesNotExist, FieldError
from django.db import IntegrityError, connection, transaction
from django.db.models import Count, F
from django.db.models.signals import post_save, pre_save

from projects.models import Project, User
from sessions_app.models import Recording, Session
from webhooks import service
from webhooks.models import Webhook
from webhooks.testing import captured_events
from webhooks.tracking import rows_written

pytestmark = pytest.mark.django_db(transaction=True)


class Veto(Exception):
    pass


@contextmanager
def manual_transactions() -> Iterator[None]:
    """Switch autocommit off, like programs that commit manually."""
    transaction.set_autocommit(False)
    try:
        yield
    finally:
        transaction.rollback()
        transaction.set_autocommit(True)


def rename(project: Project, name: str) -> None:
    project.name = name
    project.save()


def execute(sql: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql)


# Ways to end a transaction.


def test_each_manual_commit_ends_coalescing(user: User) -> None:
    with captured_events() as captured, manual_transactions():
        project = Project.objects.create(owner=user, name="First")
        rename(project, "Draft")
        transaction.commit()
        rename(project, "Second")
        rename(project, "Third")
        transaction.commit()
        project.delete()
        transaction.commit()

    assert [(kind, data["name"]) for kind, data in captured.types_and_data] == [
        ("project.created", "Draft"),
        ("project.updated", "Third"),
        ("project.deleted", "Third"),
    ]


def test_manual_rollback_clears_the_journal(project: Project) -> None:
    with captured_events() as captured, manual_transactions():
        rename(project, "Second")
        transaction.rollback()
        rename(project, "Third")
        transaction.commit()
        again = Project(owner=project.owner, name="New")
        again.save()
        transaction.rollback()
        again.save(force_insert=True)
        again.delete()
        transaction.commit()

    assert [(kind, data["name"]) for kind, data in captured.types_and_data] == [
        ("project.updated", "Third")
    ]


def test_status_and_storage_between_manual_commits(project: Project) -> None:
    User.objects.update(storage_quota_bytes=10)

    with captured_events() as captured, manual_transactions():
        session = Session.objects.create(project=project, owner=project.owner, title="S")
        for _ in range(2):
            transaction.commit()
            Recording.objects.create(session=session, title="R", status="READY", file_size_bytes=8)
        transaction.commit()
        Recording.objects.all().delete()
        session.delete()
        transaction.commit()

    assert captured.types == [
        "session.started", "recording.completed", "storage.quota_warning",
        "recording.completed", "storage.quota_exceeded",
    ]  # fmt: skip


def test_events_are_triggered_in_manual_transactions(
    user: User, make_webhook: Callable[..., Webhook]
) -> None:
    webhook = make_webhook()
    data = {"id": str(user.pk), "name": "P", "deletedAt": "2026-11-23T10:30:00.123Z"}

    with captured_events() as captured, manual_transactions():
        service.trigger_event("project.deleted", user, data)
        webhook.save()
        transaction.commit()
        service.trigger_event("project.deleted", user, data, idempotency_key="k")
        transaction.rollback()

    assert captured.types == ["project.deleted"]


def test_transaction_that_the_driver_ends(project: Project) -> None:
    with captured_events() as captured, manual_transactions():
        rename(project, "Second")
        connection.connection.commit()
        rename(project, "Third")
        connection.connection.rollback()
        rename(project, "Fourth")
        connection.connection.commit()

    assert [data["name"] for _, data in captured.types_and_data] == ["Second", "Fourth"]


@pytest.mark.parametrize("write", ["update", "delete", "create", "nothing"])
def test_manual_savepoint_restores_the_journal(project: Project, write: str) -> None:
    with captured_events() as captured, transaction.atomic():
        rename(project, "Second")
        execute("SAVEPOINT by_hand")
        if write == "update":
            rename(project, "Undone")
        elif write == "delete":
            Project.objects.all().delete()
        elif write == "create":
            Project.objects.create(owner=project.owner, name="Undone")
        execute("ROLLBACK TO SAVEPOINT by_hand")
        rename(project, "Third")
        execute("RELEASE SAVEPOINT by_hand")
        rename(project, "Website")

    # The net effect of the transaction is nothing.
    assert captured.types == []


def test_nested_manual_savepoints(user: User) -> None:
    with captured_events() as captured, transaction.atomic():
        project = Project.objects.create(owner=user, name="First")
        execute("SAVEPOINT around")
        rename(project, "Second")
        execute("SAVEPOINT within")
        project.delete()
        execute("RELEASE SAVEPOINT within")
        execute("ROLLBACK TO SAVEPOINT around")
        Project.objects.update(description="Kept")

    ((kind, data),) = captured.types_and_data
    assert (kind, data["name"], data["description"]) == ("project.created", "First", "Kept")


def test_earlier_signal_receiver_that_writes_itself(project: Project) -> None:
    other = Project.objects.create(owner=project.owner, name="Other")

    def follow(writes: Any, **_: Any) -> None:
        if writes[0].row.pk == project.pk:
            Project.objects.filter(pk=other.pk).update(description=writes[0].row.name)

    known = list(rows_written.receivers)
    rows_written.connect(follow, sender=Project)
    rows_written.receivers = [rows_written.receivers[-1], *known]
    try:
        with captured_events() as captured, transaction.atomic():
            for name in ("Second", "Third", "Fourth"):
                rename(project, name)
    finally:
        rows_written.disconnect(follow, sender=Project)

    assert captured.types == ["project.updated", "project.updated"]
    told = {data["name"]: data["description"] for _, data in captured.types_and_data}
    assert told == {"Fourth": project.description, "Other": "Fourth"}


def test_write_outside_a_transaction_ignores_the_last_one(
    project: Project, django_assert_num_queries: Any
) -> None:
    for name in ("Second", "Third"):
        # BEGIN, update, store, COMMIT, without a query for the journal.
        with django_assert_num_queries(4):
            rename(project, name)


# Writes that fail.


@contextmanager
def refusing(signal: Any, sender: Any) -> Iterator[None]:
    def refuse(**_: Any) -> None:
        raise Veto

    signal.connect(refuse, sender=sender)
    try:
        yield
    finally:
        signal.disconnect(refuse, sender=sender)


def save_refused(project: Project) -> None:
    with refusing(pre_save, Project):
        project.save()


def save_refused_afterwards(project: Project) -> None:
    with refusing(post_save, Project):
        project.save()


# Writes of a plain model that Django refuses before any statement, or after all of them.
HARMLESS: dict[str, tuple[type[Exception], Callable[[Project], Any]]] = {
    "pre_save": (Veto, save_refused),
    "post_save": (Veto, save_refused_afterwards),
    "unknown field": (FieldDoesNotExist, lambda p: Project.objects.update(title="T")),  # type: ignore[misc]
    "joined value": (FieldError, lambda p: Project.objects.update(name=F("owner__name"))),
    "ordered by an aggregate": (
        FieldError,
        lambda p: Project.objects.annotate(n=Count("sessions")).order_by("n").update(name="N"),
    ),
    "sliced": (TypeError, lambda p: Project.objects.all()[:1].update(name="N")),
    "unsaved owner": (
        ValueError,
        lambda p: Session.objects.bulk_create([Session(project=Project(id=None), owner=p.owner)]),
    ),
    "no key": (ValueError, lambda p: Project.objects.bulk_update([Project(id=None)], ["name"])),
}


@pytest.mark.parametrize("mode", ["atomic", "savepoint", "by hand"])
@pytest.mark.parametrize("what", HARMLESS)
def test_caught_refusal_leaves_the_transaction_whole(
    project: Project, what: str, mode: str
) -> None:
    refusal, write = HARMLESS[what]

    def go_on() -> None:
        Project.objects.create(owner=project.owner, name="Before")
        with pytest.raises(refusal):
            write(project)
        Project.objects.create(owner=project.owner, name="After")

    with captured_events() as captured:
        if mode == "by hand":
            with manual_transactions():
                go_on()
                transaction.commit()
        else:
            with transaction.atomic():
                if mode == "savepoint":
                    with transaction.atomic():
                        go_on()
                else:
                    go_on()

    assert captured.types == ["project.created", "project.created"]


FAILING: dict[str, Callable[[Project], Any]] = {
    "save": lambda p: rename(p, "New"),
    "create": lambda p: Project.objects.create(owner=p.owner, name="New"),
    "update": lambda p: Project.objects.update(name="New"),
    "bulk_create": lambda p: Project.objects.bulk_create([Project(owner=p.owner, name="New")]),
    "bulk_update": lambda p: Project.objects.bulk_update([Project(id=p.pk, name="New")], ["name"]),
}


@pytest.mark.parametrize("mode", ["autocommit", "atomic", "by hand"])
@pytest.mark.parametrize("way", FAILING)
def test_row_never_stays_without_its_event(project: Project, way: str, mode: str) -> None:
    def write() -> None:
        with refusing(rows_written, Project), pytest.raises(Veto):
            FAILING[way](project)

    if mode == "atomic":
        with transaction.atomic():
            write()
    elif mode == "by hand":
        with manual_transactions():
            write()
            transaction.commit()
    else:
        write()

    assert list(Project.objects.values_list("name", flat=True)) == ["Website"]


def test_error_of_the_database_breaks_the_transaction_as_ever(project: Project) -> None:
    with captured_events() as captured, transaction.atomic():
        with pytest.raises(IntegrityError):
            Project.objects.update(owner=None)
        with pytest.raises(transaction.TransactionManagementError):
            Project.objects.create(owner=project.owner, name="After")

    assert captured.types == []
