"""The events of one object in one transaction, and their order; in real transactions."""

from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection, transaction

from projects.models import Project, User
from sessions_app.models import Agent, Recording, Session, SessionMessage
from webhooks.models import Delivery, Event, Webhook
from webhooks.testing import captured_events

pytestmark = pytest.mark.django_db(transaction=True)


class Undo(Exception):
    pass


def test_created_and_then_updated_is_one_created_with_the_final_values(user: User) -> None:
    with captured_events() as captured, transaction.atomic():
        project = Project.objects.create(owner=user, name="First")
        session = Session.objects.create(project=project, owner=user, title="Draft")
        project.name = "Second"
        project.save()
        Project.objects.filter(pk=project.pk).update(description="Final")
        Session.objects.filter(pk=session.pk).update(title="Fixed")

    assert captured.types == ["project.created", "session.started"]
    (created,), (started,) = (
        captured.data_of("project.created"),
        captured.data_of("session.started"),
    )
    assert (created["name"], created["description"]) == ("Second", "Final")
    assert started["title"] == "Fixed"


def test_several_updates_are_one_updated_in_the_place_of_the_first(project: Project) -> None:
    with captured_events() as captured, transaction.atomic():
        project.name = "Second"
        project.save()
        agent = Agent.objects.create(owner=project.owner, name="A", platform="x", version="1")
        agent.connect()
        project.name = "Third"
        project.save()

    assert captured.types == ["project.updated", "agent.connected"]
    assert captured.data_of("project.updated")[0]["name"] == "Third"


def test_rewritten_event_keeps_its_id_and_its_deliveries(
    project: Project, make_webhook: Callable[..., Webhook]
) -> None:
    make_webhook()

    with captured_events() as captured, transaction.atomic():
        project.name = "Second"
        project.save()
        first = Event.objects.latest("sequence")
        project.name = "Third"
        project.save()

    (event,) = captured.events
    assert (event.id, event.sequence, event.created_at) == (
        first.id,
        first.sequence,
        first.created_at,
    )
    assert bytes(event.payload).startswith(b'{"id":"%s"' % event.public_id.encode())
    assert Delivery.objects.filter(event=event).count() == event.fanout_count == 1


def test_unchanged_final_values_cause_no_event(
    project: Project, make_webhook: Callable[..., Webhook]
) -> None:
    make_webhook()

    with captured_events() as captured, transaction.atomic():
        for name in ("Other", "Website"):
            project.name = name
            project.save()

    assert captured.types == []
    assert not Delivery.objects.exists()


def test_updated_and_then_deleted_is_only_deleted(project: Project) -> None:
    with captured_events() as captured, transaction.atomic():
        project.name = "Second"
        project.save()
        project.delete()

    assert captured.types == ["project.deleted"]
    assert captured.data_of("project.deleted")[0]["name"] == "Second"


def test_created_and_then_deleted_is_nothing_at_all(project: Project) -> None:
    user = project.owner
    with captured_events() as captured, transaction.atomic():
        gone = Project.objects.create(owner=user, name="Gone")
        session = Session.objects.create(project=gone, owner=user, title="S")
        SessionMessage.objects.create(session=session, sender="A", content="M")
        recording = Recording.objects.create(session=session, title="R")
        recording.fail("Cut off.")
        session.pause()
        gone.delete()

    assert captured.types == []


def test_changes_of_status_stay_separate_and_in_order(project: Project) -> None:
    session = Session.objects.create(project=project, owner=project.owner, title="S")

    with captured_events() as captured, transaction.atomic():
        session.pause()
        session.resume()
        session.pause()
        session.end()
        session.delete()

    # The session existed before the transaction, so its end is an event although it is deleted.
    assert captured.types == [
        "session.paused",
        "session.resumed",
        "session.paused",
        "session.ended",
    ]


def test_deleted_and_created_again_are_two_events(project: Project) -> None:
    user, key = project.owner, project.pk
    with captured_events() as captured, transaction.atomic():
        project.name = "Before"
        project.save()
        project.delete()
        again = Project.objects.create(id=key, owner=user, name="Again")
        again.name = "Final"
        again.save()

    assert captured.types_and_data[0][0] == "project.deleted"
    assert captured.types == ["project.deleted", "project.created"]
    assert captured.data_of("project.created")[0]["name"] == "Final"

    with captured_events() as captured, transaction.atomic():
        again.delete()
        Project.objects.create(id=key, owner=user, name="Third").delete()

    assert captured.types == ["project.deleted"]


def test_new_owner_of_a_new_object_gets_its_created(
    user: User, other_user: User, make_webhook: Callable[..., Webhook]
) -> None:
    make_webhook()
    theirs = make_webhook(owner=other_user)

    with transaction.atomic():
        project = Project.objects.create(owner=user, name="P")
        Project.objects.filter(pk=project.pk).update(owner=other_user)

    (event,) = Event.objects.filter(
        type="project.created", object_reference=f"project:{project.pk}"
    )
    assert event.owner_id == other_user.pk
    assert list(Delivery.objects.values_list("event_id", "webhook_id")) == [(event.pk, theirs.pk)]


def test_savepoint_rollback_restores_the_earlier_events(project: Project) -> None:
    def rename(name: str) -> None:
        project.name = name
        project.save()

    with captured_events() as captured, transaction.atomic():
        rename("Second")
        with pytest.raises(Undo), transaction.atomic():
            rename("Third")
            Project.objects.all().delete()
            raise Undo
        with transaction.atomic():
            rename("Fourth")

    assert captured.types == ["project.updated"]
    assert captured.data_of("project.updated")[0]["name"] == "Fourth"


def test_savepoint_that_django_does_not_know_of_costs_no_event(project: Project) -> None:
    with captured_events() as captured, transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SAVEPOINT by_hand")
            project.name = "Second"
            project.save()
            cursor.execute("ROLLBACK TO SAVEPOINT by_hand")
        project.name = "Third"
        project.save()

    # The journal refers to a deleted event; the row count of the UPDATE reveals it.
    assert captured.types == ["project.updated"]
    assert captured.data_of("project.updated")[0]["name"] == "Third"


def test_committed_events_are_immutable(project: Project) -> None:
    before = list(Event.objects.order_by("sequence").values_list("id", "payload"))

    with transaction.atomic():
        project.name = "Second"
        project.save()
        project.delete()

    after = list(Event.objects.order_by("sequence").values_list("id", "payload"))
    assert [(id_, bytes(payload)) for id_, payload in after[: len(before)]] == [
        (id_, bytes(payload)) for id_, payload in before
    ]


def test_autocommitted_writes_do_not_merge(project: Project) -> None:
    with captured_events() as captured:
        for name in ("Second", "Third"):
            project.name = name
            project.save()

    assert captured.types == ["project.updated", "project.updated"]


@pytest.mark.django_db(transaction=False)
def test_captured_events_exclude_earlier_ones_of_the_test(user: User) -> None:
    project = Project.objects.create(owner=user, name="P")

    with captured_events() as first:
        project.name = "Second"
        project.save()
    with captured_events() as second:
        project.delete()

    assert (first.types, second.types) == (["project.updated"], ["project.deleted"])


@pytest.mark.django_db(transaction=False)
def test_callbacks_that_a_test_runs_count_as_a_commit(
    user: User, django_capture_on_commit_callbacks: Any
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        project = Project.objects.create(owner=user, name="P")

    project.name = "Second"
    project.save()

    assert list(Event.objects.order_by("sequence").values_list("type", flat=True))[-2:] == [
        "project.created",
        "project.updated",
    ]
