"""A quick claim takes what needs no second thought, and leaves all else to a usual claim."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from projects.models import User
from tests.concurrency import another_connection
from tests.webhooks.history import trigger
from webhooks import service
from webhooks.dispatch.discovery import Look
from webhooks.dispatch.endpoints import Endpoints
from webhooks.dispatch.quick import QUICK_ROWS, take_recent
from webhooks.dispatch.take import Taken
from webhooks.ids import new_id
from webhooks.models import Delivery, SigningSecret, Webhook, WorkerHeartbeat
from webhooks.pace.window import START
from webhooks.registry.switch import pause_sending

pytestmark = pytest.mark.django_db(transaction=True)

MakeWebhook = Callable[..., Webhook]


def worker() -> UUID:
    return WorkerHeartbeat.objects.create(host="here", pid=1).id


def quick(
    worker_id: UUID | None = None,
    *,
    limit: int = 100,
    rooms: dict[UUID, int] | None = None,
    endpoints: Endpoints | None = None,
) -> tuple[Taken, Look]:
    return take_recent(
        worker_id or worker(),
        limit,
        endpoints or Endpoints(),
        rooms=rooms or {},
        back_seconds=600.0,
    )


def test_one_statement_marks_what_is_due_and_reads_its_webhook(
    user: User, make_webhook: MakeWebhook
) -> None:
    webhook = make_webhook(events=["project.deleted"])
    trigger(user, 2)
    worker_id, endpoints = worker(), Endpoints()

    with CaptureQueriesContext(connection) as queries:
        taken, left = quick(worker_id, endpoints=endpoints)

    assert len(queries) == 1
    assert [d.event_type for d in taken.deliveries] == ["project.deleted"] * 2
    assert {bytes(d.payload) for d in taken.deliveries} == {
        bytes(d.event.payload) for d in Delivery.objects.select_related("event")
    }
    assert set(Delivery.objects.values_list("status", "claimed_by")) == {("SENDING", worker_id)}
    assert (left.lanes, left.is_cut, left.is_paused) == ([], False, False)
    endpoint, usual = endpoints.get(webhook.id), Endpoints()
    usual.load([webhook.id])
    expected = usual.get(webhook.id)
    assert endpoint is not None
    assert expected is not None
    assert replace(endpoint, key=expected.key, keys=expected.keys) == expected
    assert endpoints.standing(webhook.id) == usual.standing(webhook.id)


def disable(webhook: Webhook) -> None:
    webhook.active = False
    webhook.save()


def delete(webhook: Webhook) -> None:
    service.delete_webhook(webhook)


def limit_rate(webhook: Webhook) -> None:
    Webhook.objects.filter(id=webhook.id).update(rate_limit=100)


def open_breaker(webhook: Webhook) -> None:
    Webhook.objects.filter(id=webhook.id).update(
        breaker_state="open", breaker_changed_at=timezone.now(), breaker_probe_at=timezone.now()
    )


def recover(webhook: Webhook) -> None:
    Webhook.objects.filter(id=webhook.id).update(breaker_changed_at=timezone.now())


def hold(webhook: Webhook) -> None:
    Webhook.objects.filter(id=webhook.id).update(held_until=timezone.now() + timedelta(minutes=1))


def deactivate_owner(webhook: Webhook) -> None:
    User.objects.filter(id=webhook.owner_id).update(is_active=False)


def pause(webhook: Webhook) -> None:
    pause_sending()


@pytest.mark.parametrize(
    "make_unusual",
    [disable, limit_rate, open_breaker, recover, hold, deactivate_owner, pause],
)
def test_what_needs_a_second_thought_is_left_as_a_lane(
    user: User, make_webhook: MakeWebhook, make_unusual: Callable[[Webhook], None]
) -> None:
    webhook = make_webhook(events=["project.deleted"])
    trigger(user, 1)
    make_unusual(webhook)

    taken, left = quick()

    assert taken.deliveries == []
    assert [lane.key for lane in left.lanes] == [(webhook.id, False)]
    assert Delivery.objects.get().claimed_by is None


def test_rows_that_go_in_order_are_left_as_a_lane(user: User, make_webhook: MakeWebhook) -> None:
    webhook = make_webhook(events=["project.deleted"], ordered=True)
    trigger(user, 2)

    taken, left = quick()

    assert taken.deliveries == []
    assert [lane.key for lane in left.lanes] == [(webhook.id, True)]


def test_no_webhook_gets_more_than_its_room(user: User, make_webhook: MakeWebhook) -> None:
    first, second = (make_webhook(events=["project.deleted"]) for _ in range(2))
    trigger(user, START + 2)

    taken, left = quick(rooms={first.id: 1})

    counts = {w.id: sum(d.webhook_id == w.id for d in taken.deliveries) for w in (first, second)}
    assert counts == {first.id: 1, second.id: START}
    assert {lane.webhook_id for lane in left.lanes} == {first.id, second.id}


def test_limit_holds_and_more_than_it_reads_is_said(user: User, make_webhook: MakeWebhook) -> None:
    make_webhook(events=["project.deleted"])
    trigger(user, QUICK_ROWS + 1)

    taken, left = quick(limit=2)

    assert len(taken.deliveries) == 2
    assert left.is_cut
    assert len(left.lanes) == 1


def test_locked_row_is_left_and_the_others_are_taken(user: User, make_webhook: MakeWebhook) -> None:
    make_webhook(events=["project.deleted"])
    trigger(user, 2)
    locked = Delivery.objects.order_by("id")[0]

    with another_connection() as other:
        other.execute("SELECT FROM webhooks_delivery WHERE id = %s FOR UPDATE", [locked.id])
        taken, left = quick()
        other.rollback()

    assert locked.id not in {d.id for d in taken.deliveries}
    assert len(taken.deliveries) == 1
    assert len(left.lanes) == 1


def test_worker_that_is_not_alive_takes_nothing(user: User, make_webhook: MakeWebhook) -> None:
    make_webhook(events=["project.deleted"])
    trigger(user, 1)
    dead = worker()
    WorkerHeartbeat.objects.filter(id=dead).update(declared_dead_at=timezone.now())

    for worker_id in (dead, new_id()):
        taken, left = quick(worker_id)
        assert taken.deliveries == []
        assert len(left.lanes) == 1


def test_webhook_that_cannot_be_decrypted_is_not_taken_again(
    user: User, make_webhook: MakeWebhook
) -> None:
    webhook = make_webhook(events=["project.deleted"])
    trigger(user, 1)
    SigningSecret.objects.filter(webhook=webhook).update(value_encrypted=b"broken")
    endpoints = Endpoints()
    endpoints.load([webhook.id])

    taken, left = quick(endpoints=endpoints)

    assert taken.deliveries == []
    assert len(left.lanes) == 1
