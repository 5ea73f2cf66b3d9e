"""The demo's past shows something on every screen, and a second demo replaces it."""

import time

import pytest

from sessions_app.management import demo_history
from webhooks import service
from webhooks.figures import history, present
from webhooks.models import Attempt, Delivery, Event, Redelivery, Webhook

pytestmark = pytest.mark.django_db


def counts() -> list[int]:
    return [model.objects.count() for model in (Webhook, Event, Delivery, Attempt, Redelivery)]


def test_every_state_is_there_and_a_second_demo_replaces_the_first() -> None:
    webhooks = demo_history.build()
    first = counts()
    began_at = time.process_time()
    again = demo_history.build()

    # `make demo` must not wait for it: a few seconds of processor, on any machine.
    assert time.process_time() - began_at < 15
    assert again.keys() == webhooks.keys()
    assert [abs(one - two) <= 0.1 * one for one, two in zip(counts(), first, strict=True)] == [
        True
    ] * 5
    statuses = set(Delivery.objects.values_list("status", flat=True))
    assert statuses == {"PENDING", "RETRYING", "SUCCESS", "FAILED"}
    assert present.backlog().held >= 17
    assert service.count_missed(again["Old staging"]) > 10
    assert Webhook.objects.get(name="CI trigger").breaker_state == "open"
    hours = history.series(history.Selection(since=Event.objects.earliest("id").created_at))
    assert sum(one.deliveries > 0 for one in hours) >= 23
    assert Redelivery.objects.get().deliveries.count() == 9
