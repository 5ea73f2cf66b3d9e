"""Order per object: the events of one object in order, different objects in parallel, at no cost for
objects that wait."""

import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.db import connection, transaction
from django.utils import timezone

from projects.models import Project, User
from tests.concurrency import another_connection, in_thread
from tests.webhooks.claiming import claim_due, claim_suspects
from tests.webhooks.dispatch.test_one_tenant import (
    buffers,
    end_surveys,
    registered,
    running_engine,
    statuses,
)
from tests.webhooks.history import DELETED
from tests.workers import wait_until
from webhooks import service
from webhooks.choices import Order
from webhooks.dispatch import discovery, guard, objects, take
from webhooks.dispatch.engine import run_until_idle
from webhooks.dispatch.objects import postpone
from webhooks.ids import new_id
from webhooks.models import Delivery, Event, Webhook
from webhooks.outbox.store import Trigger
from webhooks.postgres.objects import NEXT_DUE_SQL, make_next_due
from webhooks.repair import redelivery_batches
from webhooks.workbench.receiver import Behaviour, HttpReceiver, Received

pytestmark = pytest.mark.django_db(transaction=True)

MakeWebhook = Callable[..., Webhook]


@pytest.fixture
def webhook(make_webhook: MakeWebhook, receiver: HttpReceiver) -> Webhook:
    return make_webhook(
        url=receiver.url, events=["project.deleted"], order="object", retry_delay_seconds=1
    )


def trigger_of(user: User, *names: str) -> list[Event]:
    """Store an event of each of these objects, in this order; of none for an empty name."""
    return service.trigger_events(
        Trigger("project.deleted", user, DELETED, object_reference=name) for name in names
    )


def by_object(requests: list[Received]) -> dict[str, list[str]]:
    """Return the ids of the events that came, by object and in order."""
    came: defaultdict[str, list[str]] = defaultdict(list)
    for request in requests:
        came[request.headers.get("x-webhook-object", "")].append(request.event_id)
    return dict(came)


def rows_of(name: str) -> Any:
    rows = Delivery.objects.filter(event__object_reference=name)
    return rows.order_by("epoch", "object_sequence")


def test_events_of_an_object_arrive_one_after_the_other(
    user: User, webhook: Webhook, receiver: HttpReceiver
) -> None:
    receiver.behaviour = Behaviour(delay_seconds=0.02)
    events = trigger_of(user, *(f"project:{number % 5}" for number in range(50)))

    run_until_idle()

    expected: defaultdict[str, list[str]] = defaultdict(list)
    for event in events:
        expected[event.object_reference].append(event.public_id)
    assert by_object(receiver.requests) == expected
    places: defaultdict[str, list[int]] = defaultdict(list)
    for request in receiver.requests:
        places[request.headers["x-webhook-object"]].append(
            int(request.headers["x-webhook-sequence"])
        )
    assert all(numbers == sorted(set(numbers)) for numbers in places.values())
    recorded = dict(Delivery.objects.all()[0].attempts.get().request_headers)
    assert recorded["X-Webhook-Sequence"].isdecimal()


def test_object_that_fails_holds_only_itself_up(
    user: User, make_webhook: MakeWebhook, receiver: HttpReceiver
) -> None:
    make_webhook(
        url=receiver.url, events=["project.deleted"], order="object", retry_schedule=[3600]
    )
    receiver.script(Behaviour(status=500))
    first = trigger_of(user, "a")[0].public_id
    run_until_idle()
    others = [event.public_id for event in trigger_of(user, "a", "b", "a", "b", "c")]

    run_until_idle()

    came = by_object(receiver.requests)
    assert came == {"a": [first], "b": [others[1], others[3]], "c": [others[4]]}
    head, *behind = rows_of("a")
    assert head.status == "RETRYING"
    soon = timezone.now() + timedelta(seconds=objects.LONGEST_SECONDS - 10)
    assert all(soon < one.next_attempt_at < head.next_attempt_at for one in behind)

    rows_of("a").filter(id=head.id).update(next_attempt_at=timezone.now())
    run_until_idle()
    assert by_object(receiver.requests)["a"] == [first, first, others[0], others[2]]


