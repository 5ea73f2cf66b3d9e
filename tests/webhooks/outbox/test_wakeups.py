"""Wake-ups: cheap on a quiet day, never in a heap on a busy one (invariant 2)."""

import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis
from django.db import connection, transaction

from projects.models import Project, User
from tests.concurrency import another_connection, in_thread
from tests.webhooks.worker.test_product_jobs import StockWorker
from tests.workers import running_worker, wait_for_heartbeats, wait_until
from webhooks import service
from webhooks.models import Delivery, Webhook
from webhooks.outbox import hints, valkey, wakeup
from webhooks.workbench.receiver import HttpReceiver

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("empty_valkey")]

QUEUES = [("default",), ("webhooks", "default")]


@pytest.fixture
def client() -> redis.Redis:
    return valkey.connect(5)


def calls(client: redis.Redis) -> dict[str, int]:
    statistics: Any = client.info("commandstats")
    return {name.removeprefix("cmdstat_"): row["calls"] for name, row in statistics.items()}


@pytest.mark.parametrize("queues", QUEUES)
def test_wakeup_is_consumed_where_it_is_popped(
    client: redis.Redis, queues: tuple[str, ...]
) -> None:
    wakeups = 20
    name = queues[0]
    with running_worker("--name", "w", *queues, WEBHOOKS_QUEUE=name):
        wait_for_heartbeats(1)
        wait_until(lambda: client.hget("rq:worker:w", "state") == b"idle")
        client.config_resetstat()
        with client.pipeline() as pipeline:
            for number in range(wakeups):
                job_id = f"{hints.JOB_ID_PREFIX}{number}"
                pipeline.hset(f"rq:job:{job_id}", "description", hints.JOB_DESCRIPTION)
                pipeline.rpush(f"rq:queue:{name}", job_id)
            pipeline.execute()
        wait_until(lambda: calls(client).get("lrem", 0) >= wakeups)
        wait_until(lambda: not client.keys("rq:job:*"))
        counts = calls(client)

    pops = counts.get("blmove", 0) + counts.get("blpop", 0)
    # One pop waits at the end.
    assert wakeups <= pops <= wakeups + 2
    assert counts["lrem"] == wakeups
    assert counts.get("hgetall", 0) == 0
    # RQ's bookkeeping for a job takes twenty commands; a beat may fall into the time.
    assert counts.get("expire", 0) <= 4
    assert client.llen(f"rq:queue:{name}:intermediate") == 0


@pytest.mark.parametrize("queues", QUEUES)
def test_saves_are_heard_at_once_on_one_queue_and_on_several(
    user: User,
    make_webhook: Callable[..., Webhook],
    receiver: HttpReceiver,
    client: redis.Redis,
    settings: Any,
    queues: tuple[str, ...],
) -> None:
    make_webhook(url=receiver.url, events=["project.created"])
    settings.WEBHOOKS_QUEUE = queues[0]
    with running_worker("--name", "w", *queues, WEBHOOKS_QUEUE=queues[0]):
        wait_until(lambda: client.hget("rq:worker:w", "state") == b"idle")
        Project.objects.create(owner=user, name="warm-up")
        receiver.wait_for(1)
        waits = []
        for number in range(2, 12):
            Project.objects.create(owner=user, name="P")
            saved_at = time.time()
            waits.append(receiver.wait_for(number)[-1].received_at - saved_at)

    # Without wake-ups the poll would make it half a second on average.
    assert sorted(waits)[5] < 0.25


def waits_for_saves(user: User, receiver: HttpReceiver, count: int) -> list[float]:
    """Save one project after the other; returns the seconds from each save to its receipt, sorted."""
    before = len(receiver.requests)
    waits = []
    for number in range(1, count + 1):
        Project.objects.create(owner=user, name="P")
        saved_at = time.time()
        waits.append(receiver.wait_for(before + number)[-1].received_at - saved_at)
    return sorted(waits)


LISTENERS_SQL = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
 WHERE datname = current_database() AND query LIKE 'LISTEN%'
