"""Batches: many events in one request, signed and acknowledged as a whole, each with its own row."""

import json
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import standardwebhooks
from django.core.exceptions import ValidationError
from django.db.models import Max, Min
from django.utils import timezone

from projects.models import Project, User
from tests.webhooks.dispatch.test_one_tenant import end_surveys, running_engine, statuses
from tests.webhooks.history import trigger
from tests.workers import wait_until
from webhooks import service
from webhooks.choices import Form
from webhooks.dispatch.engine import run_until_idle
from webhooks.models import Attempt, Delivery, Event, Webhook
from webhooks.outbox.store import Trigger
from webhooks.wire.forms import render
from webhooks.workbench.receiver import Behaviour, HttpReceiver

pytestmark = pytest.mark.django_db(transaction=True)

MakeWebhook = Callable[..., Webhook]


@pytest.fixture
def make(make_webhook: MakeWebhook, receiver: HttpReceiver) -> MakeWebhook:
    def make(**settings: Any) -> Webhook:
        # Long enough for one claim to bring them all.
        wait = {"batch_milliseconds": 300} | settings
        webhook = make_webhook(url=receiver.url, events=["project.*"], **wait)
        receiver.secrets.append(webhook.secret)
        return webhook

    return make


def ids_in(body: bytes) -> list[str]:
    return [event["id"] for event in json.loads(body)]


def test_batch_is_a_list_of_bodies_with_one_signature(
    user: User, make: MakeWebhook, receiver: HttpReceiver
) -> None:
    webhook = make(batch_events=100, headers={"X-Team": "billing"})
    events = trigger(user, 30)

    run_until_idle()

    (received,) = receiver.requests
    assert received.body == b"[%b]" % b",".join(bytes(event.payload) for event in events)
    assert (received.standard_ok, received.hex_ok) == (True, True)
    standardwebhooks.Webhook(webhook.secret).verify(received.body, received.headers)
    assert received.headers["content-type"] == "application/json"
    assert received.headers["x-webhook-batch"] == "30"
    assert received.headers["x-team"] == "billing"
    assert received.event_id == received.headers["x-webhook-id"]
    assert received.event_id.startswith("bat_")
    assert {"x-webhook-event", "x-webhook-delivery"}.isdisjoint(received.headers)
    # Each event has its own delivery and attempt.
    assert statuses(user) == {"SUCCESS"}
    attempts = Attempt.objects.all()
    assert {one.delivery_id for one in attempts} == set(
        Delivery.objects.values_list("id", flat=True)
    )
    assert {(one.number, one.response_code) for one in attempts} == {(1, 200)}
    assert len({one.id for one in attempts}) == 30


@pytest.mark.parametrize("form", [Form.THIN, Form.CLOUDEVENTS])
def test_batch_has_the_form_of_its_events(
    form: Form, user: User, make: MakeWebhook, receiver: HttpReceiver
) -> None:
    make(batch_events=10, form=form)
    for name in ("one", "two"):
        Project.objects.create(owner=user, name=name)

    run_until_idle()

    (received,) = receiver.requests
    events = Event.objects.filter(type="project.created").order_by("id")
    bodies = [render(form, bytes(e.payload), e.object_reference).body for e in events]
    assert received.body == b"[%b]" % b",".join(bodies)
    cloudevents = form == Form.CLOUDEVENTS
    assert received.headers["content-type"] == (
        "application/cloudevents-batch+json" if cloudevents else "application/json"
    )


def test_batches_keep_to_the_limits_of_events_and_bytes(
    user: User, make: MakeWebhook, receiver: HttpReceiver
) -> None:
    webhook = make(batch_events=8)
    events = trigger(user, 20)
    run_until_idle()
    assert [len(ids_in(one.body)) for one in receiver.requests] == [8, 8, 4]

    service.update_webhook(webhook, batch_events=1000, batch_bytes=1000)
    most = 1000 // len(bytes(events[0].payload))
    before = len(receiver.requests)
    trigger(user, 3 * most)
    run_until_idle()
    assert {len(ids_in(one.body)) for one in receiver.requests[before:]} == {most}


def test_event_waits_for_others_as_long_as_its_webhook_says(
    user: User, make: MakeWebhook, receiver: HttpReceiver
) -> None:
    make(batch_events=100, batch_milliseconds=1000)
    with running_engine() as engine:
        end_surveys(engine)
        began_at = time.monotonic()
        for _ in range(5):
            trigger(user, 1)
            time.sleep(0.05)
        receiver.wait_for(1)
        took = time.monotonic() - began_at
        wait_until(lambda: statuses(user) == {"SUCCESS"})
    (received,) = receiver.requests
    assert len(ids_in(received.body)) == 5
    assert 0.9 < took < 3


def test_worker_that_ends_gives_back_what_it_has_gathered(
    user: User, make: MakeWebhook, receiver: HttpReceiver
) -> None:
    make(batch_events=100, batch_milliseconds=5000)
    trigger(user, 3)
    with running_engine():
        wait_until(lambda: statuses(user) == {"SENDING"})
    assert receiver.requests == []
    assert set(Delivery.objects.values_list("status", "claimed_by", "attempt_count")) == {
        ("PENDING", None, 0)
    }


