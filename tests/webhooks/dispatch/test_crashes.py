"""What ends a worker goes out apart, and is given up after three times alone (invariant 8)."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.db import OperationalError, connection
from django.utils import timezone
from pytest_django import Settings

from config.services import BASE_DIR
from projects.models import User
from tests.concurrency import another_connection
from tests.webhooks.claiming import Claimed, claim_due, claim_suspects
from tests.webhooks.history import trigger
from tests.workers import (
    black_hole,
    environment,
    killed_at_end,
    running_worker,
    wait_for_heartbeats,
    wait_until,
)
from webhooks.dispatch import claim as claims
from webhooks.dispatch import life
from webhooks.dispatch.engine import Engine, run_until_idle
from webhooks.dispatch.release import release
from webhooks.dispatch.suspects import ALONE, Count, count_by_level
from webhooks.ids import new_id
from webhooks.models import Delivery, Webhook, WorkerHeartbeat
from webhooks.wire.failures import SuspendedError
from webhooks.wire.many import Outcome
from webhooks.workbench.receiver import Behaviour, HttpReceiver
from webhooks.worker import quarantine
from webhooks.worker.quarantine import MAX_PROCESSES, give_slot_back, take_slots

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def webhook(make_webhook: Callable[..., Webhook], receiver: HttpReceiver) -> Webhook:
    return make_webhook(url=receiver.url, events=["project.deleted"])


OTHER_SLOTS = 7_734


def new_worker() -> UUID:
    worker_id = new_id()
    life.register_worker(worker_id)
    return worker_id


def die(worker_id: UUID) -> int:
    """Let a worker's silence grow old, and the others notice it."""
    WorkerHeartbeat.objects.filter(id=worker_id).update(
        beat_at=timezone.now() - timedelta(seconds=11)
    )
    return life.reclaim_from_dead_workers()


def claim_alone(worker_id: UUID) -> Claimed:
    return claim_suspects(worker_id, level=ALONE, limit=1, room_of=lambda *_: 10)


def test_suspect_is_left_to_who_sends_it_apart(user: User, webhook: Webhook) -> None:
    trigger(user, 3)
    doomed = new_worker()
    assert len(claim_due(doomed, limit=2, room_of=lambda *_: 2).deliveries) == 2

    assert die(doomed) == 2

    assert count_by_level() == {ALONE: Count(due=2, in_flight=0)}
    assert len(claim_due(new_worker(), limit=10, room_of=lambda *_: 10).deliveries) == 1
    alone = new_worker()
    assert len(claim_alone(alone).deliveries) == 1
    assert count_by_level() == {ALONE: Count(due=1, in_flight=1)}
    assert len(claim_alone(alone).deliveries) == 1
    assert claim_alone(alone).deliveries == []


def test_only_crashes_while_alone_count_and_three_are_enough(user: User, webhook: Webhook) -> None:
    trigger(user, 1)
    together = new_worker()
    claim_due(together, limit=10, room_of=lambda *_: 10)
    die(together)
    assert Delivery.objects.get().crash_count == 0

    for crashes in (1, 2, 3):
        alone = new_worker()
        assert len(claim_alone(alone).deliveries) == 1
        die(alone)
        delivery = Delivery.objects.get()
        assert (delivery.crash_count, delivery.status) == (
            crashes,
            "FAILED" if crashes == 3 else "PENDING",
        )

    assert "died 3 times" in delivery.error
    assert delivery.finished_at is not None
    assert claim_alone(new_worker()).deliveries == []


def test_giving_a_suspect_back_counts_no_crash(user: User, webhook: Webhook) -> None:
    trigger(user, 1)
    Delivery.objects.update(is_suspect=True, suspect_level=ALONE)
    alone = new_worker()
    (delivery,) = claim_alone(alone).deliveries

    release(alone, [delivery.id])

    assert Delivery.objects.get().crash_count == 0


def test_suspects_are_delivered_and_cleared(
    user: User, webhook: Webhook, receiver: HttpReceiver
) -> None:
    trigger(user, 5)
    Delivery.objects.update(is_suspect=True, crash_count=2)

    run_until_idle()

    assert len(receiver.requests) == 5
    assert set(Delivery.objects.values_list("status", "is_suspect", "crash_count")) == {
        ("SUCCESS", False, 0)
    }


