"""Whatever is due goes out in the end, without a survey's help: no way out of a lane is closed."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
from django.utils import timezone

from projects.models import User
from tests.concurrency import calls_of, in_thread
from tests.webhooks.history import trigger
from tests.workers import wait_until
from webhooks.dispatch import desks, discovery
from webhooks.dispatch.claim import ClaimOrder, claim_due
from webhooks.dispatch.claims import Claims
from webhooks.dispatch.endpoints import Endpoints
from webhooks.dispatch.engine import Engine
from webhooks.dispatch.lanes import Lane, Lanes
from webhooks.dispatch.life import register_worker
from webhooks.dispatch.starts import Starts
from webhooks.ids import new_id
from webhooks.models import Delivery, Webhook
from webhooks.registry import switch
from webhooks.workbench.receiver import Behaviour, HttpReceiver

pytestmark = pytest.mark.django_db(transaction=True)

MakeWebhook = Callable[..., Webhook]
OLD = timedelta(hours=1)


@contextmanager
def running_engine() -> Iterator[Engine]:
    engine = Engine()
    thread = in_thread(engine.run)
    try:
        yield engine
    finally:
        engine.stop()
        thread.join()


def end_surveys(engine: Engine) -> None:
    """Let there be no survey any more for as long as the test takes."""
    assert isinstance(engine.desks.claims, Claims)
    survey = engine.desks.claims._survey
    wait_until(lambda: survey.position is None)
    survey.next_at = float("inf")


def make_due_long_ago(**filters: object) -> None:
    Delivery.objects.filter(**filters).update(next_attempt_at=timezone.now() - OLD)


@pytest.mark.parametrize("ordered", [False, True])
def test_webhook_that_was_disabled_while_its_lane_was_full_is_sent_to_when_enabled(
    make_webhook: MakeWebhook, receiver: HttpReceiver, user: User, ordered: bool
) -> None:
    """The rows that filled it were given back, so no response frees it."""
    webhook = make_webhook(url=receiver.url, events=["project.deleted"], ordered=ordered)
    trigger(user, 80)
    make_due_long_ago()
    begun = Starts.start
    with pytest.MonkeyPatch.context() as patch:

        def start_when_disabled(self: Starts) -> None:
            if not self._flight.ready:
                return
            Webhook.objects.filter(id=webhook.id).update(active=False)
            self._endpoints._known.clear()
            begun(self)

        patch.setattr(Starts, "start", start_when_disabled)
        with running_engine() as engine:
            end_surveys(engine)
            wait_until(lambda: not engine.desks.flight.ids)
            patch.undo()
            switch.enable(webhook)
            wait_until(lambda: len(receiver.requests) == 80)


def test_ordered_webhook_that_becomes_unordered_in_the_middle_of_a_run_goes_on(
    make_webhook: MakeWebhook, receiver: HttpReceiver, user: User
) -> None:
    webhook = make_webhook(url=receiver.url, events=["project.deleted"], ordered=True)
    receiver.behaviour = Behaviour(delay_seconds=0.02)
    trigger(user, 200)
    make_due_long_ago()
    with running_engine() as engine:
        end_surveys(engine)
        receiver.wait_for(5)
        Webhook.objects.filter(id=webhook.id).update(order="none")
        wait_until(lambda: len(receiver.requests) == 200)


def test_ordered_rows_wait_without_claims_while_others_of_their_webhook_fill_its_window(
    make_webhook: MakeWebhook,
    receiver: HttpReceiver,
    user: User,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_webhook(url=receiver.url, events=["project.deleted"], ordered=True)
    receiver.behaviour = Behaviour(delay_seconds=2)
    trigger(user, 4)
    # As after a redelivery.
    Delivery.objects.update(order_key=None, epoch=None)
    claims = calls_of(desks, "claim_due", monkeypatch)
    with running_engine():
        receiver.wait_for(4)
        before = len(claims)
        trigger(user, 2)
        time.sleep(1.5)
        made = len(claims) - before
        receiver.behaviour = Behaviour()
        wait_until(lambda: not Delivery.objects.exclude(status="SUCCESS").exists())
    assert made < 10


def test_slow_webhook_that_recovers_makes_its_worker_claim_nothing_in_vain(
    make_webhook: MakeWebhook,
    receiver: HttpReceiver,
    user: User,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    webhook = make_webhook(url=receiver.url, events=["project.deleted"])
    receiver.behaviour = Behaviour(delay_seconds=1.5)
    trigger(user, 4)
    switch.disable(webhook)
    switch.enable(webhook)
    claims = calls_of(desks, "claim_due", monkeypatch)
    with running_engine():
        receiver.wait_for(1)
        before = len(claims)
        time.sleep(1)
        made = len(claims) - before
        receiver.behaviour = Behaviour()
        wait_until(lambda: not Delivery.objects.exclude(status="SUCCESS").exists())
    assert made < 12


def take_again_and_again(lanes: Lanes, limit: int, times: int) -> list[object]:
    """Claim as a worker does whose requests end at once; returns the owners of what it took."""
    worker = new_id()
    register_worker(worker)
    owners: list[object] = []
    for _ in range(times):
        order = ClaimOrder(worker, limit, lanes.take(224), lambda *_: 50, knows=lanes.knows)
        claim = claim_due(order, Endpoints())
        rows = [d.id for d in claim.taken.deliveries]
        owners += Delivery.objects.filter(id__in=rows).values_list("owner_id", flat=True)
        Delivery.objects.filter(id__in=rows).update(
            status="SUCCESS", finished_at=timezone.now(), claimed_by=None
        )
        for fate in claim.fates:
            if fate.has_more:
                lanes.put_back(fate.lane)
            else:
                lanes.drop(fate.lane)
        for lane in claim.found:
            lanes.find(lane)
    return owners


def make_owners(count: int) -> list[User]:
    return [
        User.objects.create(username=f"owner{n}", email=f"{n}@example.com", name=f"Owner {n}")
        for n in range(count)
    ]


@pytest.mark.parametrize("rate_limit", [None, 1000])
def test_backlogs_of_many_owners_go_out_side_by_side(
    make_webhook: MakeWebhook, rate_limit: float | None
) -> None:
    owners = make_owners(6)
    lanes = Lanes()
    for owner in owners:
        webhook = make_webhook(owner=owner, events=["project.deleted"])
        trigger(owner, 60)
        lanes.find(Lane(owner.id, webhook.id, False))
    Webhook.objects.filter(owner=owners[0]).update(rate_limit=rate_limit)
    made = take_again_and_again(lanes, limit=20, times=9)
    assert set(made) == {owner.id for owner in owners}


def test_row_below_the_mark_of_a_busy_lane_is_not_passed_over(
    make_webhook: MakeWebhook, user: User
) -> None:
    """It was stored by a transaction that was open for a moment."""
    webhook = make_webhook(events=["project.deleted"])
    trigger(user, 3)
    late = Delivery.objects.order_by("id")[0]
    Delivery.objects.filter(id=late.id).update(
        next_attempt_at=timezone.now() - timedelta(seconds=1)
    )
    lane = Lane(user.id, webhook.id, False, low=time.time() - 0.5)
    worker = new_id()
    register_worker(worker)
    claim = claim_due(
        ClaimOrder(worker, 10, [lane], lambda *_: 1, knows=lambda _: True), Endpoints()
    )
    assert [delivery.id for delivery in claim.taken.deliveries] == [late.id]


def test_pause_that_begins_in_the_middle_of_a_claim_delays_nothing_longer_than_it_lasts(
    make_webhook: MakeWebhook,
    receiver: HttpReceiver,
    user: User,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_webhook(url=receiver.url, events=["project.deleted"])
    looks: list[float] = []
    look = discovery.look

    def look_and_pause(back_seconds: float) -> discovery.Look:
        found = look(back_seconds)
        if found.lanes and not looks:
            looks.append(time.monotonic())
            switch.pause_sending()
        return found

    monkeypatch.setattr(discovery, "look", look_and_pause)
    # A quick claim looks and takes in one statement.
    monkeypatch.setattr(Claims, "_rooms", lambda _: None)
    trigger(user, 1)
    with running_engine():
        wait_until(lambda: bool(looks))
        time.sleep(0.3)
        switch.resume_sending()
        receiver.wait_for(1)
