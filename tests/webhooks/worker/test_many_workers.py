"""What several worker processes keep together: order, rate limits, fairness."""

import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from uuid import UUID

import pytest
from django.db.models.functions import Now

from projects.models import User
from tests.concurrency import in_thread
from tests.webhooks.claiming import claim_due
from tests.webhooks.history import succeeded, trigger
from tests.workers import free_port, running_worker, wait_for_heartbeats, wait_until
from webhooks.dispatch import life
from webhooks.dispatch.settle import settle
from webhooks.ids import new_id
from webhooks.models import Attempt, Delivery, Pause, Webhook
from webhooks.workbench.receiver import Behaviour, HttpReceiver

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("empty_valkey")]


def running_workers(count: int, *, notices_deaths_early: bool = False) -> ExitStack:
    stack = ExitStack()
    for _ in range(count):
        stack.enter_context(running_worker(notices_deaths_early=notices_deaths_early))
    wait_for_heartbeats(count)
    return stack


def test_ordered_webhook_stays_in_order_under_failures_and_a_kill(
    user: User, make_webhook: Callable[..., Webhook], receiver: HttpReceiver
) -> None:
    receiver.behaviour = Behaviour(fail_rate=0.3)
    webhook = make_webhook(
        url=receiver.url, events=["project.deleted"], ordered=True, retry_schedule=[1] * 20
    )
    with running_workers(2, notices_deaths_early=True), running_worker() as doomed:
        wait_for_heartbeats(3)
        for _ in range(5):
            trigger(user, 6)
        receiver.wait_for(10)
        doomed.kill()
        wait_until(lambda: not Delivery.objects.exclude(status="SUCCESS").exists(), seconds=90)

    order = list(
        Delivery.objects.filter(webhook=webhook)
        .order_by("order_key", "id")
        .values_list("id", flat=True)
    )
    place = {f"del_{delivery_id.hex}": number for number, delivery_id in enumerate(order)}
    seen = [place[received.delivery_id] for received in receiver.requests]
    assert seen == sorted(seen)
    assert set(seen) == set(range(30))


@pytest.mark.parametrize(
    ("workers", "seconds", "tolerance"),
    [(2, 4, 0.1), pytest.param(4, 20, 0.05, marks=pytest.mark.full)],
)
def test_rate_limit_holds_over_all_workers(
    user: User,
    make_webhook: Callable[..., Webhook],
    receiver: HttpReceiver,
    workers: int,
    seconds: int,
    tolerance: float,
) -> None:
    make_webhook(url=receiver.url, events=["project.deleted"], rate_limit=50)
    pause = Pause.objects.create()
    trigger(user, 50 * (seconds + 4))
    with running_workers(workers):
        pause.delete()
        (first, *_) = receiver.wait_for(1)
        # From the second second on: the first one also spends the burst.
        start, end = first.received_at + 1, first.received_at + 1 + seconds
        wait_until(lambda: time.time() > end + 0.2, seconds + 10)

    count = sum(start <= received.received_at < end for received in receiver.requests)
    assert count == pytest.approx(50 * seconds, rel=tolerance)


