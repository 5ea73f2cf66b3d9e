"""Debounce: of an object's updates at most one is sent in a window, and it is the last one."""

import json
import random
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import connection, transaction
from django.utils import timezone

from projects.models import Project, User
from tests.concurrency import in_thread
from webhooks import service
from webhooks.dispatch.engine import run_until_idle
from webhooks.ids import new_id
from webhooks.models import Delivery, Webhook
from webhooks.repair import redelivery_batches
from webhooks.workbench.receiver import Behaviour, HttpReceiver

pytestmark = pytest.mark.django_db(transaction=True)

WINDOW = 600
SUPERSEDED = "Superseded by a later event of the same object: {}."


@pytest.fixture
def make(make_webhook: Callable[..., Webhook], receiver: HttpReceiver) -> Callable[..., Webhook]:
    def make(**settings: Any) -> Webhook:
        given = {"url": receiver.url, "events": ["project.*"], "debounce_seconds": WINDOW}
        webhook = make_webhook(**given | settings)
        receiver.secrets.append(webhook.secret)
        return webhook

    return make


@pytest.fixture
def project(user: User) -> Project:
    return Project.objects.create(owner=user, name="0")


def rename(project: Project, *names: str) -> None:
    for name in names:
        project.name = name
        project.save()


def updates(**wanted: Any) -> list[Delivery]:
    rows = Delivery.objects.filter(event_type="project.updated", **wanted).select_related("event")
    return list(rows.order_by("event__sequence"))


def name_of(delivery: Delivery) -> str:
    name: str = json.loads(bytes(delivery.event.payload))["data"]["name"]
    return name


def let_the_window_end() -> None:
    Delivery.objects.filter(finished_at=None, next_attempt_at__gt=timezone.now()).update(
        next_attempt_at=timezone.now()
    )


def sent_names(receiver: HttpReceiver) -> list[str]:
    return [json.loads(one.body)["data"]["name"] for one in receiver.requests]


def test_the_last_of_several_updates_is_sent_and_the_others_say_so(
    make: Callable[..., Webhook], project: Project, receiver: HttpReceiver
) -> None:
    make()
    rename(project, "1")
    (first,) = updates()
    rename(project, "2", "3")
    run_until_idle()
    assert receiver.requests == []
    *older, last = updates()
    assert first.next_attempt_at is not None
    assert timedelta(seconds=WINDOW - 60) < first.next_attempt_at - timezone.now()
    assert last.next_attempt_at == first.next_attempt_at
    assert [(one.status, name_of(one)) for one in older] == [("CANCELLED", "1"), ("CANCELLED", "2")]
    assert older[1].error == SUPERSEDED.format(last.public_id)
    assert all(one.finished_at is not None and one.next_attempt_at is None for one in older)

    let_the_window_end()
    run_until_idle()
    rename(project, "4")
    run_until_idle()

    assert sent_names(receiver) == ["3"]
    waiting = updates(status="PENDING")
    assert [name_of(one) for one in waiting] == ["4"]
    assert waiting[0].next_attempt_at is not None
    assert waiting[0].next_attempt_at > timezone.now() + timedelta(seconds=WINDOW - 60)


def test_other_types_other_objects_and_other_webhooks_wait_for_nothing(
    make: Callable[..., Webhook], project: Project, user: User, receiver: HttpReceiver
) -> None:
    make()
    plain = make(debounce_seconds=None)
    other = Project.objects.create(owner=user, name="other")
    rename(project, "1")
    rename(other, "2", "3")
    run_until_idle()

    assert sorted(sent_names(receiver)) == ["1", "2", "3", "other", "other"]
    assert sorted(name_of(one) for one in updates(status="PENDING")) == ["1", "3"]
    assert set(Delivery.objects.filter(webhook=plain).values_list("debounce_key", flat=True)) == {
        None
    }


def test_a_deleted_object_is_not_updated_afterwards(
    make: Callable[..., Webhook], project: Project, receiver: HttpReceiver
) -> None:
    make()
    rename(project, "1")
    project.delete()
    run_until_idle()
    let_the_window_end()
    run_until_idle()

    assert [one.event_type for one in receiver.requests] == ["project.deleted"]
    assert [one.status for one in updates()] == ["CANCELLED"]


def test_what_is_rolled_back_supersedes_nothing(
    make: Callable[..., Webhook], project: Project
) -> None:
    make()
    rename(project, "1")
    with transaction.atomic():
        rename(project, "2")
        transaction.set_rollback(True)

    assert [(name_of(one), one.status) for one in updates()] == [("1", "PENDING")]


