"""REDIS_URL with Sentinels: wake-ups follow a failover of Valkey."""

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis
from pytest_django import Settings

from config.embedded import die_with_parent, valkey_binary
from projects.models import Project, User
from tests.workers import answers, free_port, running_worker, wait_for_heartbeats, wait_until
from webhooks.models import Webhook
from webhooks.outbox import hints, valkey
from webhooks.workbench.receiver import HttpReceiver

pytestmark = pytest.mark.django_db(transaction=True)

SENTINEL = """
port {port}
bind 127.0.0.1
dir {folder}
sentinel monitor wakeups 127.0.0.1 {primary} 1
sentinel down-after-milliseconds wakeups 300
sentinel failover-timeout wakeups 3000
"""


@pytest.fixture
def primary(tmp_path: Path, settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    """The primary that a Sentinel watches, with a replica; REDIS_URL names the Sentinel."""
    first, second, watching = free_port(), free_port(), free_port()
    configuration = tmp_path / "sentinel.conf"
    configuration.write_text(SENTINEL.format(port=watching, folder=tmp_path, primary=first))

    def start(*options: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [str(valkey_binary()), *options],
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            preexec_fn=lambda: die_with_parent(9),
        )
        stack.callback(process.wait)
        stack.callback(process.kill)
        return process

    with ExitStack() as stack:
        server = start("--port", str(first), "--bind", "127.0.0.1", "--save", "")
        wait_until(lambda: answers(first))
        replica = ["--port", str(second), "--bind", "127.0.0.1", "--save", ""]
        start(*replica, "--replicaof", "127.0.0.1", str(first))
        start(str(configuration), "--sentinel")
        with redis.Redis(port=watching) as sentinel:
            wait_until(
                lambda: answers(watching) and sentinel.sentinel_master("wakeups")["num-slaves"] == 1
            )
        settings.REDIS_URL = f"redis+sentinel://127.0.0.1:{watching}/wakeups/0"
        yield server


@pytest.fixture
def fresh_hinter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hints of this process go where REDIS_URL leads now."""
    monkeypatch.setattr(hints, "_hinter", hints.Hinter())


@pytest.mark.usefixtures("fresh_hinter")
def test_wakeups_follow_a_failover(
    user: User,
    make_webhook: Callable[..., Webhook],
    receiver: HttpReceiver,
    primary: subprocess.Popen[bytes],
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hints, "PROBE_INTERVAL_SECONDS", 0.5)
    make_webhook(url=receiver.url, events=["project.created"])

    def typical_wait() -> float:
        """Return how long after a save its request arrives, as the median of ten."""
        waits = []
        for _ in range(10):
            known = len(receiver.requests)
            Project.objects.create(owner=user, name="P")
            saved_at = time.time()
            waits.append(receiver.wait_for(known + 1)[-1].received_at - saved_at)
        return sorted(waits)[5]

    def hears() -> bool:
        # Without wake-ups the poll would make it half a second on average.
        return typical_wait() < 0.25

    with running_worker(REDIS_URL=settings.REDIS_URL):
        wait_for_heartbeats(1)
        wait_until(hears)
        before = valkey.connect(1).connection_pool.get_master_address()  # type: ignore[attr-defined]
        primary.kill()

        wait_until(hears)

        pool = valkey.connect(1).connection_pool
        assert pool.get_master_address() != before  # type: ignore[attr-defined]
