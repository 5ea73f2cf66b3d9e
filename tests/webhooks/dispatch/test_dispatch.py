"""Claim → send → settle against a real receiver."""

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
import standardwebhooks
from django.utils import timezone

from projects.models import Project, User
from tests.concurrency import calls_of, in_thread
from tests.webhooks.history import succeeded, trigger
from webhooks import service
from webhooks.catalog import WEBHOOK_EVENTS
from webhooks.dispatch import desks
from webhooks.dispatch.endpoints import MAX_AGE_SECONDS
from webhooks.dispatch.engine import Engine, run_until_idle
from webhooks.dispatch.starts import Starts
from webhooks.dispatch.suspects import ALONE
from webhooks.models import Attempt, Delivery, Pause, Webhook, WorkerHeartbeat
from webhooks.wire.many import MultiSender
from webhooks.workbench.receiver import Behaviour, HttpReceiver

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def webhook(make_webhook: Callable[..., Webhook], receiver: HttpReceiver) -> Webhook:
    webhook = make_webhook(url=receiver.url + "hook", events=["project.created"])
    receiver.secrets = [webhook.secret]
    return webhook


def test_created_project_is_delivered_once_signed_and_untouched(
    user: User, webhook: Webhook, receiver: HttpReceiver
) -> None:
    project = Project.objects.create(owner=user, name="Zoë 🚀")

    run_until_idle()

    (delivery,) = service.get_deliveries(webhook, user)
    (received,) = receiver.requests
    assert delivery.status == "SUCCESS"
    assert delivery.event_type == WEBHOOK_EVENTS.PROJECT_CREATED
    assert (received.standard_ok, received.hex_ok) == (True, True)
    verified = standardwebhooks.Webhook(webhook.secret).verify(received.body, received.headers)
    assert verified["data"]["id"] == str(project.id)
    assert (
        hashlib.sha256(received.body).digest()
        == hashlib.sha256(bytes(delivery.event.payload)).digest()
    )


def test_request_carries_exactly_the_documented_headers(
    user: User, webhook: Webhook, receiver: HttpReceiver
) -> None:
    webhook.headers = {"X-Team": "billing"}
    webhook.save()
    Project.objects.create(owner=user, name="P")

    run_until_idle()

    delivery = Delivery.objects.get(webhook=webhook)
    (received,) = receiver.requests
    headers = received.headers
    assert sorted(headers) == sorted(
        [
            "host", "accept-encoding", "content-length", "content-type", "user-agent", "x-team",
            "webhook-id", "webhook-timestamp", "webhook-signature", "x-webhook-signature",
            "x-webhook-timestamp", "x-webhook-id", "x-webhook-event", "x-webhook-delivery",
            "x-webhook-attempt",
        ]
    )  # fmt: skip
    assert len(received.raw_headers) == len(headers)
    assert headers["content-type"] == "application/json"
    assert headers["user-agent"] == "RemoteDevAI-Webhooks/1.0"
    assert headers["x-team"] == "billing"
    assert headers["webhook-id"] == headers["x-webhook-id"] == delivery.event.public_id
    assert headers["x-webhook-event"] == "project.created"
    assert headers["x-webhook-delivery"] == delivery.public_id
    assert headers["x-webhook-attempt"] == "1"


def test_attempt_records_the_exchange_without_custom_values(
    user: User, webhook: Webhook, receiver: HttpReceiver
) -> None:
    webhook.headers = {"Authorization": "Bearer canary"}
    webhook.save()
    receiver.behaviour = Behaviour(
        status=404, body=b"no\0pe \xff" + b"x" * 70_000, headers=(("X-Server", "a\xe9"),)
    )
    Project.objects.create(owner=user, name="P")

    run_until_idle()

    attempt = Attempt.objects.get()
    assert receiver.requests[0].headers["authorization"] == "Bearer canary"
    assert (attempt.number, attempt.response_code) == (1, 404)
    assert (attempt.failure_kind, attempt.error) == ("http_status", "The receiver answered 404.")
    assert bytes(attempt.response_body or b"").startswith(b"no\0pe \xff")
    assert attempt.is_truncated
    assert ("X-Server", "a\xe9") in attempt.response_headers
    assert attempt.url == webhook.url
    assert "canary" not in attempt.request_head
    assert ("Authorization", "(hidden)") in attempt.request_headers


