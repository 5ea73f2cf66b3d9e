"""The home page and the queue page: what is wrong, in one look."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from projects.models import User
from tests.webhooks.admin.conftest import PAYMENT, fail
from webhooks import service
from webhooks.admin import queue
from webhooks.models import Chore, Delivery, Webhook, WorkerHeartbeat

pytestmark = pytest.mark.django_db


def test_home_shows_the_failing_webhook_first_with_its_error(
    operator: Client, user: User, make_webhook: Callable[..., Webhook]
) -> None:
    bad = make_webhook(name="Bad")
    for _ in range(2):
        fail(service.trigger_event("payment.failed", user, PAYMENT).deliveries.get())
    mild = make_webhook(name="Mild")
    Webhook.objects.filter(pk=mild.pk).update(failing_since=timezone.now())
    make_webhook(name="Well")

    context = operator.get("/admin/").context

    assert [one.webhook for one in context["troubled"]] == [bad, mild]
    assert context["troubled"][0].last_error.error == "The receiver answered 500."
    assert context["troubled"][0].figures.failed == 2
    assert context["troubled"][1].last_error is None
    assert context["states"] == {"sending": 3, "failing": 1, "open": 0, "disabled": 0}
    assert context["events_per_minute"] == 0.8  # two payments, two users
    assert [(one.kind, one.attempts) for one in context["failures"]] == [("http_status", 2)]


def test_home_is_counted_once_in_a_few_seconds(
    operator: Client, django_assert_num_queries: Any
) -> None:
    operator.get("/admin/")

    with django_assert_num_queries(3):
        operator.get("/admin/")


def test_home_says_that_no_worker_runs(operator: Client) -> None:
    page = operator.get("/admin/").content.decode()

    assert "No worker is running" in page
    assert "Every webhook takes what it is sent." in page


def test_queue_shows_workers_and_what_waits(operator: Client, delivery: Delivery) -> None:
    now = timezone.now()
    WorkerHeartbeat.objects.create(host="alive-1", pid=11, in_flight=37)
    WorkerHeartbeat.objects.create(host="dead-1", pid=12, beat_at=now - timedelta(seconds=30))
    Delivery.objects.filter(pk=delivery.pk).update(crash_count=3)

    answer = operator.get("/admin/webhooks/workerheartbeat/")

    assert [one.is_alive for one in answer.context["workers"]] == [True, False]
    assert answer.context["parked"] == 1
    assert answer.context["rq"].answers
    assert "37" in answer.content.decode()


def test_queue_shows_the_chores_and_what_they_ran_into(operator: Client) -> None:
    Chore.objects.create(name="mails", failures=2, last_error="ConnectionRefusedError: <No>")
    for name in ("audit log", "purge"):
        Chore.objects.create(name=name, due_at=timezone.now() - timedelta(minutes=3))

    answer = operator.get("/admin/webhooks/workerheartbeat/")

    shown = answer.content.decode()
    assert "ConnectionRefusedError: &lt;No&gt;" in shown
    # No purge is asked for.
    assert [one.name for one in answer.context["chores"] if one.is_overdue] == ["audit log"]


def test_queue_opens_without_valkey(operator: Client, settings: Any) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:9/0"

    answer = operator.get("/admin/webhooks/workerheartbeat/")

    assert answer.context["rq"] == queue.RqState(False)
    assert "Valkey does not answer" in answer.content.decode()


@pytest.mark.parametrize("prefix", ["whk_", "evt_", "del_", "red_"])
def test_the_search_box_finds_any_id(
    operator: Client, staff: Callable[..., Client], delivery: Delivery, prefix: str
) -> None:
    redelivery = service.redeliver_one(delivery)
    found: dict[str, Any] = {
        "whk_": delivery.webhook, "evt_": delivery.event, "del_": delivery, "red_": redelivery,
    }  # fmt: skip
    thing = found[prefix]

    page = operator.get(f"/admin/search/?extended=1&s={thing.public_id}").content.decode()

    assert f"/admin/webhooks/{thing._meta.model_name}/{thing.pk}/change/" in page


def test_the_search_box_finds_hosts_and_owners(operator: Client, webhook: Webhook) -> None:
    for term in ("receiver.exam", "ada@example.com", "orders"):
        page = operator.get(f"/admin/search/?extended=1&s={term}").content.decode()
        assert f"/admin/webhooks/webhook/{webhook.pk}/change/" in page


def test_the_search_box_tells_nothing_without_permission(
    staff: Callable[..., Client], webhook: Webhook
) -> None:
    client = staff()

    for term in (webhook.public_id, "receiver.example"):
        page = client.get(f"/admin/search/?extended=1&s={term}").content.decode()
        assert str(webhook.pk) not in page


def test_home_says_of_how_many_deliveries_a_redelivery_is(
    operator: Client, delivery: Delivery
) -> None:
    service.redeliver(service.Scope(webhook_id=delivery.webhook_id))

    assert "0 of 1 queued" in operator.get("/admin/").content.decode()
