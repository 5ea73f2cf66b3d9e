"""Writes that are easy to get wrong: stale instances, races, expressions, conflicts, other people's
managers. What every ordinary way tells is in test_every_write.py.
"""

from typing import Any

import pytest
from django.db import IntegrityError, NotSupportedError, models, transaction
from django.db.migrations.state import ModelState
from django.db.models import F, Value, Window
from django.db.models.functions import Concat, RowNumber, Upper
from django.db.models.signals import post_save
from django.test import Client
from django.test.utils import isolate_apps
from django.urls import reverse

from projects.models import Project, User
from sessions_app.models import Agent, Recording, Session
from tests.concurrency import in_thread, wait_for_lock
from tests.webhooks.tracking.own_models import Living, declare, make_model, tables_of
from webhooks.models import Event
from webhooks.testing import captured_events
from webhooks.tracking import rows_deleting

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def session(project: Project) -> Session:
    return Session.objects.create(project=project, owner=project.owner, title="S")


# Old values come from the database, not from an instance.


def test_event_of_a_stale_instance_holds_the_stored_row(project: Project) -> None:
    Project.objects.filter(pk=project.pk).update(name="Other")

    with captured_events() as captured:
        project.save()

    assert captured.data_of("project.updated")[0]["name"] == "Website"


def test_event_of_a_partial_save_holds_the_other_fields_as_stored(project: Project) -> None:
    project.name = "Not saved"
    project.description = "Saved"

    with captured_events() as captured:
        project.save(update_fields=["description"])

    (data,) = captured.data_of("project.updated")
    assert (data["name"], data["description"]) == ("Website", "Saved")


def test_event_of_a_deferred_instance_is_complete(project: Project) -> None:
    partial = Project.objects.only("name").get()
    partial.name = "Second"

    with captured_events() as captured:
        partial.save()

    (data,) = captured.data_of("project.updated")
    assert (data["name"], data["description"]) == ("Second", "The public site")


def test_write_of_untracked_columns_costs_nothing(
    user: User, project: Project, django_assert_num_queries: Any
) -> None:
    # BEGIN, UPDATE, COMMIT, without a lock or a query.
    with captured_events() as captured, django_assert_num_queries(3):
        user.save(update_fields=["last_login"])
    with captured_events() as more, django_assert_num_queries(1):
        User.objects.update(first_name="A")

    assert captured.types + more.types == []


def test_save_without_a_change_causes_no_event(project: Project, session: Session) -> None:
    agent = Agent.objects.create(owner=project.owner, name="A", platform="x", version="1")

    with captured_events() as captured:
        rows: list[Any] = [project, session, agent, project.owner]
        for row in rows:
            row.save()
            type(row).objects.filter(pk=row.pk).update(id=row.pk)

    assert captured.types == []


def test_second_of_two_racing_writers_sees_the_first(session: Session) -> None:
    mine, theirs = Session.objects.get(), Session.objects.get()
    theirs.status = Session.Status.PAUSED

    with captured_events() as captured:
        with transaction.atomic():
            mine.pause()
            thread = in_thread(theirs.save)
            wait_for_lock()
        thread.join()

    assert captured.types == ["session.paused"]


def test_second_of_two_racing_updates_sees_the_first(session: Session) -> None:
    def pause() -> None:
        Session.objects.filter(status="ACTIVE").update(status="PAUSED")

    with captured_events() as captured:
        with transaction.atomic():
            pause()
            thread = in_thread(pause)
            wait_for_lock()
        thread.join()

    assert captured.types == ["session.paused"]


def test_second_of_two_racing_deletes_causes_no_event(project: Project) -> None:
    again = Project.objects.get()

    with captured_events() as captured:
        with transaction.atomic():
            project.delete()
            thread = in_thread(again.delete)
            wait_for_lock()
        thread.join()

    assert captured.types == ["project.deleted"]


def test_upsert_that_meets_a_row_it_could_not_see(user: User) -> None:
    row = Project(owner=user, name="Mine")
    theirs = Project(id=row.id, owner=user, name="Theirs")

    def upsert() -> None:
        Project.objects.bulk_create(
            [row], update_conflicts=True, update_fields=["name"], unique_fields=["id"]
        )

    with captured_events() as captured:
        with transaction.atomic():
            theirs.save(force_insert=True)
            thread = in_thread(upsert)
            wait_for_lock()
        thread.join()

    assert captured.types == ["project.created", "project.updated"]
    assert captured.data_of("project.updated")[0]["name"] == "Mine"