def test_failure_is_retried_when_due_with_the_same_event_id(
    user: User, webhook: Webhook, receiver: HttpReceiver
) -> None:
    receiver.script(Behaviour(status=503))
    Project.objects.create(owner=user, name="P")
    run_until_idle()
    delivery = Delivery.objects.get(webhook=webhook)
    assert (delivery.status, delivery.attempt_count) == ("RETRYING", 1)
    assert delivery.next_attempt_at is not None
    wait = delivery.next_attempt_at - timezone.now()
    assert timedelta(seconds=50) < wait < timedelta(seconds=67)

    run_until_idle()
    assert len(receiver.requests) == 1
    Delivery.objects.update(next_attempt_at=timezone.now())
    run_until_idle()

    delivery.refresh_from_db()
    first, second = receiver.requests
    assert (delivery.status, delivery.attempt_count) == ("SUCCESS", 2)
    assert (first.event_id, first.attempt) == (second.event_id, "1")
    assert second.attempt == "2"
    assert list(delivery.attempts.order_by("number").values_list("response_code", flat=True)) == [
        503,
        200,
    ]


def test_delivery_fails_after_its_last_retry(
    user: User, webhook: Webhook, receiver: HttpReceiver
) -> None:
    Webhook.objects.update(max_retries=1)
    receiver.behaviour = Behaviour(status=500)
    Project.objects.create(owner=user, name="P")

    for _ in range(3):
        Delivery.objects.exclude(next_attempt_at=None).update(next_attempt_at=timezone.now())
        run_until_idle()

    delivery = Delivery.objects.get()
    assert (delivery.status, delivery.attempt_count, delivery.response_code) == ("FAILED", 2, 500)
    assert delivery.next_attempt_at is None
    assert delivery.finished_at is not None
    assert len(receiver.requests) == 2


@pytest.mark.parametrize(
    ("behaviour", "kind"),
    [
        (Behaviour(mode="hang"), "timeout"),
        (Behaviour(mode="drip"), "timeout"),
        (Behaviour(mode="reset"), "reset"),
        (Behaviour(mode="close"), "reset"),
        (Behaviour(mode="garbage"), "protocol"),
        (Behaviour(status=302, headers=(("Location", "http://127.0.0.1:9/"),)), "http_status"),
    ],
)
def test_misbehaving_receiver_is_a_classified_failure(
    user: User, webhook: Webhook, receiver: HttpReceiver, behaviour: Behaviour, kind: str
) -> None:
    Webhook.objects.update(timeout_seconds=1)
    receiver.behaviour = behaviour
    Project.objects.create(owner=user, name="P")

    run_until_idle()

    delivery, attempt = Delivery.objects.get(), Attempt.objects.get()
    assert (delivery.status, delivery.failure_kind) == ("RETRYING", kind)
    assert attempt.failure_kind == kind
    assert attempt.error
    assert attempt.duration_ms < 2000
    assert len(receiver.requests) == 1


def test_refused_connection_and_unknown_name_are_classified(
    user: User, make_webhook: Callable[..., Webhook]
) -> None:
    make_webhook(url="http://127.0.0.1:9/", name="refused")
    make_webhook(url="http://no-such-host.invalid/", name="unknown")
    make_webhook(name="private")
    Webhook.objects.filter(name="private").update(url="http://10.0.0.1/")
    Project.objects.create(owner=user, name="P")

    run_until_idle()

    kinds = dict(Delivery.objects.values_list("webhook__name", "failure_kind"))
    assert kinds == {"refused": "connect", "unknown": "dns", "private": "blocked_address"}
    refused = Delivery.objects.get(webhook__name="refused")
    assert refused.error.startswith("The receiver refused the connection")
    assert refused.attempts.get().error == refused.error


def test_disabled_deleted_and_paused_webhooks_are_not_sent_to(
    user: User, webhook: Webhook, receiver: HttpReceiver, make_webhook: Callable[..., Webhook]
) -> None:
    deleted = make_webhook(url=receiver.url)
    Project.objects.create(owner=user, name="P")
    Webhook.objects.filter(id=webhook.id).update(active=False)
    service.delete_webhook(deleted)

    run_until_idle()

    assert receiver.requests == []
    assert Delivery.objects.get(webhook=webhook).status == "PENDING"

    Webhook.objects.filter(id=webhook.id).update(active=True)
    pause = Pause.objects.create()
    run_until_idle()
    assert receiver.requests == []

    pause.delete()
    run_until_idle()
    assert len(receiver.requests) == 1


def test_many_deliveries_share_connections_and_all_arrive(
    user: User, webhook: Webhook, receiver: HttpReceiver
) -> None:
    service.trigger_events(
        [
            service.Trigger(
                "project.created",
                user,
                {
                    "id": str(user.id),
                    "name": str(number),
                    "description": "",
                    "createdAt": "2026-11-23T10:30:00.123Z",
                },
            )
            for number in range(1500)
        ]
    )

    run_until_idle()

    assert Delivery.objects.filter(status="SUCCESS").count() == 1500
    assert Attempt.objects.count() == 1500
    assert len({received.event_id for received in receiver.requests}) == 1500
    assert len(receiver.requests) == 1500
    assert receiver.connections <= 128
    assert all(received.standard_ok and received.hex_ok for received in receiver.requests)