def test_cap_of_an_unverified_host_holds_over_all_workers(
    user: User,
    other_user: User,
    make_webhook: Callable[..., Webhook],
    receiver: HttpReceiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WEBHOOKS_ENDPOINT_PROOF", "advise")
    monkeypatch.setenv("WEBHOOKS_UNVERIFIED_REQUESTS_PER_SECOND", "20")
    for owner in (user, other_user):
        for number in range(20):
            make_webhook(owner=owner, url=f"{receiver.url}/{number}", events=["project.deleted"])
    pause = Pause.objects.create()
    for owner in (user, other_user):
        trigger(owner, 10)
    with running_workers(2):
        pause.delete()
        (first, *_) = receiver.wait_for(1)
        start, end = first.received_at + 1, first.received_at + 4
        wait_until(lambda: time.time() > end + 0.2, 14)
        # Besides, each webhook gets a challenge.
        sent = [one for one in receiver.requests if one.event_type == "project.deleted"]
    count = sum(start <= one.received_at < end for one in sent)
    assert count == pytest.approx(60, rel=0.1)
    assert not Delivery.objects.filter(attempt_count__gt=1).exists()


def test_new_event_of_a_quiet_webhook_overtakes_a_flood(
    user: User,
    other_user: User,
    make_webhook: Callable[..., Webhook],
    receiver: HttpReceiver,
) -> None:
    with HttpReceiver(behaviour=Behaviour(delay_seconds=0.05)) as flooded:
        for _ in range(10):
            make_webhook(url=flooded.url, events=["project.deleted"])
        make_webhook(owner=other_user, url=receiver.url, events=["project.deleted"])
        trigger(user, 1000)
        with running_workers(1):
            flooded.wait_for(100)
            saved_at = time.time()
            trigger(other_user, 1)
            received = receiver.wait_for(1)[0]
            left = Delivery.objects.filter(finished_at=None).count()

    assert left > 5000
    assert received.received_at - saved_at < 1.0


@pytest.mark.full
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_fifty_workers_never_take_the_same_row(
    user: User, make_webhook: Callable[..., Webhook], seed: int
) -> None:
    for _ in range(20):
        make_webhook(events=["project.deleted"])
    trigger(user, 500)
    taken: list[UUID] = []

    def work(dice: random.Random) -> None:
        worker = new_id()
        life.register_worker(worker)
        while True:
            limit, room_of = dice.randint(1, 100), RoomOf(dice.randint(1, 40))
            claim = claim_due(worker, limit=limit, room_of=room_of)
            taken.extend(delivery.id for delivery in claim.deliveries)
            results = [succeeded(delivery.id) for delivery in claim.deliveries]
            # Another worker's claim may hold a row's lock for a moment; a settle skips such a row.
            while results:
                locked = settle(worker, results).locked
                results = [result for result in results if result["id"] in locked]
            if not claim.deliveries and not Delivery.objects.filter(finished_at=None).exists():
                return

    threads = [in_thread(partial(work, random.Random(seed * 100 + number))) for number in range(50)]
    for thread in threads:
        thread.join()

    assert len(taken) == len(set(taken)) == 10_000
    assert Attempt.objects.count() == Delivery.objects.filter(status="SUCCESS").count() == 10_000


@pytest.mark.full
def test_receiver_that_comes_back_is_not_flooded(
    user: User, make_webhook: Callable[..., Webhook]
) -> None:
    port = free_port()
    webhook = make_webhook(
        url=f"http://127.0.0.1:{port}/", events=["project.deleted"], retry_schedule=[1] * 20
    )
    trigger(user, 20_000)
    with running_workers(1):
        wait_until(lambda: breaker_of(webhook) == "open")
        spent = Attempt.objects.count()
        with HttpReceiver(port=port, behaviour=Behaviour(delay_seconds=ANSWER_SECONDS)) as receiver:
            # Sooner than its thirty seconds.
            Webhook.objects.update(breaker_probe_at=Now())
            wait_until(lambda: breaker_of(webhook) == "closed")
            webhook.refresh_from_db()
            assert webhook.breaker_changed_at is not None
            closed_at = webhook.breaker_changed_at.timestamp()
            wait_until(lambda: not Delivery.objects.exclude(status="SUCCESS").exists(), 120)
            arrivals = sorted(received.received_at for received in receiver.requests)

    # Its attempts were not spent on the closed port, and it was never driven down again.
    assert spent < 100
    assert breaker_of(webhook) == "closed"
    assert len(arrivals) == 20_000
    per_second = Counter(int(arrived_at - closed_at) for arrived_at in arrivals)
    for second in range(20):
        # One in flight and four more each second; each of them takes its time to be answered.
        assert per_second[second] <= 1.25 * (1 + 4 * (second + 1)) / ANSWER_SECONDS


ANSWER_SECONDS = 0.05


def breaker_of(webhook: Webhook) -> str:
    return Webhook.objects.values_list("breaker_state", flat=True).get(id=webhook.id)


class RoomOf:
    """The same room for every webhook."""

    def __init__(self, room: int) -> None:
        self._room = room

    def __call__(self, webhook_id: UUID, most: int) -> int:
        return self._room
