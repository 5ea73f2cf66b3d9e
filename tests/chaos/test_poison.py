"""One delivery that ends whoever sends it, among many that do not (invariants 5 and 8)."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import timedelta
from subprocess import Popen

import pytest
from django.utils import timezone

from projects.models import User
from tests.webhooks.history import trigger
from tests.workers import running_worker, wait_for_heartbeats, wait_until
from webhooks.dispatch import life
from webhooks.dispatch.suspects import ALONE
from webhooks.ids import new_id
from webhooks.models import Delivery, Webhook, WorkerHeartbeat
from webhooks.workbench.receiver import Behaviour, HttpReceiver
from webhooks.worker import quarantine

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("empty_valkey")]

MakeWebhook = Callable[..., Webhook]


@pytest.fixture
def silent() -> Iterator[HttpReceiver]:
    """Keeps requests in flight until their timeout."""
    with HttpReceiver(behaviour=Behaviour(mode="hang")) as silent:
        yield silent


def worker() -> AbstractContextManager[Popen[bytes]]:
    return running_worker(DJANGO_SETTINGS_MODULE="tests.chaos.poison_settings")


def was_in_flight_when_its_worker_died() -> None:
    """Make suspects of all deliveries, as the end of a worker that held them does."""
    long_ago = timezone.now() - timedelta(seconds=11)
    dead = WorkerHeartbeat.objects.create(id=new_id(), host="gone", pid=1, beat_at=long_ago)
    Delivery.objects.update(status="SENDING", claimed_by=dead.id)
    life.reclaim_from_dead_workers()


def is_all_over() -> bool:
    return not Delivery.objects.filter(finished_at=None).exists()


def outcomes() -> Counter[tuple[str, bool]]:
    """How deliveries ended, and whether they crashed alone."""
    return Counter(
        (delivery.status, delivery.crash_count > 0) for delivery in Delivery.objects.all()
    )


@pytest.mark.parametrize(
    "poisons",
    [
        ["now"],
        ["later"],
        ["fail"],
        ["now", "now", "later"],
        pytest.param(["hang"], marks=pytest.mark.full),
    ],
    ids="-".join,
)
def test_poison_among_five_hundred_is_isolated_and_parked_and_all_others_are_delivered(
    user: User,
    other_user: User,
    make_webhook: MakeWebhook,
    receiver: HttpReceiver,
    silent: HttpReceiver,
    poisons: list[str],
) -> None:
    for number in range(100):
        make_webhook(name=str(number), url=receiver.url, events=["project.deleted"])
    trigger(user, 5)
    for poison in poisons:
        make_webhook(owner=other_user, url=silent.url + poison, events=["project.deleted"])
    trigger(other_user, 1)
    was_in_flight_when_its_worker_died()

    with worker() as process:
        wait_for_heartbeats(1)
        wait_until(is_all_over, 60 if "hang" not in poisons else 200)
        assert process.poll() is None

    assert outcomes() == {("SUCCESS", False): 500, ("FAILED", True): len(poisons)}
    parked = Delivery.objects.filter(status="FAILED")
    assert all("died 3 times" in delivery.error for delivery in parked)
    # Each death of a group costs those in it one more request; alone it is nobody's.
    sent = Counter(received.delivery_id for received in receiver.requests)
    assert max(sent.values()) <= 1 + ALONE * len(poisons)
    assert sum(sent.values()) <= 500 + len(poisons) * (64 + 8)


@pytest.mark.parametrize("poison", ["now", "fail"])
def test_poison_ends_one_worker_and_no_other(
    user: User, other_user: User, make_webhook: MakeWebhook, receiver: HttpReceiver, poison: str
) -> None:
    make_webhook(owner=other_user, url=f"http://127.0.0.1:9/{poison}", events=["project.deleted"])
    make_webhook(url=receiver.url, events=["project.deleted"])
    with worker() as doomed:
        wait_for_heartbeats(1)
        trigger(other_user, 1)
        doomed.wait(20)
    with worker() as other:
        trigger(user, 20)
        wait_until(is_all_over, 60)
        assert other.poll() is None

    assert outcomes() == {("SUCCESS", False): 20, ("FAILED", True): 1}


def test_killed_beside_slow_receivers_a_fast_one_waits_for_none_of_them(
    user: User,
    other_user: User,
    make_webhook: MakeWebhook,
    receiver: HttpReceiver,
    silent: HttpReceiver,
) -> None:
    # In flight for as long as it takes to start another worker.
    receiver.behaviour = Behaviour(delay_seconds=14)
    for number in range(40):
        make_webhook(name=str(number), url=silent.url, events=["project.deleted"])
    make_webhook(owner=other_user, url=receiver.url, events=["project.deleted"])
    with worker() as doomed:
        wait_for_heartbeats(1)
        trigger(user, 1)
        trigger(other_user, 1)
        silent.wait_for(40)
        receiver.wait_for(1)
        with worker():
            wait_for_heartbeats(2)
            doomed.kill()
            killed_at = time.time()
            again = receiver.wait_for(2, timeout_seconds=60)[1]

    assert again.received_at - killed_at < 15


def test_poison_of_one_owner_beside_slow_receivers_of_another_keeps_nobody_waiting(
    user: User,
    other_user: User,
    make_webhook: MakeWebhook,
    receiver: HttpReceiver,
    silent: HttpReceiver,
) -> None:
    with worker():
        for number in range(40):
            make_webhook(name=str(number), url=silent.url, events=["project.deleted"])
            make_webhook(name=f"f{number}", url=receiver.url, events=["project.deleted"])
        make_webhook(owner=other_user, url="http://127.0.0.1:9/now", events=["project.deleted"])
        trigger(user, 1)
        trigger(other_user, 1)
        was_in_flight_when_its_worker_died()
        wait_until(lambda: Delivery.objects.filter(status="SUCCESS").count() == 40, 15)
        wait_until(lambda: Delivery.objects.filter(status="FAILED").count() == 1, 15)
        # The slow ones are still in flight.
        assert Delivery.objects.filter(status="SENDING").count() >= 30


def test_child_that_hangs_is_ended_and_its_slot_is_free(
    user: User, make_webhook: MakeWebhook
) -> None:
    make_webhook(url="http://127.0.0.1:9/hang", events=["project.deleted"])
    trigger(user, 1)
    Delivery.objects.update(is_suspect=True, suspect_level=ALONE, crash_count=life.MOST_CRASHES - 1)
    with worker() as process:
        wait_until(is_all_over, 40)
        assert process.poll() is None
        wait_until(lambda: WorkerHeartbeat.objects.count() == 1)
        wait_until(lambda: set(quarantine.take_slots(ALONE, 1, [])) != set(), 10)
        quarantine.give_slot_back(ALONE * quarantine.MAX_PROCESSES)

    assert outcomes() == {("FAILED", True): 1}
