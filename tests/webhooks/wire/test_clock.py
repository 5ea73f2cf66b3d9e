"""A machine that slept is a stopped one: its monotonic clock stood still, that of others did not."""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from tests.concurrency import in_thread
from tests.webhooks.sending import kind_of, policy, request
from webhooks.dispatch.endpoints import Endpoints
from webhooks.dispatch.engine import Engine
from webhooks.dispatch.life import SILENCE_BEFORE_DEATH_SECONDS, Watch, register_worker
from webhooks.ids import new_id
from webhooks.models import Webhook, WorkerHeartbeat
from webhooks.wire.failures import SuspendedError
from webhooks.wire.many import SUSPENDED_SECONDS, MultiSender
from webhooks.workbench.receiver import HttpReceiver

Sleep = Callable[[float], None]


@pytest.fixture
def sleep(monkeypatch: pytest.MonkeyPatch) -> Sleep:
    """Make the machine sleep: only the clock that counts sleep goes on."""
    real, slept = time.clock_gettime, [0.0]
    monkeypatch.setattr(
        "webhooks.wire.clock.time.clock_gettime", lambda clock: real(clock) + slept[0]
    )

    def sleep(seconds: float) -> None:
        slept[0] += seconds

    return sleep


def falls_asleep_before(
    place: Any, name: str, sleep: Sleep, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = getattr(place, name)

    def asleep_first(*args: Any) -> Any:
        sleep(SUSPENDED_SECONDS + 1)
        return real(*args)

    monkeypatch.setattr(place, name, asleep_first)


@pytest.mark.parametrize("when", ["between", "within"])
def test_sender_whose_machine_slept_sends_nothing_more(
    receiver: HttpReceiver, sleep: Sleep, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    sender = MultiSender(policy("127.0.0.0/8"))
    sender.start(request(receiver.url), timeout_seconds=5, context=None)
    if when == "between":
        sleep(SUSPENDED_SECONDS + 1)
    else:
        falls_asleep_before(sender._sockets, "wait", sleep, monkeypatch)

    with pytest.raises(SuspendedError):
        sender.poll(0.1)
    sender.close()

    assert receiver.requests == []


def test_sender_whose_machine_slept_before_the_request_goes_out_stops_it(
    receiver: HttpReceiver, sleep: Sleep, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender = MultiSender(policy("127.0.0.0/8"))
    sender.start(request(receiver.url), timeout_seconds=5, context=None)
    falls_asleep_before(sender._sockets, "act", sleep, monkeypatch)

    with pytest.raises(SuspendedError):
        for _ in range(100):
            sender.poll(0.1)
    sender.close()

    assert receiver.requests == []


def test_short_nap_changes_nothing(receiver: HttpReceiver, sleep: Sleep) -> None:
    sender = MultiSender(policy("127.0.0.0/8"))
    sender.start(request(receiver.url), timeout_seconds=5, context=None)
    sleep(SUSPENDED_SECONDS - 1)

    while not (ended := sender.poll(0.1)):
        pass
    sender.close()

    assert kind_of(ended[0]) == "200"


@pytest.mark.django_db(transaction=True)
def test_worker_whose_machine_slept_starts_a_new_life(sleep: Sleep) -> None:
    engine = Engine()
    life = engine.worker_id
    thread = in_thread(engine.run)
    while not WorkerHeartbeat.objects.filter(id=life).exists():
        pass
    sleep(60)
    for _ in range(1000):
        if engine.worker_id != life:
            break
        time.sleep(0.01)
    engine.stop()
    thread.join()

    assert engine.worker_id != life


@pytest.mark.django_db(transaction=True)
def test_worker_whose_machine_slept_buries_nobody_at_once(sleep: Sleep) -> None:
    watch = Watch()
    watch.look()
    neighbour = WorkerHeartbeat.objects.create(
        id=new_id(), host="here", pid=1, beat_at=timezone.now() - timedelta(seconds=60)
    )
    register_worker(new_id())
    sleep(60)

    watch.look()
    assert WorkerHeartbeat.objects.filter(id=neighbour.id).exists()
    for _ in range(2):
        sleep(SILENCE_BEFORE_DEATH_SECONDS / 3)
        watch.look()
    assert not WorkerHeartbeat.objects.filter(id=neighbour.id).exists()


@pytest.mark.django_db(transaction=True)
def test_worker_whose_machine_slept_has_recorded_nothing_meanwhile(sleep: Sleep) -> None:
    engine = Engine()
    was_recording = engine.is_recording
    sleep(60)

    assert (was_recording, engine.is_recording) == (True, False)
    engine._end()


@pytest.mark.django_db
def test_what_was_read_before_a_nap_is_not_fresh(
    make_webhook: Callable[..., Webhook], sleep: Sleep
) -> None:
    webhook = make_webhook()
    endpoints = Endpoints()
    endpoints.load([webhook.id])
    assert endpoints.get(webhook.id) is not None

    sleep(1)

    assert endpoints.get(webhook.id) is None
    assert endpoints.is_stale(webhook.id)