# Values that differ from those in the database.


def test_events_hold_the_values_of_expressions(project: Project) -> None:
    with captured_events() as captured:
        project.name = Upper(Value("save"))
        project.save()
        Project.objects.update(name=Concat(F("name"), Value("!")))
        Project.objects.bulk_create([Project(owner=project.owner, name=Upper(Value("bulk")))])

    assert [data["name"] for _, data in captured.types_and_data] == ["SAVE", "SAVE!", "BULK"]


def test_events_hold_parsed_keys_and_times(user: User) -> None:
    with captured_events() as captured:
        Project.objects.create(
            id="01935710-5a3c-7d2e-9f10-3b6c8e2a4d71",
            owner_id=str(user.pk),
            name="P",
            created_at="2026-11-23T10:30:00Z",
        )

    (event,) = captured.events
    assert event.owner_id == user.pk
    (data,) = captured.data_of("project.created")
    assert data["createdAt"] == "2026-11-23T10:30:00.000Z"


def test_long_text_is_cut_so_that_the_event_is_sent(project: Project) -> None:
    project.description = "\x01" * 300_000

    with captured_events() as captured:
        project.save()

    (data,) = captured.data_of("project.updated")
    assert (len(data["description"]), data["description"][-1]) == (40_000, "…")


# Conflicts and querysets.


def test_ignored_conflicts_cause_no_events(project: Project) -> None:
    rows = [
        Project(id=project.pk, owner=project.owner, name="Known"),
        Project(owner=project.owner, name="New"),
    ]

    with captured_events() as captured:
        Project.objects.bulk_create(rows, ignore_conflicts=True)
        Project.objects.bulk_create(rows[:1], ignore_conflicts=True)

    assert [data["name"] for _, data in captured.types_and_data] == ["New"]


def test_upsert_distinguishes_inserted_rows_from_rows_updated_by_another_key(user: User) -> None:
    rows = [
        User(username="ada", email="ada@example.com", name="Changed"),
        User(username="eve", email="eve@example.com", name="Eve"),
    ]

    with captured_events() as captured:
        User.objects.bulk_create(
            rows, update_conflicts=True, update_fields=["name"], unique_fields=["email"]
        )

    assert [(kind, data["id"], data["name"]) for kind, data in captured.types_and_data] == [
        ("user.created", str(rows[1].pk), "Eve"),
        ("user.updated", str(user.pk), "Changed"),
    ]


def test_update_through_joins_groups_and_distinct(project: Project, session: Session) -> None:
    several = Project.objects.filter(sessions__status="ACTIVE").distinct().order_by("name")

    with captured_events() as captured:
        assert several.update(name="Second") == 1

    assert captured.types == ["project.updated"]


def test_delete_by_a_window_function(user: User, project: Project) -> None:
    Project.objects.create(owner=user, name="A double")
    number = Window(RowNumber(), order_by="name")

    with captured_events() as captured:
        Project.objects.annotate(number=number).filter(number__gt=1).delete()

    assert captured.types == ["project.deleted"]


def test_related_managers_write_with_events(project: Project, session: Session) -> None:
    other = Session.objects.create(project=project, owner=project.owner, title="Other")

    with captured_events() as captured:
        recording = session.recordings.create(title="R", status="READY", file_size_bytes=10**10)
        other.recordings.add(recording)
        project.sessions.update(status="PAUSED")

    assert captured.types == [
        "recording.completed", "storage.quota_warning", "session.paused", "session.paused",
    ]  # fmt: skip
    assert Recording.objects.get().session_id == other.pk


def test_failed_bulk_write_stores_nothing(project: Project) -> None:
    rows = [Project(owner=project.owner, name="New"), Project(id=project.pk, owner=project.owner)]

    with captured_events() as captured, pytest.raises(IntegrityError):
        Project.objects.bulk_create(rows)

    assert captured.types == []


def test_event_comes_before_those_of_other_receivers(user: User) -> None:
    def open_a_session(instance: Project, created: bool, **_: Any) -> None:
        if created:
            Session.objects.create(project=instance, owner=instance.owner, title="First")
            instance.name = "Renamed by a receiver"
            instance.save()

    post_save.connect(open_a_session, sender=Project)
    try:
        with captured_events() as captured:
            Project.objects.create(owner=user, name="P")
    finally:
        post_save.disconnect(open_a_session, sender=Project)

    assert captured.types == ["project.created", "session.started"]
    assert captured.data_of("project.created")[0]["name"] == "Renamed by a receiver"


