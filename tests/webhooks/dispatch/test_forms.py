"""Forms on the wire: what a webhook gets, and that a delivery keeps the form it was stored with."""

import hashlib
import json
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest
import standardwebhooks
from cloudevents.core.bindings.http import HTTPMessage, from_http_event
from django.db import IntegrityError
from django.utils import timezone

from projects.models import Project, User
from tests.concurrency import in_thread
from tests.webhooks.history import DELETED, trigger
from webhooks import service
from webhooks.choices import Form
from webhooks.dispatch.engine import run_until_idle
from webhooks.models import Attempt, Delivery, Event, StoredForm, Webhook
from webhooks.repair import redelivery_batches
from webhooks.wire.forms import render, spec_text
from webhooks.workbench.receiver import Behaviour, HttpReceiver, Received

FIELDS = ["name", "id"]
"""Of webhooks with the form `fields`."""

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.other_shapes]


def expected_body(event: Event, form: str, fields: Sequence[str] = FIELDS) -> bytes:
    recorded = None if form == Form.STANDARD else form
    spec = spec_text(form, fields=fields) if form == Form.FIELDS else None
    return render(recorded, bytes(event.payload), event.object_reference, spec).body


@pytest.fixture
def make(make_webhook: Callable[..., Webhook], receiver: HttpReceiver) -> Callable[..., Webhook]:
    def make(**settings: Any) -> Webhook:
        chosen = {"url": receiver.url, "events": ["project.*"], "data_fields": FIELDS}
        webhook = make_webhook(**chosen | settings)
        receiver.secrets.append(webhook.secret)
        return webhook

    return make


@pytest.mark.parametrize("form", Form)
def test_every_form_is_signed_and_sent(
    form: Form, user: User, make: Callable[..., Webhook], receiver: HttpReceiver
) -> None:
    webhook = make(form=form, headers={"X-Team": "billing"})
    Project.objects.create(owner=user, name="Zoë 🚀")

    run_until_idle()

    (received,) = receiver.requests
    delivery = Delivery.objects.get(webhook=webhook)
    event = delivery.event
    assert received.body == expected_body(event, form) == delivery.rendered(event)
    assert (received.standard_ok, received.hex_ok) == (True, True)
    standardwebhooks.Webhook(webhook.secret).verify(received.body, received.headers)
    assert received.headers["x-team"] == "billing"
    assert received.headers["content-type"] == (
        "application/cloudevents+json" if form == Form.CLOUDEVENTS else "application/json"
    )
    assert (delivery.form, delivery.form_name) == (webhook.recorded_form(None).form, form)
    assert delivery.attempts.get().body_digest == hashlib.sha256(received.body).hexdigest()
    recorded = dict(delivery.attempts.get().request_headers)
    assert recorded["Content-Type"] == received.headers["content-type"]
    assert recorded["X-Team"] == "(hidden)"
    assert ("ce-id" in recorded) is (form == Form.CLOUDEVENTS_BINARY)


@pytest.mark.parametrize("form", [Form.CLOUDEVENTS, Form.CLOUDEVENTS_BINARY])
def test_the_official_library_reads_what_arrives(
    form: Form, user: User, make: Callable[..., Webhook], receiver: HttpReceiver
) -> None:
    make(form=form)
    project = Project.objects.create(owner=user, name="Zoë 🚀")

    run_until_idle()

    (received,) = receiver.requests
    event = from_http_event(HTTPMessage(dict(received.headers), received.body))
    stored = Event.objects.get(type="project.created")
    data: Any = event.get_data()
    assert (event.get_id(), event.get_type()) == (stored.public_id, "project.created")
    assert event.get_subject() == stored.object_reference != ""
    assert (data if form == Form.CLOUDEVENTS else data["data"])["id"] == str(project.id)


@pytest.mark.parametrize(
    "settings", [{}, {"rate_limit": 1000.0}, {"ordered": True}], ids=["quick", "claim", "ordered"]
)
@pytest.mark.parametrize("is_suspect", [False, True])
@pytest.mark.parametrize("form", [Form.THIN, Form.FIELDS])
def test_every_claim_knows_the_form(
    settings: dict[str, Any],
    is_suspect: bool,
    form: Form,
    user: User,
    make: Callable[..., Webhook],
    receiver: HttpReceiver,
) -> None:
    make(form=form, **settings)
    events = trigger(user, 3)
    if is_suspect:
        Delivery.objects.update(is_suspect=True)

    run_until_idle()

    assert sorted(one.body for one in receiver.requests) == sorted(
        expected_body(event, form) for event in events
    )


def bodies(requests: list[Received]) -> dict[str, set[bytes]]:
    found: dict[str, set[bytes]] = {}
    for one in requests:
        found.setdefault(one.event_id, set()).add(one.body)
    return found


def test_retries_and_redeliveries_send_the_form_of_the_first_attempt(
    user: User, make: Callable[..., Webhook], receiver: HttpReceiver
) -> None:
    webhook = make(form=Form.CLOUDEVENTS, retry_schedule=[1, 3600])
    # Fewer failures than open the breaker.
    receiver.behaviour = Behaviour(status=500)
    before = trigger(user, 4)
    run_until_idle()
    service.update_webhook(webhook, form=Form.RAW)
    Delivery.objects.update(next_attempt_at=timezone.now())
    run_until_idle()
    receiver.behaviour = Behaviour()
    after = trigger(user, 4)
    asked = service.redeliver(
        service.Scope(webhook_id=webhook.pk, statuses=("RETRYING", "FAILED")), requested_by=user
    )
    redelivery_batches.run(asked.id)

    run_until_idle()

    assert len(receiver.requests) == 3 * 4 + 4
    assert bodies(receiver.requests) == {
        **{one.public_id: {expected_body(one, Form.CLOUDEVENTS)} for one in before},
        **{one.public_id: {expected_body(one, Form.RAW)} for one in after},
    }
    assert set(Delivery.objects.values_list("status", flat=True)) == {"SUCCESS"}