def test_suspect_head_of_an_ordered_webhook_holds_the_others_back(
    user: User, make_webhook: Callable[..., Webhook], receiver: HttpReceiver
) -> None:
    make_webhook(url=receiver.url, events=["project.deleted"], ordered=True)
    trigger(user, 3)
    first, second, _ = Delivery.objects.order_by("order_key", "id")
    Delivery.objects.filter(id__in=[first.id, second.id]).update(is_suspect=True)

    assert claim_due(new_worker(), limit=10, room_of=lambda *_: 10).deliveries == []
    together = new_worker()
    claim = partial(claim_suspects, together, level=0, limit=10, room_of=lambda *_: 10)
    assert [d.id for d in claim().deliveries] == [first.id]
    assert claim().deliveries == []


def test_killed_worker_s_deliveries_go_out_apart_beside_normal_traffic(
    user: User, webhook: Webhook, receiver: HttpReceiver
) -> None:
    receiver.behaviour = Behaviour(delay_seconds=0.5)
    with running_worker() as doomed:
        wait_for_heartbeats(1)
        trigger(user, 40)
        receiver.wait_for(8)
        doomed.send_signal(signal.SIGKILL)
        doomed.wait()
    with running_worker(notices_deaths_early=True):
        wait_until(lambda: not Delivery.objects.exclude(status="SUCCESS").exists(), 25)

    assert not Delivery.objects.filter(is_suspect=True).exists()
    assert {r.delivery_id for r in receiver.requests} == {
        delivery.public_id for delivery in Delivery.objects.all()
    }


def test_suspects_of_a_worker_that_was_started_in_another_folder_are_sent(
    user: User, webhook: Webhook, tmp_path: Path
) -> None:
    trigger(user, 1)
    Delivery.objects.update(is_suspect=True)
    command = [sys.executable, str(BASE_DIR / "manage.py"), "rqworker"]
    worker = subprocess.Popen(command, cwd=tmp_path, env=environment())

    with killed_at_end(worker):
        wait_until(lambda: Delivery.objects.get().status == "SUCCESS", 20)


def test_quarantine_ends_with_its_worker(
    user: User, webhook: Webhook, receiver: HttpReceiver
) -> None:
    receiver.behaviour = Behaviour(mode="hang")
    Webhook.objects.update(timeout_seconds=2)
    trigger(user, 1)
    Delivery.objects.update(is_suspect=True)
    with running_worker():
        receiver.wait_for(1, timeout_seconds=20)
        hosts = list(WorkerHeartbeat.objects.values_list("pid", flat=True))
        assert len(hosts) == 2
    # The worker is killed here; its quarantine notices, finishes its request and goes.
    wait_until(lambda: not any(_lives(pid) for pid in hosts), 30)


def test_behind_a_pooler_no_slot_outlives_its_process(settings: Settings) -> None:
    settings.DATABASE_PREPARED_STATEMENTS = False

    assert take_slots(0, 3, {1}) == [0, 2]

    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
        )
        assert cursor.fetchone() == (0,)


def test_suspects_do_not_wait_for_a_mail_server(
    user: User, webhook: Webhook, make_webhook: Callable[..., Webhook], receiver: HttpReceiver
) -> None:
    for number in range(3):
        make_webhook(name=str(number), events=["payment.failed"])
    Webhook.objects.exclude(id=webhook.id).update(notice_due_at=timezone.now())
    trigger(user, 1)
    Delivery.objects.update(is_suspect=True)

    # Each mail waits for ten seconds.
    with black_hole() as address, running_worker(EMAIL_URL=f"smtp://{address}"):
        wait_until(lambda: Delivery.objects.get().status == "SUCCESS", 25)


def test_supervisors_of_all_workers_share_their_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    # Not the slots of real ones: that of a test before this may just be ending.
    monkeypatch.setattr(quarantine, "SLOT_LOCK_CLASS", OTHER_SLOTS)
    level = 2
    slots = range(level * MAX_PROCESSES, (level + 1) * MAX_PROCESSES)

    with another_connection() as other:
        for slot in slots:
            other.execute("SELECT pg_try_advisory_lock(%s, %s)", [OTHER_SLOTS, slot])
        full = take_slots(level, MAX_PROCESSES, [])
        other.execute("SELECT pg_advisory_unlock(%s, %s)", [OTHER_SLOTS, slots[3]])
        one = take_slots(level, 100, [])
        again = take_slots(level, 100, one)
        below = take_slots(level - 1, 2, one)
        for slot in [*one, *below]:
            give_slot_back(slot)
        other.execute("SELECT pg_advisory_unlock_all()")

    assert (full, one, again) == ([], [slots[3]], [])
    assert below == [(level - 1) * MAX_PROCESSES, (level - 1) * MAX_PROCESSES + 1]
    assert take_slots(level, 1, []) == [slots[0]]
    give_slot_back(slots[0])