def test_order_holds_between_two_workers_while_some_fail(
    user: User, webhook: Webhook, receiver: HttpReceiver
) -> None:
    receiver.script(*([Behaviour()] * 37 + [Behaviour(status=500)]) * 8)
    events: list[Event] = []
    with running_engine() as one, running_engine() as other:
        end_surveys(one)
        end_surveys(other)
        for turn in range(50):
            events += trigger_of(user, *(f"o{(turn + n) % 7}" for n in range(5)))
            time.sleep(0.01)
        wait_until(lambda: statuses(user) == {"SUCCESS"}, 60)
    expected: defaultdict[str, list[str]] = defaultdict(list)
    for event in events:
        expected[event.object_reference].append(event.public_id)
    came = by_object(receiver.requests)
    assert {name: list(dict.fromkeys(ids)) for name, ids in came.items()} == expected


def test_events_without_an_object_wait_for_nothing(
    user: User, webhook: Webhook, receiver: HttpReceiver
) -> None:
    trigger_of(user, "", "")
    assert set(Delivery.objects.values_list("order_key", "object_key")) == {(None, None)}

    run_until_idle()

    assert len(receiver.requests) == 2
    assert "x-webhook-object" not in receiver.requests[0].headers
    assert "x-webhook-sequence" not in receiver.requests[0].headers


def test_open_transactions_of_others_delay_nothing(
    user: User, webhook: Webhook, receiver: HttpReceiver
) -> None:
    """Webhooks with one order for all events wait for them."""
    with another_connection() as other:
        other.execute("SELECT pg_current_xact_id()")
        trigger_of(user, "a", "a")

        run_until_idle()

        assert len(receiver.requests) == 2
        other.rollback()


def test_order_is_that_of_the_commits_however_old_a_transaction_is(
    user: User, make_webhook: MakeWebhook, receiver: HttpReceiver
) -> None:
    """Of two transactions that overlap, the one that changes an object last has the last word."""
    make_webhook(url=receiver.url, events=["project.updated"], order="object")
    project = Project.objects.create(owner=user, name="one")
    has_begun, may_go_on = threading.Event(), threading.Event()

    def change_last() -> None:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT pg_current_xact_id()")
            has_begun.set()
            assert may_go_on.wait(10)
            changed = Project.objects.get(id=project.id)
            changed.name = "three"
            changed.save()

    thread = in_thread(change_last)
    assert has_begun.wait(10)
    project.name = "two"
    project.save()
    may_go_on.set()
    thread.join()
    run_until_idle()

    first, second = Event.objects.filter(type="project.updated").order_by("-transaction_id")
    assert [one.event_id for one in receiver.requests] == [first.public_id, second.public_id]
    assert [json.loads(one.body)["data"]["name"] for one in receiver.requests] == ["two", "three"]


def test_suspect_holds_its_object_back_and_no_other(user: User, webhook: Webhook) -> None:
    trigger_of(user, "a", "a", "b")
    first, second = rows_of("a")
    Delivery.objects.filter(id__in=[first.id, second.id]).update(is_suspect=True)

    claimed = claim_due(registered(), limit=10, room_of=lambda *_: 10).deliveries
    assert [one.id for one in claimed] == [rows_of("b")[0].id]
    together = registered()
    apart = claim_suspects(together, level=0, limit=10, room_of=lambda *_: 10).deliveries
    assert [one.id for one in apart] == [first.id]
    assert apart[0].is_of_object
    assert not claim_suspects(together, level=0, limit=10, room_of=lambda *_: 10).deliveries


def test_row_that_is_locked_holds_its_object_back(user: User, webhook: Webhook) -> None:
    trigger_of(user, "a", "a", "b")
    with another_connection() as other:
        other.execute(f"SELECT FROM webhooks_delivery WHERE id = '{rows_of('a')[0].id}' FOR UPDATE")

        claimed = claim_due(registered(), limit=10, room_of=lambda *_: 10)

        assert [one.id for one in claimed.deliveries] == [rows_of("b")[0].id]
        other.rollback()