"""


def test_postgres_itself_tells_of_commits(
    user: User,
    make_webhook: Callable[..., Webhook],
    receiver: HttpReceiver,
    client: redis.Redis,
    settings: Any,
) -> None:
    settings.WEBHOOKS_WAKEUP = "listen"
    make_webhook(url=receiver.url, events=["project.created"])
    client.config_resetstat()
    with running_worker(WEBHOOKS_WAKEUP="listen"):
        wait_for_heartbeats(1)
        assert waits_for_saves(user, receiver, 10)[5] < 0.25
        with connection.cursor() as cursor:
            cursor.execute(LISTENERS_SQL)
            assert cursor.fetchall() == [(True,)]
        # By the poll until the listener is back.
        wait_until(lambda: waits_for_saves(user, receiver, 10)[5] < 0.25)

    assert not client.exists("rq:queue:default")
    assert calls(client).get("evalsha", 0) == 0


def test_poll_alone_finds_what_is_saved(
    user: User,
    make_webhook: Callable[..., Webhook],
    receiver: HttpReceiver,
    client: redis.Redis,
    settings: Any,
) -> None:
    settings.WEBHOOKS_WAKEUP = "poll"
    make_webhook(url=receiver.url, events=["project.created"])
    client.config_resetstat()
    with running_worker(WEBHOOKS_WAKEUP="poll"):
        wait_for_heartbeats(1)
        Project.objects.create(owner=user, name="P")
        receiver.wait_for(1)

    assert not client.exists("rq:queue:default")
    assert calls(client).get("evalsha", 0) == 0


@pytest.mark.parametrize("way", ["listen", "poll", "rq"])
def test_rollback_tells_nobody(
    user: User, make_webhook: Callable[..., Webhook], settings: Any, way: str
) -> None:
    make_webhook(events=["project.created"])
    settings.WEBHOOKS_WAKEUP = way
    with another_connection() as listener:
        listener.execute("LISTEN webhooks_wakeup")
        listener.commit()
        with transaction.atomic():
            Project.objects.create(owner=user, name="P")
            transaction.set_rollback(True)
        Project.objects.create(owner=user, name="Q")
        listener.autocommit = True
        heard = list(listener.notifies(timeout=0.5))

    assert len(heard) == (1 if way == "listen" else 0)


def test_our_queue_needs_no_argument(client: redis.Redis) -> None:
    with running_worker("--name", "w", WEBHOOKS_QUEUE="hooks"):
        wait_until(lambda: client.hget("rq:worker:w", "queues") == b"hooks")


def test_wakeups_do_not_pile_up_on_a_busy_day(
    user: User, make_webhook: Callable[..., Webhook], receiver: HttpReceiver, client: redis.Redis
) -> None:
    make_webhook(url=receiver.url, events=["project.created"])
    commits, longest = 200, 0

    def save() -> None:
        for _ in range(commits // 4):
            Project.objects.create(owner=user, name="P")

    with running_worker("--name", "w"):
        wait_until(lambda: client.hget("rq:worker:w", "state") == b"idle")
        client.config_resetstat()
        threads = [in_thread(save) for _ in range(4)]
        while any(thread.is_alive() for thread in threads):
            longest = max(longest, client.llen("rq:queue:default"))
        for thread in threads:
            thread.join()
        receiver.wait_for(commits, timeout_seconds=30)
        wait_until(lambda: Delivery.objects.filter(status="SUCCESS").count() == commits)
        wait_until(lambda: client.llen("rq:queue:default") == 0)
        wait_until(lambda: not client.keys("rq:job:*"))
        sent = calls(client)["rpush"]

    assert longest <= 3
    assert sent < commits


def test_stock_worker_still_performs_a_wakeup(
    user: User, make_webhook: Callable[..., Webhook], receiver: HttpReceiver, client: redis.Redis
) -> None:
    make_webhook(url=receiver.url, events=["project.created"])
    Project.objects.create(owner=user, name="P")
    hints._hinter.flush(5)
    (job_id,) = hints.make_queue(client).job_ids
    assert job_id.startswith(hints.JOB_ID_PREFIX)

    queue = hints.make_queue(client)
    StockWorker([queue], connection=client, serializer="rq.serializers.JSONSerializer").work(
        burst=True
    )

    assert service.get_deliveries(Webhook.objects.get(), user).get().status == "SUCCESS"


def test_worker_that_hears_wakeups_is_not_idle(client: redis.Redis) -> None:
    with running_worker("--name", "w", "--max-idle-time", "2") as process:
        wait_until(lambda: client.hget("rq:worker:w", "state") == b"idle")
        for _ in range(10):
            wakeup.nudge(force=True)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.5)
        assert process.wait(30) == 0


def test_without_a_thread_a_save_goes_on_and_a_later_one_wakes(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    hinter = hints.Hinter()
    with monkeypatch.context() as exhausted:
        exhausted.setattr(threading.Thread, "start", no_thread)
        hinter.nudge()
        hinter.nudge(force=True)

    hinter.nudge()
    hinter.flush(5)

    assert hints.make_queue(client).count == 1