def _lives(pid: int) -> bool:
    """Say whether a process runs; one that only waits for its parent's attention does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def _descendants(pid: int) -> list[int]:
    children = [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]
    return [*children, *(pid for child in children for pid in _descendants(child))]


@pytest.mark.parametrize(
    "number", [signal.SIGHUP, signal.SIGQUIT, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1]
)
def test_signal_that_ends_no_request_is_no_crash(
    user: User, webhook: Webhook, receiver: HttpReceiver, number: signal.Signals
) -> None:
    receiver.behaviour = Behaviour(delay_seconds=2)
    trigger(user, 1)
    Delivery.objects.update(is_suspect=True, suspect_level=ALONE, crash_count=1)
    with running_worker() as process:
        receiver.wait_for(1, timeout_seconds=20)
        supervisor, group = _descendants(process.pid)
        # As the terminal's hang-up, to all of them.
        for pid in (group, supervisor, process.pid):
            os.kill(pid, number)
        wait_until(lambda: Delivery.objects.get().status == "SUCCESS")
        if number != signal.SIGUSR1:
            assert process.wait(20) == 0
            assert not _lives(supervisor)
            assert not _lives(group)

    assert len(receiver.requests) == 1
    assert not WorkerHeartbeat.objects.exclude(declared_dead_at=None).exists()


def test_worker_that_ends_waits_for_its_suspects_and_starts_no_more(
    user: User, webhook: Webhook, receiver: HttpReceiver
) -> None:
    receiver.behaviour = Behaviour(delay_seconds=3)
    trigger(user, 3)
    sent, waiting, usual = Delivery.objects.all()
    suspects = Delivery.objects.filter(id__in=[sent.id, waiting.id])
    suspects.update(is_suspect=True, suspect_level=ALONE)
    later = Delivery.objects.filter(id__in=[waiting.id, usual.id])
    later.update(next_attempt_at=timezone.now() + timedelta(days=1))
    with running_worker() as process:
        receiver.wait_for(1, timeout_seconds=20)
        later.filter(id=usual.id).update(next_attempt_at=timezone.now())
        receiver.wait_for(2)
        process.terminate()
        later.filter(id=waiting.id).update(next_attempt_at=timezone.now())
        assert process.wait(20) == 0

    assert {delivery.id: delivery.status for delivery in Delivery.objects.all()} == {
        sent.id: "SUCCESS",
        usual.id: "SUCCESS",
        waiting.id: "PENDING",
    }


def test_claim_that_was_committed_unheard_is_given_back(
    user: User, webhook: Webhook, receiver: HttpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    trigger(user, 20)
    times = iter(range(100))

    real = claims.claim_due

    def claim_and_lose(*args: Any) -> claims.Claim:
        claim = real(*args)
        if next(times) == 0:
            # Committed, and then the connection went before the answer came.
            raise OperationalError("server closed the connection unexpectedly")
        return claim

    monkeypatch.setattr("webhooks.dispatch.desks.claim_due", claim_and_lose)

    run_until_idle()

    assert set(Delivery.objects.values_list("status", "claimed_by")) == {("SUCCESS", None)}
    assert len(receiver.requests) == 20


def test_worker_that_ends_in_order_leaves_nothing_marked(user: User, webhook: Webhook) -> None:
    trigger(user, 5)
    worker = new_worker()
    assert len(claim_due(worker, limit=5, room_of=lambda *_: 5).deliveries) == 5

    life.unregister_worker(worker)

    assert set(Delivery.objects.values_list("status", "claimed_by", "is_suspect")) == {
        ("PENDING", None, False)
    }


def test_worker_that_was_stopped_too_long_sends_nothing_it_held(
    user: User, webhook: Webhook, receiver: HttpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    trigger(user, 3)
    engine = Engine()
    lives = [engine.worker_id]
    real = engine._sender.poll

    def wake_up_late(timeout_seconds: float) -> list[Outcome]:
        if engine.desks.flight.count:
            engine._sender.poll = real  # type: ignore[method-assign]
            raise SuspendedError
        return real(timeout_seconds)

    engine._sender.poll = wake_up_late  # type: ignore[method-assign]
    engine.run(until_idle=True)
    lives.append(engine.worker_id)

    assert receiver.requests == []
    assert lives[0] != lives[1]
    # The first life ends like any other death: its silence is noticed, its rows are taken back.
    assert set(Delivery.objects.values_list("claimed_by", flat=True)) == {lives[0]}
    assert die(lives[0]) == 3