def test_next_one_is_due_when_the_first_is_cancelled(
    user: User, webhook: Webhook, receiver: HttpReceiver
) -> None:
    trigger_of(user, "a", "a")
    head, behind = rows_of("a")
    Delivery.objects.filter(id=head.id).update(
        status="RETRYING", attempt_count=1, next_attempt_at=timezone.now() + timedelta(hours=1)
    )
    run_until_idle()
    assert receiver.requests == []

    assert service.cancel(head)
    run_until_idle()

    assert [one.delivery_id for one in receiver.requests] == [behind.public_id]


def finish(delivery: Delivery) -> None:
    Delivery.objects.filter(id=delivery.id).update(
        status="SUCCESS", finished_at=timezone.now(), claimed_by=None, next_attempt_at=None
    )


def test_row_behind_one_that_finishes_meanwhile_is_not_forgotten(
    user: User, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the reading of the first one and the postponing of the next, the first one ends."""
    trigger_of(user, "a", "a")
    head, behind = rows_of("a")
    with another_connection() as other:
        # Postponing has seen the first one unfinished, and waits before it commits.
        other.execute(objects.POSTPONE_SQL.replace("%(ids)s", f"ARRAY['{behind.id}']::uuid[]"))
        finish(head)
        assert make_next_due([head.id]) == 0
        other.commit()
    assert rows_of("a")[1].next_attempt_at > timezone.now()
    # What follows in postpone().
    assert make_next_due([behind.id]) == 1
    assert rows_of("a")[1].next_attempt_at <= timezone.now()


def test_row_is_not_forgotten_when_the_first_finishes_during_a_guarded_claim(
    user: User, make_webhook: MakeWebhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    webhook = make_webhook(events=["project.deleted"], order="object")
    Webhook.objects.filter(id=webhook.id).update(rate_limit=100)
    trigger_of(user, "a", "a", "b")
    head, behind = rows_of("a")
    Delivery.objects.filter(id=head.id).update(status="SENDING", claimed_by=registered())
    spend = guard.spend

    def finish_first() -> None:
        finish(head)
        make_next_due([head.id])

    def spend_while_the_first_finishes(*args: Any) -> None:
        in_thread(finish_first).join()
        spend(*args)

    monkeypatch.setattr(guard, "spend", spend_while_the_first_finishes)

    claimed = claim_due(registered(), limit=10, room_of=lambda *_: 10)

    assert [one.id for one in claimed.deliveries] == [rows_of("b")[0].id]
    behind.refresh_from_db()
    assert behind.next_attempt_at <= timezone.now()


def test_next_row_is_called_once_the_first_has_ended(user: User, webhook: Webhook) -> None:
    trigger_of(user, "a", "a", "a")
    head, second, third = rows_of("a")

    assert set(postpone([head.id, second.id, third.id])) == {second.id, third.id}
    finish(head)
    assert make_next_due([head.id]) == 1

    due = Delivery.objects.filter(finished_at=None, next_attempt_at__lte=timezone.now())
    assert [one.id for one in due] == [second.id]


def test_retry_of_the_next_one_is_left_alone(user: User, webhook: Webhook) -> None:
    trigger_of(user, "a")
    (only,) = rows_of("a")
    later = timezone.now() + timedelta(hours=1)
    Delivery.objects.update(status="RETRYING", next_attempt_at=later)

    assert make_next_due([only.id]) == 0
    assert rows_of("a")[0].next_attempt_at == later


def test_redelivery_has_its_place_and_waits_for_nothing(
    user: User, webhook: Webhook, receiver: HttpReceiver
) -> None:
    first, _ = trigger_of(user, "a", "a")
    run_until_idle()
    asked = service.redeliver(
        service.Scope(delivery_ids=(rows_of("a")[0].id,), statuses=("SUCCESS",)), requested_by=user
    )
    redelivery_batches.run(asked.id)

    run_until_idle()

    once, _, again = receiver.requests
    assert once.event_id == again.event_id == first.public_id
    name = "x-webhook-sequence"
    assert once.headers[name] == again.headers[name]


def test_replay_tells_the_place_too(
    user: User, make_webhook: MakeWebhook, receiver: HttpReceiver
) -> None:
    trigger_of(user, "a")
    webhook = make_webhook(url=receiver.url, events=["project.deleted"], order="object")
    asked = service.replay(webhook, timezone.now() - timedelta(hours=1), requested_by=user)
    redelivery_batches.run(asked.id)

    run_until_idle()

    assert receiver.requests[0].headers["x-webhook-object"] == "a"


# Changes of the order.


@pytest.mark.parametrize("after", [Order.ALL, Order.NONE, Order.OBJECT])
@pytest.mark.parametrize("before", [Order.ALL, Order.NONE, Order.OBJECT])
def test_backlog_goes_out_after_a_change_of_the_order(
    user: User, make_webhook: MakeWebhook, receiver: HttpReceiver, before: Order, after: Order
) -> None:
    webhook = make_webhook(url=receiver.url, events=["project.deleted"], order=before)
    events = trigger_of(user, *(f"o{number % 3}" for number in range(30)), "")
    service.update_webhook(webhook, order=after)
    events += trigger_of(user, *(f"o{number % 3}" for number in range(30)))

    run_until_idle()

    assert statuses(user) == {"SUCCESS"}
    came = [request.event_id for request in receiver.requests]
    assert sorted(came) == sorted(event.public_id for event in events)
    if Order.NONE not in (before, after):
        for name in ("o0", "o1", "o2"):
            ids = [event.public_id for event in events if event.object_reference == name]
            assert [event_id for event_id in came if event_id in ids] == ids


def test_nothing_passes_what_is_in_flight_when_the_order_changes(
    user: User, make_webhook: MakeWebhook, receiver: HttpReceiver
) -> None:
    webhook = make_webhook(url=receiver.url, events=["project.deleted"], order="all")
    trigger_of(user, "a", "a")
    head = rows_of("a")[0]
    Delivery.objects.filter(id=head.id).update(status="SENDING", claimed_by=registered())
    service.update_webhook(webhook, order="object")

    assert claim_due(registered(), limit=10, room_of=lambda *_: 10).deliveries == []
    finish(head)
    (claimed,) = claim_due(registered(), limit=10, room_of=lambda *_: 10).deliveries
    assert claimed.id == rows_of("a").order_by("id")[1].id


# What it costs.

INSERT_SQL = """
INSERT INTO webhooks_delivery
       (id, event_id, webhook_id, owner_id, event_type, status, attempt_count, round,
        attempts_before_round, is_suspect, crash_count, failure_kind, error, next_attempt_at,
        finished_at, epoch, order_key, object_key, object_sequence)
SELECT gen_random_uuid(), gen_random_uuid(), %(webhook)s, %(owner)s, 'project.deleted', 'PENDING',
       0, 1, 0, false, 0, '', '', clock_timestamp() + make_interval(secs => %(due)s), NULL,
       1, 1, 1000000 + n / %(each)s, nextval('webhooks_event_sequence')
  FROM generate_series(0, %(count)s - 1) n
"""


def insert(webhook: Webhook, count: int, *, each: int = 1, due_seconds: float = -60) -> None:
    """Store deliveries of `count / each` objects without events: to be waited for, not to be sent."""
    parameters = {
        "webhook": webhook.id, "owner": webhook.owner_id, "count": count, "each": each,
        "due": due_seconds,
    }  # fmt: skip
    with connection.cursor() as cursor:
        cursor.execute(INSERT_SQL, parameters)


def claim_of(webhook_id: UUID, count: int = 8) -> dict[str, Any]:
    return {
        "webhooks": [webhook_id], "counts": [count], "limit": count,
        "bytes": take.MAX_CLAIM_BYTES, "worker": registered(),
    }  # fmt: skip


PAGES_OF_8_CLAIMED = 450
"""For eight heads of the 32 rows that it reads, each found through an index, and their changes."""


def test_ten_thousand_objects_that_wait_cost_a_claim_as_much_as_a_few(webhook: Webhook) -> None:
    insert(webhook, 32)
    few = buffers(objects.CLAIM_OBJECTS_SQL, claim_of(webhook.id))
    insert(webhook, 10_000)

    assert buffers(objects.CLAIM_OBJECTS_SQL, claim_of(webhook.id)) < PAGES_OF_8_CLAIMED
    assert few < PAGES_OF_8_CLAIMED
    assert buffers(discovery.LOOK_SQL, {"seconds": 2.0, "rows": discovery.LOOK_ROWS}) < 60
    assert buffers(NEXT_DUE_SQL, {"ids": [Delivery.objects.all()[0].id]}) < 60


def test_object_whose_first_waits_costs_nothing_once_it_is_postponed(webhook: Webhook) -> None:
    """Ten thousand rows wait behind it, all of them due, before those of another object."""
    insert(webhook, 10_000, each=10_000)
    head = Delivery.objects.order_by("object_sequence")[0]
    Delivery.objects.filter(id=head.id).update(
        status="RETRYING", next_attempt_at=timezone.now() + timedelta(hours=1)
    )
    worker, claims = registered(), 0
    while any(f.has_more for f in claim_due(worker, limit=320, room_of=lambda *_: 128).claim.fates):
        claims += 1
    assert claims <= 10_000 / (2 * 128) + 2
    assert not Delivery.objects.filter(next_attempt_at__lte=timezone.now()).exists()
    insert(webhook, 8, due_seconds=0)
    Delivery.objects.filter(next_attempt_at__lte=timezone.now()).update(object_key=7)

    assert buffers(objects.CLAIM_OBJECTS_SQL, claim_of(webhook.id)) < PAGES_OF_8_CLAIMED
    assert rows_after(webhook) == 0


def rows_after(webhook: Webhook) -> int:
    """How many of the rows behind the first are due again within the time of its retry."""
    soon = timezone.now() + timedelta(seconds=objects.LONGEST_SECONDS - 30)
    rows = Delivery.objects.filter(webhook=webhook, status="PENDING", object_key=1_000_000)
    return rows.filter(next_attempt_at__lt=soon).count()


def test_other_webhooks_pay_nothing_for_it(webhook: Webhook, make_webhook: MakeWebhook) -> None:
    plain = make_webhook(events=["project.deleted"])
    insert(webhook, 10_000)
    parameters = {
        "owners": [plain.owner_id], "webhooks": [plain.id], "counts": [8], "lows": [float("-inf")],
        "limit": 8, "bytes": take.MAX_CLAIM_BYTES, "worker": registered(),
    }  # fmt: skip

    assert buffers(take.CLAIM_SQL, parameters) < 60


def test_survey_finds_objects_behind_one_that_waits(webhook: Webhook) -> None:
    insert(webhook, 3)
    first = Delivery.objects.order_by("object_sequence")[0]
    Delivery.objects.filter(id=first.id).update(next_attempt_at=timezone.now() + timedelta(hours=1))

    step = discovery.survey(discovery.Position(is_ordered=True))

    assert [(lane.webhook_id, lane.is_ordered) for lane in step.lanes] == [(webhook.id, True)]


def test_a_worker_that_dies_holds_back_only_the_objects_that_it_was_sending(
    user: User, webhook: Webhook, receiver: HttpReceiver
) -> None:
    trigger_of(user, "a", "a", "b")
    head = rows_of("a")[0]
    Delivery.objects.filter(id=head.id).update(status="SENDING", claimed_by=new_id())
    thread = in_thread(run_until_idle)
    thread.join()

    assert [one.delivery_id for one in receiver.requests] == [rows_of("b")[0].public_id]
