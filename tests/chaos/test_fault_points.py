"""Killed at each point: exactly the predicted number of sends, and nothing lost."""

import signal
import subprocess
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from projects.models import Project, User
from tests.workers import running, wait_for_heartbeats, wait_until
from webhooks.models import Attempt, Delivery, Event, Webhook
from webhooks.workbench.receiver import HttpReceiver

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def webhook(
    make_webhook: Callable[..., Webhook], receiver: HttpReceiver, empty_valkey: None
) -> Webhook:
    return make_webhook(url=receiver.url, events=["project.created"])


def process(point: str, *arguments: str) -> AbstractContextManager[subprocess.Popen[bytes]]:
    return running("-m", "tests.chaos.faulty_worker", point, *arguments, stdout=subprocess.DEVNULL)


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


@pytest.mark.parametrize("point", ["in_claim_by_line", "in_settle_by_line"])
def test_worker_killed_while_postgres_carries_out_what_its_loop_asked_for_loses_nothing(
    user: User, webhook: Webhook, receiver: HttpReceiver, point: str
) -> None:
    with process(point, "rqworker") as doomed:
        wait_for_heartbeats(1)

        def is_dead() -> bool:
            Project.objects.create(owner=user, name="P")
            return doomed.poll() is not None

        wait_until(is_dead, 30)
    assert doomed.returncode == -signal.SIGKILL
    with process("nowhere", "rqworker"):
        wait_until(is_all_delivered, 30)

    counts = Counter(received.event_id for received in receiver.requests)
    assert len(counts) == Delivery.objects.count() == Attempt.objects.count()
    # Twice what was in flight or not settled yet.
    assert max(counts.values()) <= 2


@pytest.mark.parametrize(
    "times",
    [
        pytest.param(10, id="ten"),
        *(pytest.param(100, marks=pytest.mark.full, id=f"hundred-{n}") for n in range(1, 11)),
    ],
)
def test_killed_between_commit_and_wakeup_is_delivered_by_the_poll(
    user: User, webhook: Webhook, receiver: HttpReceiver, times: int
) -> None:
    with process("nowhere", "rqworker"):
        wait_for_heartbeats(1)
        with process("before_wakeup", "save", str(times)) as saving:
            assert saving.wait(300) == 0
        wait_until(is_all_delivered)

    assert Project.objects.count() == times
    saved_at = {event.public_id: event.created_at.timestamp() for event in Event.objects.all()}
    waits = sorted(
        received.received_at - saved_at[received.event_id] for received in receiver.requests
    )
    assert len(waits) == times
    assert waits[int(0.99 * times)] < 5
