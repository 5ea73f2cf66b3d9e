"""Killed at each point: exactly the predicted number of sends, and nothing lost."""

import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from config.services import BASE_DIR
from projects.models import Project, User
from tests.workers import environment, wait_until
from webhooks import wakeup
from webhooks.http_receiver import HttpReceiver
from webhooks.models import Attempt, Delivery, Webhook

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def receiver() -> Iterator[HttpReceiver]:
    with HttpReceiver() as receiver:
        yield receiver


@pytest.fixture
def webhook(make_webhook: Callable[..., Webhook], receiver: HttpReceiver) -> Webhook:
    wakeup.connect(2).flushdb()
    return make_webhook(url=receiver.url, events=["project.created"])


@contextmanager
def process(point: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "tests.chaos.faulty_worker", point, *arguments]
    running = subprocess.Popen(command, cwd=BASE_DIR, env=environment(), stdout=subprocess.DEVNULL)
    try:
        yield running
    finally:
        running.kill()
        running.wait()


def killed_at(point: str, *arguments: str) -> None:
    with process(point, *arguments) as doomed:
        assert doomed.wait(30) == -signal.SIGKILL


def is_all_delivered() -> bool:
    return not Delivery.objects.exclude(status="SUCCESS").exists()


@pytest.mark.parametrize(
    "times", [pytest.param(1, id="once"), pytest.param(20, marks=pytest.mark.full, id="twenty")]
)
@pytest.mark.parametrize(
    ("point", "sends"),
    [("after_claim", 1), ("before_send", 1), ("after_answer", 2), ("in_settle", 2), ("after_settle", 1)],
)  # fmt: skip
def test_killed_worker_sends_as_often_as_predicted(
    user: User, webhook: Webhook, receiver: HttpReceiver, point: str, sends: int, times: int
) -> None:
    for number in range(1, times + 1):
        Project.objects.create(owner=user, name="P")
        killed_at(point, "rqworker")
        with process("nowhere", "rqworker"):
            wait_until(is_all_delivered, 30)

        assert len(receiver.requests) == sends * number

    counts = Counter(received.event_id for received in receiver.requests)
    assert set(counts.values()) == {sends}
    # The attempt that nobody lived to settle is not recorded; none is recorded twice.
    assert Attempt.objects.count() == times


@pytest.mark.parametrize(
    "times", [pytest.param(3, id="thrice"), pytest.param(100, marks=pytest.mark.full, id="hundred")]
)
def test_killed_between_commit_and_wakeup_is_delivered_by_the_poll(
    user: User, webhook: Webhook, receiver: HttpReceiver, times: int
) -> None:
    waits = []
    with process("nowhere", "rqworker"):
        for number in range(1, times + 1):
            killed_at("before_wakeup", "save")
            died_at = time.monotonic()
            receiver.wait_for(number, timeout_seconds=10)
            waits.append(time.monotonic() - died_at)
        wait_until(is_all_delivered)

    assert Project.objects.count() == times
    assert len(receiver.requests) == times
    assert max(waits) < 5
