"""Dated versions: a webhook gets the shape of data that it pins, on every attempt and for ever."""

import json
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from typing import Any

import pytest
import standardwebhooks
from django.core.exceptions import ValidationError
from django.utils import timezone

from projects.models import User
from tests.webhooks.dispatch.test_forms import bodies, unproved_attempts
from tests.webhooks.versions import NAME, SECOND, THIRD, parcels
from webhooks import service
from webhooks.catalog import FIRST_VERSION, EventType
from webhooks.dispatch.engine import run_until_idle
from webhooks.models import Delivery, Event, Webhook
from webhooks.repair import redelivery_batches
from webhooks.repair.doctor import examine
from webhooks.repair.doctor_work import check_versions
from webhooks.workbench.receiver import Behaviour, HttpReceiver

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.other_shapes]

DATA = {"id": "par_1", "location": "Kiel", "size": {"weight": 1.5, "height": 2}}
SHAPES = {
    THIRD: DATA,
    SECOND: {"id": "par_1", "location": "Kiel", "weight": 1.5, "height": 2},
    FIRST_VERSION: {"id": "par_1", "place": "Kiel", "weight": 1.5},
}


@pytest.fixture(autouse=True)
def parcel() -> Iterator[EventType]:
    with parcels() as declared:
        yield declared


@pytest.fixture
def make(make_webhook: Callable[..., Webhook], receiver: HttpReceiver) -> Callable[..., Webhook]:
    def make(**settings: Any) -> Webhook:
        webhook = make_webhook(**{"url": receiver.url, "events": ["parcel.*"]} | settings)
        receiver.secrets.append(webhook.secret)
        return webhook

    return make


def data_of(body: bytes) -> Any:
    return json.loads(body)["data"]


@pytest.mark.parametrize("version", SHAPES)
@pytest.mark.parametrize("settings", [{}, {"rate_limit": 1000.0}, {"ordered": True}])
def test_a_webhook_gets_the_version_that_it_pins(
    version: date,
    settings: dict[str, Any],
    user: User,
    make: Callable[..., Webhook],
    receiver: HttpReceiver,
) -> None:
    webhook = make(version=version, **settings)
    service.trigger_event(NAME, user, DATA)
    run_until_idle()

    (received,) = receiver.requests
    delivery = Delivery.objects.get()
    assert data_of(received.body) == SHAPES[version]
    standardwebhooks.Webhook(webhook.secret).verify(received.body, received.headers)
    assert (delivery.form is None) is (version == THIRD)
    assert (delivery.form_name, delivery.version) == (
        "standard",
        None if version == THIRD else version.isoformat(),
    )
    assert unproved_attempts() == []


def test_a_new_webhook_pins_the_newest_version_and_other_types_pay_nothing(
    user: User, make: Callable[..., Webhook], receiver: HttpReceiver
) -> None:
    newest, oldest = make(events=["*"]), make(events=["*"], version=FIRST_VERSION)
    service.trigger_event("project.deleted", user, {"name": "x",
        "id": "01935710-5a3c-7d2e-9f10-3b6c8e2a4d71", "deletedAt": "2026-11-23T10:30:00.123Z"})  # fmt: skip

    assert (newest.version, oldest.version) == (THIRD, FIRST_VERSION)
    assert set(Delivery.objects.values_list("form", flat=True)) == {None}
    assert Event.objects.get(type="project.deleted").version is None


def test_every_attempt_keeps_the_version_of_its_first(
    user: User, make: Callable[..., Webhook], receiver: HttpReceiver
) -> None:
    webhook = make(version=FIRST_VERSION, retry_schedule=[3600])
    receiver.behaviour = Behaviour(status=500)
    first = service.trigger_event(NAME, user, DATA)
    run_until_idle()
    service.update_webhook(webhook, version=THIRD, form="raw")
    receiver.behaviour = Behaviour()
    second = service.trigger_event(NAME, user, DATA)
    Delivery.objects.filter(event=first).update(next_attempt_at=timezone.now())
    run_until_idle()
    asked = service.redeliver(
        service.Scope(webhook_id=webhook.pk, statuses=("SUCCESS",)), requested_by=user
    )
    redelivery_batches.run(asked.id)
    run_until_idle()

    sent = bodies(receiver.requests)
    assert len(receiver.requests) == 5
    assert [data_of(body) for body in sent[first.public_id]] == [SHAPES[FIRST_VERSION]]
    assert [json.loads(body) for body in sent[second.public_id]] == [DATA]
    assert unproved_attempts() == []


