"""A worker that freezes while it holds locks holds up nobody else for long.

As a suspended machine does, or one that the network lost: its connections stay open.
"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
import pytest

from projects.models import Project, User
from tests.chaos.test_fault_points import is_all_delivered, killed_at, process
from tests.concurrency import another_connection
from tests.webhooks.history import DELETED, trigger
from tests.workers import wait_until
from webhooks import service
from webhooks.models import Delivery, Webhook, WorkerHeartbeat
from webhooks.workbench.receiver import Behaviour, HttpReceiver

pytestmark = pytest.mark.django_db(transaction=True)

LARGE = DELETED | {"name": "x" * 200_000}
"""A few of them are more than a socket holds."""


@pytest.fixture
def webhook(
    make_webhook: Callable[..., Webhook], receiver: HttpReceiver, empty_valkey: None
) -> Webhook:
    return make_webhook(url=receiver.url, events=["*"], retry_schedule=[1] * 9)


@contextmanager
def frozen_at(point: str) -> Iterator[int]:
    with process(point, "rqworker") as worker:
        wait_until(lambda: psutil.Process(worker.pid).status() == psutil.STATUS_STOPPED, 30)
        yield worker.pid


def test_frozen_while_it_buries_another(
    user: User, webhook: Webhook, receiver: HttpReceiver
) -> None:
    Project.objects.create(owner=user, name="P")
    killed_at("after_claim", "rqworker")
    with frozen_at("frozen_in_burial"), process("nowhere", "rqworker"):
        wait_until(is_all_delivered, 20)

    assert len(receiver.requests) == 1


def test_frozen_while_it_notes_the_health_of_a_webhook(
    user: User, webhook: Webhook, receiver: HttpReceiver
) -> None:
    receiver.behaviour = Behaviour(status=500)
    Project.objects.create(owner=user, name="P")
    with frozen_at("frozen_in_health"), process("nowhere", "rqworker"):
        # One attempt of each, and the second is on record when its worker waits for the lock.
        receiver.wait_for(2, timeout_seconds=20)
        receiver.behaviour = Behaviour()
        wait_until(is_all_delivered, 20)

    assert len(receiver.requests) == 3


def test_frozen_while_its_claim_is_written_to_it(
    user: User, webhook: Webhook, receiver: HttpReceiver
) -> None:
    service.trigger_events([service.Trigger("project.deleted", user, LARGE)] * 8)
    with frozen_at("frozen_in_claim"):
        # Not committed, so that nothing shows it.
        assert not Delivery.objects.exclude(claimed_by=None).exists()
        with process("nowhere", "rqworker"):
            wait_until(is_all_delivered, 20)
            wait_until(lambda: WorkerHeartbeat.objects.count() == 1)

    assert len(receiver.requests) == 8


@pytest.mark.parametrize("point", ["frozen_after_start", "frozen_before_request"])
def test_frozen_before_it_sends_and_then_goes_on(
    user: User, webhook: Webhook, receiver: HttpReceiver, point: str
) -> None:
    Project.objects.create(owner=user, name="P")
    with frozen_at(point) as zombie, process("nowhere", "rqworker"):
        wait_until(is_all_delivered, 20)
        lives = set(WorkerHeartbeat.objects.values_list("id", flat=True))
        os.kill(zombie, signal.SIGCONT)
        # It begins anew, when it would have sent what it held.
        wait_until(lambda: WorkerHeartbeat.objects.exclude(id__in=lives).exists())

    assert len(receiver.requests) == 1


def test_webhook_that_somebody_locked_holds_up_no_other(
    user: User, webhook: Webhook, make_webhook: Callable[..., Webhook], receiver: HttpReceiver
) -> None:
    receiver.behaviour = Behaviour(status=500)
    trigger(user, 1)
    with another_connection() as other, process("nowhere", "rqworker"):
        other.execute("BEGIN")
        other.execute("SELECT FROM webhooks_webhook FOR UPDATE")
        receiver.wait_for(1)
        lives = set(WorkerHeartbeat.objects.values_list("id", flat=True))
        receiver.behaviour = Behaviour()
        make_webhook(name="Other", url=receiver.url, events=["*"])
        trigger(user, 1)
        wait_until(lambda: Delivery.objects.filter(status="SUCCESS").count() >= 2, 25)
        assert set(WorkerHeartbeat.objects.values_list("id", flat=True)) == lives
        other.execute("ROLLBACK")
        wait_until(is_all_delivered)