def test_a_delivery_keeps_the_fields_it_was_stored_with(
    user: User, make: Callable[..., Webhook], receiver: HttpReceiver
) -> None:
    webhook = make(form=Form.FIELDS, data_fields=["name"], retry_schedule=[3600])
    receiver.behaviour = Behaviour(status=500)
    (first,) = trigger(user)
    run_until_idle()
    service.update_webhook(webhook, data_fields=["deletedAt", "id"])
    receiver.behaviour = Behaviour()
    (second,) = trigger(user)
    Delivery.objects.filter(event=first).update(next_attempt_at=timezone.now())
    run_until_idle()
    service.update_webhook(webhook, form=Form.RAW)
    asked = service.redeliver(
        service.Scope(webhook_id=webhook.pk, statuses=("SUCCESS",)), requested_by=user
    )
    redelivery_batches.run(asked.id)
    run_until_idle()

    sent = bodies(receiver.requests)
    assert len(receiver.requests) == 5
    assert [json.loads(body)["data"] for body in sent[first.public_id]] == [{"name": "Website"}]
    assert [json.loads(body)["data"] for body in sent[second.public_id]] == [
        {"id": DELETED["id"], "deletedAt": DELETED["deletedAt"]}
    ]


def test_without_a_request_there_is_no_digest(
    user: User, make: Callable[..., Webhook], receiver: HttpReceiver
) -> None:
    webhook = make(url="http://nowhere.invalid/", retry_schedule=[3600])
    trigger(user)

    run_until_idle()

    attempt = Attempt.objects.get(delivery__webhook=webhook)
    assert (attempt.failure_kind, attempt.body_digest) == ("dns", None)


def test_no_stored_form_comes_to_mean_something_else(
    user: User, make: Callable[..., Webhook]
) -> None:
    make(form=Form.FIELDS)
    make(form=Form.FIELDS)

    stored = StoredForm.objects.get(key=Webhook.objects.latest("id").form_key)
    with pytest.raises(IntegrityError, match="stored_form_key_is_its_hash"):
        StoredForm.objects.filter(key=stored.key).update(spec='{"form":"raw"}')


def test_a_replay_records_the_form_of_today(
    user: User, make: Callable[..., Webhook], receiver: HttpReceiver
) -> None:
    (event,) = trigger(user)
    webhook = make(form=Form.RAW)

    asked = service.replay(webhook, timezone.now() - timedelta(hours=1), requested_by=user)
    redelivery_batches.run(asked.id)
    run_until_idle()

    assert expected_body(event, Form.RAW) in [one.body for one in receiver.requests]
    assert json.loads(expected_body(event, Form.RAW)) == DELETED


def test_a_test_request_has_the_form_of_its_webhook(
    make: Callable[..., Webhook], receiver: HttpReceiver
) -> None:
    webhook = make(form=Form.RAW)

    tried = service.test_webhook(webhook)

    (received,) = receiver.requests
    assert tried.succeeded
    assert json.loads(received.body) == {"webhookId": webhook.public_id, "message": "It works."}
    assert (received.standard_ok, received.hex_ok) == (True, True)


def unproved_attempts() -> list[Attempt]:
    """Return the attempts whose digest is not that of what their delivery and event say they sent."""
    return [
        one
        for one in Attempt.objects.select_related("delivery__event")
        if one.body_digest != hashlib.sha256(one.delivery.rendered(one.delivery.event)).hexdigest()
    ]


@pytest.mark.parametrize(
    ("rounds", "size"), [(20, 12), pytest.param(100, 133, marks=pytest.mark.full)]
)
def test_forms_and_filters_change_while_many_are_under_way(
    rounds: int, size: int, user: User, make: Callable[..., Webhook], receiver: HttpReceiver
) -> None:
    webhook = make(retry_delay_seconds=1)
    expected: dict[str, set[bytes]] = {}

    def produce() -> None:
        for number in range(rounds):
            form = list(Form)[number % len(Form)]
            fields = ["name", "id", "deletedAt"][: 1 + number // len(Form) % 3]
            is_open = number % 4 != 3
            filter_ = None if is_open else {"name": "Shop"}
            service.update_webhook(webhook, form=form, data_fields=fields, filter=filter_)
            for event in trigger(user, size if is_open else 10):
                if is_open:
                    expected[event.public_id] = {expected_body(event, form, fields)}

    producing = in_thread(produce)
    while producing.is_alive():
        run_until_idle()
    producing.join()
    run_until_idle()
    asked = service.redeliver(
        service.Scope(webhook_id=webhook.pk, statuses=("SUCCESS",)), requested_by=user
    )
    redelivery_batches.run(asked.id)
    run_until_idle()

    assert len(expected) == rounds * 3 // 4 * size
    assert len(receiver.requests) == 2 * len(expected) == Attempt.objects.count()
    assert bodies(receiver.requests) == expected
    assert unproved_attempts() == []