def test_an_event_of_before_a_version_stays_as_it_was_stored(
    user: User, make: Callable[..., Webhook], receiver: HttpReceiver
) -> None:
    old = service.trigger_event(NAME, user, DATA)
    shape = SHAPES[SECOND]
    payload = bytes(old.payload).replace(
        json.dumps(DATA, separators=(",", ":")).encode(), json.dumps(shape).encode()
    )
    Event.objects.filter(id=old.id).update(version=SECOND, payload=payload)
    for version in SHAPES:
        webhook = make(version=version)
        asked = service.replay(webhook, timezone.now() - timedelta(hours=1), requested_by=user)
        redelivery_batches.run(asked.id)
    run_until_idle()

    sent = [data_of(one.body) for one in receiver.requests]
    assert sorted(map(str, sent)) == sorted(map(str, [shape, shape, SHAPES[FIRST_VERSION]]))


def test_a_replay_and_a_test_request_have_the_version_of_the_webhook(
    user: User, make: Callable[..., Webhook], receiver: HttpReceiver
) -> None:
    service.trigger_event(NAME, user, DATA)
    webhook = make(version=SECOND, form="fields", data_fields=["height"])
    asked = service.replay(webhook, timezone.now() - timedelta(hours=1), requested_by=user)
    redelivery_batches.run(asked.id)
    run_until_idle()
    assert service.test_webhook(webhook, NAME).succeeded

    assert [data_of(one.body) for one in receiver.requests] == [{"height": 2}, {"height": 2}]


def test_fields_are_those_of_the_pinned_version(make: Callable[..., Webhook]) -> None:
    webhook = make(version=FIRST_VERSION, form="fields", data_fields=["place"])

    with pytest.raises(ValidationError) as refused:
        service.update_webhook(webhook, version=THIRD)
    with pytest.raises(ValidationError) as unknown:
        service.update_webhook(webhook, version=date(2026, 5, 5))

    assert "place: parcel.updated has no such field" in str(refused.value.message_dict)
    assert "there are 2026-11-01, 2026-06-01, 2026-01-01" in str(unknown.value.message_dict)


def test_a_deprecated_version_names_who_pins_it(make: Callable[..., Webhook]) -> None:
    pinning = make(version=FIRST_VERSION)
    make(version=SECOND)
    make(version=FIRST_VERSION, events=["project.*"])

    (finding,) = examine([check_versions])
    assert (
        "parcel.updated in the version 2026-01-01, deprecated since 2026-11-20: 1"
        in finding.message
    )
    assert service.webhooks_pinning(NAME, FIRST_VERSION) == [pinning]
    assert "deprecated version; 2026-11-01 is the newest" in service.warnings_of(pinning)[0]
    service.update_webhook(pinning, version=SECOND)
    (finding,) = examine([check_versions])
    assert finding.message == "No webhook pins a deprecated version."


def test_the_same_event_is_shown_in_every_version(user: User) -> None:
    event = service.trigger_event(NAME, user, DATA)

    for version, shape in SHAPES.items():
        assert data_of(service.render_event(event, version=version).body) == shape
    assert (
        json.loads(service.render_event(event, form="raw", version=SECOND).body) == SHAPES[SECOND]
    )
    with pytest.raises(ValidationError):
        service.render_event(event, form="xml")
    with pytest.raises(ValidationError):
        service.render_event(event, form="fields", data_fields=["place"])