def test_changes_that_cancel_each_other_leave_the_update_before_them(
    make: Callable[..., Webhook], project: Project
) -> None:
    make()
    rename(project, "1")
    with transaction.atomic():
        rename(project, "2", "1")

    assert [(name_of(one), one.status) for one in updates()] == [("1", "PENDING")]


def test_events_of_one_statement_supersede_each_other_in_their_order(
    make: Callable[..., Webhook], user: User
) -> None:
    make()
    data = {
        "id": str(new_id()),
        "description": "",
        "archived": False,
        "updatedAt": "2026-11-23T10:30:00.123Z",
    }
    triggers = [
        service.Trigger(
            "project.updated", user, {**data, "name": str(name)}, object_reference="p:1"
        )
        for name in range(5)
    ]
    service.trigger_events(triggers)

    assert [name_of(one) for one in updates(status="PENDING")] == ["4"]
    assert len(updates(status="CANCELLED")) == 4


def test_a_retry_is_superseded_what_is_in_flight_or_asked_for_is_not(
    make: Callable[..., Webhook], project: Project, user: User, receiver: HttpReceiver
) -> None:
    make(retry_schedule=[3600])
    receiver.behaviour = Behaviour(status=500)
    rename(project, "retried")
    let_the_window_end()
    run_until_idle()
    assert [one.status for one in updates()] == ["RETRYING"]
    rename(project, "in flight")
    assert [one.status for one in updates()] == ["CANCELLED", "PENDING"]
    Delivery.objects.filter(status="PENDING").update(status="SENDING", claimed_by=new_id())
    asked = service.redeliver_one(updates()[0], requested_by=user)
    redelivery_batches.run(asked.id)
    rename(project, "last")

    assert [(name_of(one), one.status) for one in updates()] == [
        ("retried", "PENDING"),
        ("in flight", "SENDING"),
        ("last", "PENDING"),
    ]


def test_of_transactions_that_overlap_one_update_stays(
    make: Callable[..., Webhook], user: User
) -> None:
    make()
    data = {
        "id": str(new_id()),
        "description": "",
        "archived": False,
        "updatedAt": "2026-11-23T10:30:00.123Z",
    }

    def trigger(name: str) -> None:
        given = {**data, "name": name}
        service.trigger_events(
            [service.Trigger("project.updated", user, given, object_reference="p:1")]
        )

    with transaction.atomic():
        trigger("stored first, committed last")
        in_thread(partial(trigger, "last")).join()

    assert [name_of(one) for one in updates(status="PENDING")] == ["last"]


def test_no_isolation_fails_a_save(make: Callable[..., Webhook], project: Project) -> None:
    make()
    rename(project, "1")

    def touch() -> None:
        Delivery.objects.filter(status="PENDING").update(error="touched")

    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            cursor.execute("SELECT count(*) FROM webhooks_delivery")
        in_thread(touch).join()
        rename(project, "2")

    assert [name_of(one) for one in updates()] == ["1", "2"]


def test_at_the_end_the_last_state_of_every_object_is_sent(
    make: Callable[..., Webhook], user: User, receiver: HttpReceiver
) -> None:
    make(debounce_seconds=1)
    projects = [Project.objects.create(owner=user, name="new") for _ in range(6)]

    def work(seed: int) -> None:
        chance = random.Random(seed)
        for step in range(25):
            with transaction.atomic():
                found = Project.objects.select_for_update().get(pk=chance.choice(projects).pk)
                rename(found, *(f"{seed}-{step}-{k}" for k in range(chance.randint(1, 3))))
                transaction.set_rollback(chance.random() < 0.2)

    threads = [in_thread(partial(work, seed)) for seed in range(3)]
    while any(thread.is_alive() for thread in threads):
        run_until_idle()
    for thread in threads:
        thread.join()
    let_the_window_end()
    run_until_idle()

    last = {}
    for one in receiver.requests:
        sent = json.loads(one.body)
        if sent["type"] == "project.updated":
            last[sent["data"]["id"]] = sent["data"]["name"]
    assert last == {str(one.pk): one.name for one in Project.objects.all()}
    assert not Delivery.objects.exclude(status__in=("SUCCESS", "CANCELLED")).exists()


def test_order_and_debounce_exclude_each_other(make: Callable[..., Webhook]) -> None:
    webhook = make()

    with pytest.raises(ValidationError, match="sends in order cannot wait"):
        service.update_webhook(webhook, ordered=True)
    webhook.refresh_from_db()
    service.update_webhook(webhook, ordered=True, debounce_seconds=None)
    with pytest.raises(ValidationError, match="sends in order cannot wait"):
        make(ordered=True)
    for seconds in (0, 3601):
        with pytest.raises(ValidationError):
            make(debounce_seconds=seconds)