def test_failed_batch_comes_again_as_it_was(
    user: User, make: MakeWebhook, receiver: HttpReceiver
) -> None:
    make(batch_events=100, retry_schedule=[3600])
    receiver.script(Behaviour(status=500))
    trigger(user, 30)
    run_until_idle()
    # One failed request, not thirty: the breaker stays closed.
    webhook = Webhook.objects.get()
    assert (webhook.breaker_state, webhook.breaker_failures) == ("closed", 1)
    due = Delivery.objects.aggregate(seconds=Max("next_attempt_at") - Min("next_attempt_at"))
    assert due["seconds"] < timedelta(seconds=1)

    Delivery.objects.update(next_attempt_at=timezone.now())
    run_until_idle()

    first, second = receiver.requests
    assert first.body == second.body
    assert first.event_id == second.event_id
    assert set(Delivery.objects.values_list("status", "attempt_count")) == {("SUCCESS", 2)}


def answer(*codes: int) -> Behaviour:
    return Behaviour(body=json.dumps(codes).encode())


def test_receiver_may_answer_for_each_event(
    user: User, make: MakeWebhook, receiver: HttpReceiver
) -> None:
    make(batch_events=100, retry_schedule=[3600])
    receiver.script(answer(200, 503, 204, 410))
    events = trigger(user, 4)

    run_until_idle()

    rows = [Delivery.objects.get(event=event) for event in events]
    assert [(one.status, one.response_code) for one in rows] == [
        ("SUCCESS", 200), ("RETRYING", 503), ("SUCCESS", 204), ("FAILED", 410),
    ]  # fmt: skip
    # The request succeeded: the receiver is well, and there.
    webhook = Webhook.objects.get()
    assert (webhook.active, webhook.breaker_failures, webhook.held_until) == (True, 0, None)

    Delivery.objects.filter(status="RETRYING").update(next_attempt_at=timezone.now())
    run_until_idle()
    assert ids_in(receiver.requests[-1].body) == [events[1].public_id]
    assert Delivery.objects.get(event=events[1]).status == "SUCCESS"


@pytest.mark.parametrize(
    "body",
    [b"[500]", b"[500,500,500]", b'["500","500"]', b"[true,500]", b"[99,500]", b"[" * 90, b"null",
     b"[500,500" + b" " * 900 + b"]", b'{"0":500}'],
)  # fmt: skip
def test_any_other_answer_is_for_the_whole_batch(
    body: bytes, user: User, make: MakeWebhook, receiver: HttpReceiver
) -> None:
    make(batch_events=100)
    receiver.script(Behaviour(body=body))
    trigger(user, 2)

    run_until_idle()

    assert statuses(user) == {"SUCCESS"}


def test_batch_holds_one_event_of_each_object_with_order_per_object(
    user: User, make: MakeWebhook, receiver: HttpReceiver
) -> None:
    make(batch_events=100, order="object")
    data = {"id": str(user.id), "name": "x", "deletedAt": "2026-11-23T10:30:00.123Z"}
    events = service.trigger_events(
        Trigger("project.deleted", user, data, object_reference=name) for name in "abab"
    )

    run_until_idle()

    came = [ids_in(one.body) for one in receiver.requests]
    assert [set(ids) for ids in came] == [
        {event.public_id for event in events[:2]},
        {event.public_id for event in events[2:]},
    ]


def test_suspects_go_in_batches_of_their_own(
    user: User, make: MakeWebhook, receiver: HttpReceiver
) -> None:
    make(batch_events=100)
    trigger(user, 4)
    Delivery.objects.filter(id=Delivery.objects.order_by("id")[0].id).update(is_suspect=True)

    run_until_idle()

    assert sorted(len(ids_in(one.body)) for one in receiver.requests) == [1, 3]


def test_events_stored_in_a_form_without_a_batch_go_alone(
    user: User, make: MakeWebhook, receiver: HttpReceiver
) -> None:
    webhook = make(form=Form.RAW)
    trigger(user, 2)
    service.update_webhook(webhook, form=Form.STANDARD, batch_events=10)
    trigger(user, 2)

    run_until_idle()

    assert sorted("x-webhook-batch" in one.headers for one in receiver.requests) == [
        False, False, True,
    ]  # fmt: skip


@pytest.mark.parametrize(
    "settings",
    [{"order": "all"}, {"form": "raw"}, {"form": "cloudevents-binary"}],
    ids=lambda settings: next(iter(settings.values())),
)
def test_what_cannot_go_in_a_batch_is_refused(settings: dict[str, Any], make: MakeWebhook) -> None:
    with pytest.raises(ValidationError) as problem:
        make(batch_events=2, **settings)
    assert "batch_events" in problem.value.message_dict

    webhook = make(**settings)
    with pytest.raises(ValidationError):
        service.update_webhook(webhook, batch_events=2)
    other = make(batch_events=2)
    with pytest.raises(ValidationError):
        service.update_webhook(other, **settings)
