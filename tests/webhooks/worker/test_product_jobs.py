"""A product's own RQ jobs beside webhooks: they run to their end, and those of others are left."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import redis
from django_rq import job as django_rq_job
from pytest_django import Settings
from rq import Callback, Retry, Webhook
from rq.job import Job, JobStatus
from rq.queue import Queue
from rq.timeouts import TimerDeathPenalty
from rq.worker import SimpleWorker

from projects.models import Project, User
from tests.webhooks import product_jobs
from tests.workers import running_worker, wait_for_heartbeats, wait_until
from webhooks.models import Delivery, WorkerHeartbeat
from webhooks.models import Webhook as OurWebhook
from webhooks.outbox import hints, valkey
from webhooks.workbench.receiver import Behaviour, HttpReceiver
from webhooks.worker.declared_jobs import JobNotDeclaredError, find_declared

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("empty_valkey")]

MODULE = product_jobs.__name__


@pytest.fixture
def client() -> redis.Redis:
    return valkey.connect(5)


@pytest.fixture
def queue(client: redis.Redis) -> Queue:
    return hints.make_queue(client)


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return tmp_path / "notes"


def lines(notes: Path) -> list[str]:
    return notes.read_text().splitlines() if notes.exists() else []


@contextmanager
def worker(*arguments: str, **changes: str) -> Iterator[subprocess.Popen[bytes]]:
    environment: Any = {"WEBHOOKS_JOB_MODULES": MODULE} | changes
    with running_worker(*arguments, **environment) as process:
        yield process


class StockWorker(SimpleWorker):
    """RQ's own, as it may run in a test."""

    death_penalty_class = TimerDeathPenalty

    def _install_signal_handlers(self) -> None:
        pass


# Ending.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_waits_for_the_job_in_progress_and_begins_no_other(
    queue: Queue, notes: Path, number: signal.Signals
) -> None:
    first = queue.enqueue_call(product_jobs.work, (str(notes), 4))
    second = queue.enqueue_call(product_jobs.note, (str(notes), "second"))
    with worker() as process:
        wait_until(lambda: lines(notes) == ["started"])
        process.send_signal(number)
        assert process.wait(30) == 0

    assert lines(notes) == ["started", "ended"]
    assert (first.get_status(), first.return_value()) == (JobStatus.FINISHED, "ended")
    assert (second.get_status(), queue.job_ids) == (JobStatus.QUEUED, [second.id])
    assert len(queue.started_job_registry) == 0
    assert not WorkerHeartbeat.objects.exists()


def test_stop_waits_for_requests_and_for_the_job(
    user: User,
    make_webhook: Callable[..., OurWebhook],
    receiver: HttpReceiver,
    queue: Queue,
    notes: Path,
) -> None:
    make_webhook(url=receiver.url, events=["project.created"])
    receiver.behaviour = Behaviour(delay_seconds=3)
    job = queue.enqueue_call(product_jobs.work, (str(notes), 1))
    with worker() as process:
        wait_until(lambda: lines(notes) == ["started"])
        Project.objects.create(owner=user, name="P")
        receiver.wait_for(1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0

    assert job.get_status() == JobStatus.FINISHED
    assert Delivery.objects.get().status == "SUCCESS"


@pytest.mark.parametrize(
    ("retry", "status"), [(None, JobStatus.FAILED), (Retry(max=2), JobStatus.QUEUED)]
)
def test_second_signal_ends_the_job_in_rq_s_books(
    queue: Queue, notes: Path, retry: Retry | None, status: JobStatus
) -> None:
    job = queue.enqueue_call(product_jobs.work, (str(notes), 600), timeout=900, retry=retry)
    with worker() as process:
        wait_until(lambda: lines(notes) == ["started"])
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: not WorkerHeartbeat.objects.exists())
        # Of two in quick succession the second does not count.
        while process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try_wait(process)

    assert process.returncode == 0
    assert lines(notes) == ["started"]
    assert job.get_status() == status
    assert (job.id in queue.job_ids) == (status == JobStatus.QUEUED)
    assert (job.id in queue.failed_job_registry) == (status == JobStatus.FAILED)
    assert len(queue.started_job_registry) == 0