# Nothing leaks.


def test_events_never_hold_private_fields(user: User) -> None:
    canary = "canary-do-not-send"
    hidden = {"password": canary, "username": canary, "first_name": canary, "last_name": canary}
    User.objects.filter(pk=user.pk).update(**hidden, name="Public")
    secretive = User.objects.create(**{**hidden, "username": canary * 2}, email="s@example.com")
    project = Project.objects.create(owner=secretive, name="P")
    session = Session.objects.create(project=project, owner=secretive, title="S")
    agent = Agent.objects.create(owner=secretive, name="A", platform="x", version="1")
    recording = Recording.objects.create(
        session=session, title=canary, mime_type=canary, error=canary
    )
    agent.connect()
    recording.complete(url="https://c.example/r", duration_seconds=1, file_size_bytes=1)
    session.end()
    secretive.set_password(canary)
    secretive.name = "Changed"
    secretive.save()
    secretive.delete()

    payloads = [
        bytes(payload).decode() for payload in Event.objects.values_list("payload", flat=True)
    ]
    assert len(payloads) >= 9
    assert not [payload for payload in payloads if canary in payload or "pbkdf2" in payload]


def test_proxies_write_with_the_events_of_their_model(user: User) -> None:
    class Website(Project):
        class Meta:
            app_label = "projects"
            proxy = True

    with captured_events() as captured:
        website = Website.objects.create(owner=user, name="P")
        website.name = "Second"
        website.save()
        Website.objects.update(name="Third")
        website.delete()

    assert captured.types == [
        "project.created", "project.updated", "project.updated", "project.deleted",
    ]  # fmt: skip


@pytest.mark.parametrize("refuse", ["slice", "values", "union"])
def test_calls_that_django_refuses_are_refused(project: Project, refuse: str) -> None:
    rows = Project.objects.all()
    refused = {"slice": rows[:1], "values": rows.values("name"), "union": rows.union(rows)}[refuse]

    with captured_events() as captured, pytest.raises((TypeError, NotSupportedError)):
        refused.delete()

    assert captured.types == []
    assert Project.objects.exists()


def test_edits_in_the_admin(user: User, project: Project, client: Client) -> None:
    User.objects.filter(pk=user.pk).update(is_staff=True, is_superuser=True)
    client.force_login(User.objects.get())
    url = reverse("admin:projects_project_change", args=[project.pk])
    chosen = {"action": "delete_selected", "_selected_action": [str(project.pk)], "post": "yes"}

    with captured_events() as captured:
        client.post(url, {"name": "Edited", "description": "", "owner": str(user.pk)})
        client.post(reverse("admin:projects_project_changelist"), chosen)

    assert captured.types == ["project.updated", "project.deleted"]


def test_row_that_is_added_while_others_are_deleted_stays(project: Project) -> None:
    def add_another(**_: Any) -> None:
        rows_deleting.disconnect(add_another, sender=Project)
        in_thread(lambda: Project.objects.create(owner=project.owner, name="Website")).join()

    rows_deleting.connect(add_another, sender=Project)
    with captured_events() as captured:
        Project.objects.filter(name="Website").delete()

    assert captured.types == ["project.created", "project.deleted"]
    assert Project.objects.count() == 1


@pytest.mark.usefixtures("own_registries")
@isolate_apps("projects")
def test_rows_that_the_default_manager_hides_are_written_and_deleted_with_events() -> None:
    shelf = make_model("Shelf")
    key = models.ForeignKey(shelf, models.CASCADE)
    box = make_model("Box", shelf=key, objects=Living())
    declare(shelf, box)
    with tables_of(shelf, box):
        row, other = box.objects.bulk_create(
            [box(name="gone", shelf=shelf.objects.create(name="S")) for _ in range(2)]
        )

        with captured_events() as captured:
            row.name = "here"
            row.save()
            row.name = "gone"
            row.save()
            row.refresh_from_db()
            row.delete()
            other.shelf.delete()

        assert captured.types == [
            *["box.updated"] * 2,
            *["box.deleted", "shelf.deleted", "box.deleted"],
        ]
        assert not box._base_manager.exists()


@isolate_apps("projects")
def test_a_default_manager_that_hides_rows_needs_no_migration() -> None:
    state = ModelState.from_model(make_model("Box", objects=Living()))

    assert state.managers == []
    assert state.options["base_manager_name"] == "objects"