def test_backlog_calls_for_other_workers_once_a_second_at_most(
    user: User,
    make_webhook: Callable[..., Webhook],
    receiver: HttpReceiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for number in range(20):
        make_webhook(name=str(number), url=receiver.url, events=["project.deleted"])
    calls: list[float] = []
    monkeypatch.setattr("webhooks.outbox.wakeup.nudge", lambda **_: calls.append(time.monotonic()))
    trigger(user, 100)
    calls.clear()

    run_until_idle()

    assert len(receiver.requests) == 2000
    assert calls
    assert all(later - earlier >= 1 for earlier, later in pairwise(calls))


@pytest.fixture
def polls(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When the dispatcher waited for answers."""
    return calls_of(MultiSender, "poll", monkeypatch)


@contextmanager
def running_engine() -> Iterator[Engine]:
    """A dispatcher on a thread; it is stopped and waited for at the end."""
    engine = Engine()
    thread = in_thread(engine.run)
    try:
        yield engine
    finally:
        engine.stop()
        thread.join()


def test_quarantine_rests_while_its_suspect_is_in_flight(
    user: User, webhook: Webhook, receiver: HttpReceiver, polls: list[float]
) -> None:
    receiver.behaviour = Behaviour(delay_seconds=3)
    Project.objects.create(owner=user, name="P")
    Delivery.objects.update(is_suspect=True, suspect_level=ALONE)

    Engine(suspects=ALONE).run(until_idle=True)

    assert len(receiver.requests) == 1
    assert len(polls) < 200


def test_stopping_worker_rests_until_the_last_answer(
    user: User, webhook: Webhook, receiver: HttpReceiver, polls: list[float]
) -> None:
    receiver.behaviour = Behaviour(delay_seconds=3)
    Project.objects.create(owner=user, name="P")
    with running_engine():
        receiver.wait_for(1)

    assert Delivery.objects.get().status == "SUCCESS"
    assert len(polls) < 200


def test_hint_is_not_followed_again_and_again_while_a_window_is_full(
    user: User, webhook: Webhook, receiver: HttpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    visits = calls_of(desks, "claim_due", monkeypatch)
    receiver.behaviour = Behaviour(delay_seconds=2)
    # Two more than a new window lets in.
    for _ in range(6):
        Project.objects.create(owner=user, name="P")
    with running_engine() as engine:
        engine.hint()
        receiver.wait_for(6)

    assert len(visits) < 30


def test_what_a_stalled_worker_could_not_start_in_time_goes_out_at_once(
    user: User, webhook: Webhook, receiver: HttpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    line_up = Starts.line_up
    stalls = iter([MAX_AGE_SECONDS + 0.1])

    def stall_once(*args: Any) -> None:
        time.sleep(next(stalls, 0))
        line_up(*args)

    monkeypatch.setattr(Starts, "line_up", stall_once)
    Project.objects.create(owner=user, name="P")

    run_until_idle()

    assert Delivery.objects.get().status == "SUCCESS"


def test_run_leaves_no_heartbeat_behind(user: User, webhook: Webhook) -> None:
    run_until_idle()

    assert not WorkerHeartbeat.objects.exists()


def test_rows_of_a_dead_worker_are_taken_back_and_sent(
    user: User, webhook: Webhook, receiver: HttpReceiver
) -> None:
    from webhooks.dispatch.life import reclaim_from_dead_workers
    from webhooks.ids import new_id

    dead = WorkerHeartbeat.objects.create(
        id=new_id(), host="gone", pid=1, beat_at=timezone.now() - timedelta(seconds=11)
    )
    alive = WorkerHeartbeat.objects.create(id=new_id(), host="here", pid=2)
    for owner in (dead.id, alive.id):
        Project.objects.create(owner=user, name="P")
        Delivery.objects.filter(status="PENDING").update(status="SENDING", claimed_by=owner)

    assert reclaim_from_dead_workers() == 1

    assert Delivery.objects.filter(status="PENDING", is_suspect=True).count() == 1
    assert Delivery.objects.get(status="SENDING").claimed_by == alive.id
    assert not WorkerHeartbeat.objects.filter(id=dead.id).exists()


def test_zombie_settles_nothing(user: User, webhook: Webhook, receiver: HttpReceiver) -> None:
    from webhooks.dispatch.settle import settle
    from webhooks.ids import new_id

    Project.objects.create(owner=user, name="P")
    delivery = Delivery.objects.get()
    owner, zombie = new_id(), new_id()
    Delivery.objects.update(status="SENDING", claimed_by=owner)
    result = succeeded(delivery.id)

    assert settle(zombie, [result]) == (set(), set(), set())
    assert not Attempt.objects.exists()
    assert settle(owner, [result]) == ({delivery.id.hex}, set(), set())
    assert settle(owner, [result]) == (set(), set(), set())

    delivery.refresh_from_db()
    assert (delivery.status, Attempt.objects.count()) == ("SUCCESS", 1)