def try_wait(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(1.2)
    except subprocess.TimeoutExpired:
        return


def test_stop_does_not_wait_longer_than_the_job_may_take(queue: Queue, notes: Path) -> None:
    job = queue.enqueue_call(product_jobs.work, (str(notes), 600), timeout=1)
    with worker() as process:
        wait_until(lambda: lines(notes) == ["started"])
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0

    assert job.get_status() == JobStatus.FAILED


@pytest.mark.parametrize("queues", [(), ("webhooks", "default")])
def test_idle_worker_stops_and_says_goodbye(client: redis.Redis, queues: tuple[str, ...]) -> None:
    with worker("--name", "w", *queues, WEBHOOKS_QUEUE="webhooks") as process:
        wait_for_heartbeats(1)
        wait_until(lambda: client.hget("rq:worker:w", "state") == b"idle")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0

    assert client.hexists("rq:worker:w", "death")
    assert client.scard("rq:workers") == 0


def test_name_of_a_killed_worker_can_be_used_again(
    client: redis.Redis, queue: Queue, notes: Path
) -> None:
    with worker("--name", "w") as first:
        wait_until(lambda: client.hget("rq:worker:w", "state") == b"idle")
        first.send_signal(signal.SIGKILL)
        first.wait()

    with worker("--name", "w"):
        queue.enqueue_call(product_jobs.note, (str(notes),))
        wait_until(lambda: lines(notes) == ["ran"])


# Whose job it is.


def pickled(queue: Queue, notes: str) -> Job:
    return Queue(queue.name, connection=queue.connection).enqueue_call(product_jobs.note, (notes,))


def pickled_meta(queue: Queue, notes: str) -> Job:
    stock = Queue(queue.name, connection=queue.connection)
    return stock.enqueue_call(product_jobs.note, (notes,), meta={"tenant": 1})


def of_another_program(queue: Queue, notes: str) -> Job:
    return queue.enqueue_call("their_program.tasks.run", (notes,))


def system(queue: Queue, notes: str) -> Job:
    return queue.enqueue_call("os.system", (f"echo ran >> {notes}",))


def method(queue: Queue, notes: str) -> Job:
    job = queue.create_job("tests.webhooks.product_jobs.note", (notes,))
    job.data = json.dumps(["format", "{0}", [notes], {}]).encode()
    return queue.enqueue_job(job)


def callback(queue: Queue, notes: str) -> Job:
    return queue.enqueue_call(product_jobs.note, (notes,), on_success=Callback("os.system"))


def rq_webhook(queue: Queue, notes: str) -> Job:
    inside = Webhook("http://127.0.0.1:9/", "finished")
    return queue.enqueue_call(product_jobs.note, (notes,), webhooks=[inside])


def no_name(queue: Queue, notes: str) -> Job:
    job = queue.create_job("tests.webhooks.product_jobs.note", (notes,))
    job.data = json.dumps([["os", "system"], None, [notes], {}]).encode()
    return queue.enqueue_job(job)


def no_serializer(queue: Queue, notes: str) -> Job:
    job = queue.create_job("tests.webhooks.product_jobs.note", (notes,))
    job.data = b"\xff\x00 neither"
    return queue.enqueue_job(job)


OTHERS = [
    pickled, pickled_meta, of_another_program, system, method, callback, rq_webhook, no_name,
    no_serializer,
]  # fmt: skip


@pytest.mark.parametrize("make", OTHERS)
def test_job_of_others_is_left_on_the_queue(
    make: Callable[[Queue, str], Job], queue: Queue, client: redis.Redis, notes: Path
) -> None:
    foreign = make(queue, str(notes))
    before = client.hgetall(foreign.key)
    ours = queue.enqueue_call(product_jobs.note, (str(notes), "ours"))

    with worker("--burst") as process:
        assert process.wait(30) == 0

    assert lines(notes) == ["ours"]
    assert ours.get_status() == JobStatus.FINISHED
    assert client.hgetall(foreign.key) == before
    assert queue.job_ids == [foreign.id]
    assert client.llen(queue.intermediate_queue_key) == 0


def test_stock_worker_runs_what_ours_has_left(queue: Queue, notes: Path) -> None:
    job = pickled(queue, str(notes))
    with worker("--burst") as process:
        assert process.wait(30) == 0

    StockWorker([queue.name], connection=queue.connection).work(burst=True)

    assert lines(notes) == ["ran"]
    assert job.get_status() == JobStatus.FINISHED


def test_jobs_of_others_cost_little_and_hold_nothing_up(
    user: User,
    make_webhook: Callable[..., OurWebhook],
    receiver: HttpReceiver,
    queue: Queue,
    client: redis.Redis,
    notes: Path,
) -> None:
    make_webhook(url=receiver.url, events=["project.created"])
    foreign = {pickled(queue, str(notes)).id for _ in range(3)}
    with worker():
        wait_for_heartbeats(1)
        client.config_resetstat()
        for number in range(1, 6):
            queue.enqueue_call(product_jobs.note, (str(notes), str(number)))
            Project.objects.create(owner=user, name="P")
            receiver.wait_for(number)
            wait_until(lambda number=number: len(lines(notes)) == number)  # type: ignore[misc]
        statistics: Any = client.info("commandstats")
        wait_until(lambda: set(queue.job_ids) == foreign)

    # A round takes four pops and then a second of rest.
    assert statistics["cmdstat_blmove"]["calls"] < 100


def test_abandoned_job_s_callback_must_be_declared_too(
    queue: Queue, client: redis.Redis, notes: Path
) -> None:
    evil, good = (
        queue.enqueue_call(product_jobs.work, (str(notes), 600), on_failure=Callback(function))
        for function in ("subprocess.getoutput", f"{MODULE}.note_failure")
    )
    with worker() as process:
        wait_until(lambda: lines(notes) == ["started"] or notes.exists())
        process.send_signal(signal.SIGKILL)
        process.wait()
    # RQ would wait for a minute more than the job may take.
    for job in (evil, good):
        job.set_status(JobStatus.STARTED)
    client.delete(queue.key, queue.started_job_registry.key)
    client.zadd(queue.started_job_registry.key, {f"{job.id}:x": 1 for job in (evil, good)})
    client.delete(queue.registry_cleaning_key)

    with worker("--burst") as process:
        assert process.wait(30) == 0

    assert "failure noted" in lines(notes)
    assert {job.get_status() for job in (evil, good)} == {JobStatus.FAILED}


# What is declared.


@pytest.fixture
def app_module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module of an installed app with a job and a plain function."""
    module = ModuleType("projects.chores")
    source = "def plain(): pass\ndef chore(): pass\nimport os\n"
    exec(source, module.__dict__)  # noqa: S102
    django_rq_job(module.chore)
    monkeypatch.setitem(sys.modules, "projects.chores", module)
    return module


def test_decorated_function_of_an_installed_app_is_declared(app_module: ModuleType) -> None:
    assert find_declared("projects.chores.chore") is app_module.chore


@pytest.mark.parametrize(
    "name",
    [
        "projects.chores.plain",
        "projects.chores.os",
        "projects.chores.absent",
        "projects.chores.chore.delay",
        "projects.chores.os.system",
        "projects.models.User.objects.create_superuser",
        "projects.models.User",
        "tests.webhooks.product_jobs.note",
        "webhooks.jobs.dispatch",
        "builtins.exec",
        "os.system",
        "system",
        "",
    ],
)
def test_nothing_else_is_declared(app_module: ModuleType, name: str) -> None:
    with pytest.raises((JobNotDeclaredError, ImportError)):
        find_declared(name)


def test_nothing_is_imported_because_a_job_names_it() -> None:
    assert "antigravity" not in sys.modules

    with pytest.raises(JobNotDeclaredError):
        find_declared("antigravity.geohash")

    assert "antigravity" not in sys.modules


def test_listed_module_declares_what_it_defines(settings: Settings) -> None:
    settings.WEBHOOKS_JOB_MODULES = [MODULE]

    assert find_declared(f"{MODULE}.note") is product_jobs.note
    for name in ("subprocess", "Path", "time"):
        with pytest.raises(JobNotDeclaredError):
            find_declared(f"{MODULE}.{name}")
