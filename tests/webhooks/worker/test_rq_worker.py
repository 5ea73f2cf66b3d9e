"""The worker as operators run it: real processes, real Valkey, killed and cut off for real."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest
from pytest_django import Settings
from rq.worker import SimpleWorker

from config.services import BASE_DIR
from projects.models import Project, User
from tests.concurrency import calls_of, in_thread
from tests.workers import (
    black_hole,
    environment,
    running_worker,
    wait_for_heartbeats,
    wait_until,
)
from webhooks import service
from webhooks.models import Attempt, Delivery, Webhook, WorkerHeartbeat
from webhooks.outbox import hints, valkey
from webhooks.workbench.receiver import Behaviour, HttpReceiver
from webhooks.worker.main_thread import MainThread
from webhooks.worker.rq_worker import WebhookWorker

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("empty_valkey")]


@pytest.fixture
def webhook(make_webhook: Callable[..., Webhook], receiver: HttpReceiver) -> Webhook:
    webhook = make_webhook(url=receiver.url, events=["project.created"])
    receiver.secrets = [webhook.secret]
    return webhook


def test_burst_worker_delivers_everything_and_ends(
    user: User, webhook: Webhook, receiver: HttpReceiver
) -> None:
    Project.objects.create(owner=user, name="P")

    with running_worker("--burst") as worker:
        assert worker.wait(20) == 0

    (received,) = receiver.requests
    assert (received.standard_ok, received.hex_ok) == (True, True)
    assert service.get_deliveries(webhook, user).get().status == "SUCCESS"


def test_running_worker_hears_of_a_save_at_once(
    user: User, webhook: Webhook, receiver: HttpReceiver
) -> None:
    with running_worker():
        wait_for_heartbeats(1)
        Project.objects.create(owner=user, name="warm-up")
        receiver.wait_for(1)
        waits = []
        for number in range(2, 12):
            Project.objects.create(owner=user, name="P")
            saved_at = time.time()
            waits.append(receiver.wait_for(number)[-1].received_at - saved_at)

    # Without wake-ups the poll would make it half a second on average.
    assert sorted(waits)[5] < 0.25


def test_worker_sends_its_own_hints_for_rows_saved_by_hand(
    user: User, webhook: Webhook, receiver: HttpReceiver
) -> None:
    receiver.script(Behaviour(status=500))
    with running_worker():
        wait_for_heartbeats(1)
        Project.objects.create(owner=user, name="P")
        receiver.wait_for(1)
        wait_until(lambda: Delivery.objects.get().status == "RETRYING")
        delivery = Delivery.objects.get()
        delivery.next_attempt_at = delivery.created_at
        delivery.save(update_fields=["next_attempt_at"])

        assert receiver.wait_for(2)[1].attempt == "2"


def test_killed_worker_loses_nothing(user: User, webhook: Webhook, receiver: HttpReceiver) -> None:
    receiver.behaviour = Behaviour(delay_seconds=0.3)
    with running_worker() as first:
        wait_for_heartbeats(1)
        service.trigger_events([project_created(user, number) for number in range(200)])
        receiver.wait_for(60)
        first.send_signal(signal.SIGKILL)
        first.wait()
    finished = set(Delivery.objects.filter(status="SUCCESS").values_list("id", flat=True))
    before = [received.delivery_id for received in receiver.requests]
    receiver.behaviour = Behaviour()

    with running_worker():
        # The dead one's is still there.
        wait_for_heartbeats(2)
        taken_over_at = time.monotonic()
        wait_until(lambda: not Delivery.objects.exclude(status="SUCCESS").exists(), 20)

    assert time.monotonic() - taken_over_at < 16
    after = [received.delivery_id for received in receiver.requests[len(before) :]]
    assert {*before, *after} == {delivery.public_id for delivery in Delivery.objects.all()}
    # Sent twice: only what was started and not yet settled when the worker died.
    twice = set(before) & set(after)
    assert twice.isdisjoint(f"del_{delivery_id.hex}" for delivery_id in finished)
    assert Attempt.objects.count() == 200


def test_sigterm_finishes_what_is_in_flight_without_duplicates(
    user: User, make_webhook: Callable[..., Webhook], receiver: HttpReceiver
) -> None:
    receiver.behaviour = Behaviour(delay_seconds=1)
    for _ in range(50):
        make_webhook(url=receiver.url, events=["project.created"])
    service.trigger_events([project_created(user, number) for number in range(20)])
    with running_worker() as worker:
        receiver.wait_for(200)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(10) == 0

    requests = receiver.requests
    assert 200 <= len(requests) < 1000
    assert len({received.delivery_id for received in requests}) == len(requests)
    assert Delivery.objects.filter(status="SUCCESS").count() == len(requests)
    assert not Delivery.objects.filter(status="SENDING").exists()
    assert not WorkerHeartbeat.objects.exists()


@pytest.mark.parametrize("is_silent", [False, True])
def test_without_valkey_saves_succeed_and_workers_deliver(
    user: User,
    webhook: Webhook,
    receiver: HttpReceiver,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    is_silent: bool,
) -> None:
    with black_hole() as silent:
        redis_url = f"redis://{silent if is_silent else '127.0.0.1:1'}/0"
        settings.REDIS_URL = redis_url
        monkeypatch.setattr(hints, "_hinter", hints.Hinter())
        with running_worker(REDIS_URL=redis_url):
            wait_for_heartbeats(1)
            started_at = time.monotonic()
            for _ in range(5):
                Project.objects.create(owner=user, name="P")
            assert time.monotonic() - started_at < 1.0

            receiver.wait_for(5, timeout_seconds=10)
            wait_until(lambda: Delivery.objects.filter(status="SUCCESS").count() == 5)
        hints._hinter.flush(2)


def test_rq_comes_back_after_valkey_refused_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webhooks.worker.rq_worker.RECONNECT_SECONDS", 0.05)
    starts = calls_of(SimpleWorker, "work", monkeypatch)
    client = valkey.connect(2)
    queue = hints.make_queue(client)
    worker = WebhookWorker([queue], connection=client)
    worker._main = MainThread(threading.Event())
    thread = in_thread(lambda: worker._serve_rq(False, {}))
    wait_until(lambda: bool(client.exists(worker.key)))

    client.config_set("min-replicas-to-write", 1)
    try:
        client.client_kill_filter(_type="normal", skipme=True)
        # It looks for its own entry the second time, and finds it.
        wait_until(lambda: len(starts) >= 3)
    finally:
        client.config_set("min-replicas-to-write", 0)

    queue.enqueue_call(hints.JOB_FUNCTION, description=hints.JOB_DESCRIPTION)
    wait_until(lambda: not queue.count)
    worker._stop_requested = True
    # It waits for a job before it looks whether it is to stop.
    queue.enqueue_call(hints.JOB_FUNCTION, description=hints.JOB_DESCRIPTION)
    thread.join()


def test_pool_of_workers_delivers_each_event_once(
    user: User, webhook: Webhook, receiver: HttpReceiver
) -> None:
    process = subprocess.Popen(
        [sys.executable, "manage.py", "rqworker-pool", "--num-workers", "2"],
        cwd=BASE_DIR,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for_heartbeats(2)
        service.trigger_events([project_created(user, number) for number in range(500)])
        receiver.wait_for(500)
        wait_until(lambda: Delivery.objects.filter(status="SUCCESS").count() == 500)
        assert len(receiver.requests) == 500
    finally:
        process.terminate()
        process.wait(20)


def project_created(user: User, number: int) -> service.Trigger:
    data = {
        "id": str(user.id),
        "name": str(number),
        "description": "",
        "createdAt": "2026-11-23T10:30:00.123Z",
    }
    return service.Trigger("project.created", user, data)
