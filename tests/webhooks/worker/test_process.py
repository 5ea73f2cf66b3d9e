"""A worker as a process: signals, the end of a pool, orphans, a stop without servers."""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from config.embedded import die_with_parent
from config.services import BASE_DIR
from projects.models import User
from tests.webhooks import product_jobs
from tests.webhooks.history import trigger
from tests.webhooks.postgres.test_faults import disk_full, read_only
from tests.webhooks.postgres_proxy import PostgresProxy
from tests.workers import (
    black_hole,
    environment,
    running,
    running_worker,
    searched_log,
    wait_for_heartbeats,
    wait_until,
)
from webhooks.models import Delivery, Webhook, WorkerHeartbeat
from webhooks.outbox import hints, valkey
from webhooks.workbench.receiver import Behaviour, HttpReceiver

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("empty_valkey")]

PR_SET_CHILD_SUBREAPER = 36


@pytest.fixture
def webhook(make_webhook: Callable[..., Webhook], receiver: HttpReceiver) -> Webhook:
    return make_webhook(url=receiver.url, events=["project.deleted"])


@contextmanager
def running_pool(workers: int = 2) -> Iterator[subprocess.Popen[bytes]]:
    command = ["manage.py", "rqworker-pool", "--num-workers", str(workers)]
    with searched_log() as log, running(*command, stdout=log, stderr=log) as pool:
        wait_for_heartbeats(workers)
        yield pool


# Signals.


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGQUIT])
def test_hangup_and_quit_finish_requests_in_flight(
    user: User, webhook: Webhook, receiver: HttpReceiver, number: signal.Signals
) -> None:
    receiver.behaviour = Behaviour(delay_seconds=1)
    with running_worker() as worker:
        wait_for_heartbeats(1)
        trigger(user, 3)
        receiver.wait_for(1)
        worker.send_signal(number)
        assert worker.wait(20) == 0

    assert Delivery.objects.filter(status="SUCCESS").count() == len(receiver.requests)
    assert not Delivery.objects.filter(status="SENDING").exists()
    assert not WorkerHeartbeat.objects.exists()


def test_hangup_is_ignored_under_nohup(
    user: User, webhook: Webhook, receiver: HttpReceiver
) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with running_worker() as worker:
            wait_for_heartbeats(1)
            worker.send_signal(signal.SIGHUP)
            trigger(user, 1)
            receiver.wait_for(1)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_user_signals_change_nothing(user: User, webhook: Webhook, receiver: HttpReceiver) -> None:
    with running_worker() as worker:
        wait_for_heartbeats(1)
        worker.send_signal(signal.SIGUSR1)
        worker.send_signal(signal.SIGUSR2)
        trigger(user, 1)
        receiver.wait_for(1)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(20) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_pool_ends_its_workers_in_order(number: signal.Signals) -> None:
    with running_pool() as pool:
        pool.send_signal(number)
        assert pool.wait(30) == 0

    assert not WorkerHeartbeat.objects.exists()


def test_pool_survives_user_signals() -> None:
    with running_pool() as pool:
        pool.send_signal(signal.SIGUSR1)
        pool.send_signal(signal.SIGUSR2)
        with pytest.raises(subprocess.TimeoutExpired):
            pool.wait(1)


# Parents and orphans.


def test_pool_s_workers_end_in_order_when_it_is_killed(
    user: User, webhook: Webhook, receiver: HttpReceiver
) -> None:
    receiver.behaviour = Behaviour(delay_seconds=2)
    with running_pool() as pool:
        pids = list(WorkerHeartbeat.objects.values_list("pid", flat=True))
        trigger(user, 1)
        receiver.wait_for(1)
        pool.send_signal(signal.SIGKILL)
        pool.wait()
        wait_for_heartbeats(0)

    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    assert Delivery.objects.get().status == "SUCCESS"


def be_subreaper() -> None:
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    die_with_parent(signal.SIGKILL)


@contextmanager
def given_orphans(*command: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run a manage.py command that adopts orphans; yield the process to wait for, and its id."""
    with searched_log() as log:
        process = subprocess.Popen(
            [sys.executable, "manage.py", *command],
            cwd=BASE_DIR,
            env=environment(WEBHOOKS_JOB_MODULES=product_jobs.__name__),
            stdout=log,
            stderr=log,
            preexec_fn=be_subreaper,
        )
        try:
            yield process, process.pid
        finally:
            process.kill()
            process.wait()


@contextmanager
def process_one(*command: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run the command as process 1 of a namespace, as in a container."""
    unshare = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    is_allowed = (
        shutil.which("unshare")
        and not subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode
    )
    if not is_allowed:
        pytest.skip("no new PID namespace is allowed here")
    with searched_log() as log:
        process = subprocess.Popen(
            [*unshare, sys.executable, "manage.py", *command],
            cwd=BASE_DIR,
            env=environment(WEBHOOKS_JOB_MODULES=product_jobs.__name__),
            stdout=log,
            stderr=log,
            preexec_fn=lambda: die_with_parent(signal.SIGTERM),
        )
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        try:
            wait_until(lambda: bool(children.read_text()))
            yield process, int(children.read_text().split()[0])
        finally:
            process.kill()
            process.wait()


Adopting = Callable[..., AbstractContextManager[tuple[subprocess.Popen[bytes], int]]]


@pytest.mark.parametrize("adopting", [given_orphans, process_one])
@pytest.mark.parametrize("command", [("rqworker",), ("rqworker-pool", "--num-workers", "1")])
def test_orphans_are_waited_for_and_exit_codes_of_others_are_not_taken(
    adopting: Adopting, command: tuple[str, ...]
) -> None:
    queue = hints.make_queue(valkey.connect(5))
    orphan = queue.enqueue_call(product_jobs.is_orphan_waited_for)
    code = queue.enqueue_call(product_jobs.exit_code_of_false)

    with adopting(*command) as (process, pid):
        wait_until(lambda: code.is_finished or code.is_failed, 30)
        os.kill(pid, signal.SIGTERM)
        assert process.wait(30) == 0

    assert code.return_value() == 1
    assert orphan.return_value() is True
    assert not WorkerHeartbeat.objects.exists()


def test_exit_code_and_death_pass_through_process_one() -> None:
    with process_one("rqworker", "--burst") as (process, _):
        assert process.wait(30) == 0
    with process_one("rqworker", "--no-such-option") as (process, _):
        assert process.wait(30) == 2


def test_worker_ends_with_the_process_that_waits_for_it() -> None:
    with given_orphans("rqworker") as (process, _):
        wait_for_heartbeats(1)
        process.send_signal(signal.SIGKILL)
        process.wait()
        wait_for_heartbeats(0)


# Stopping without servers.


@pytest.mark.parametrize("is_frozen", [False, True])
def test_stop_does_not_wait_for_a_postgres_that_is_away(
    user: User, webhook: Webhook, receiver: HttpReceiver, is_frozen: bool
) -> None:
    receiver.behaviour = Behaviour(delay_seconds=1)
    with PostgresProxy() as proxy, running_worker(DATABASE_URL=proxy.url) as worker:
        wait_for_heartbeats(1)
        trigger(user, 3)
        receiver.wait_for(1)
        if is_frozen:
            proxy.freeze()
        else:
            proxy.shut()
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(25) == 0

    # It is found dead, with what it held.
    assert WorkerHeartbeat.objects.count() == 1
    assert Delivery.objects.filter(status="SENDING").exists()


@pytest.mark.parametrize("fault", [disk_full, read_only])
def test_stop_does_not_wait_for_a_postgres_that_records_nothing(
    user: User,
    webhook: Webhook,
    receiver: HttpReceiver,
    fault: Callable[[], AbstractContextManager[None]],
) -> None:
    receiver.behaviour = Behaviour(delay_seconds=1)
    with running_worker() as worker:
        wait_for_heartbeats(1)
        trigger(user, 3)
        receiver.wait_for(1)
        with fault():
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(25) == 0

    assert WorkerHeartbeat.objects.count() == 1


def test_idle_worker_stops_without_postgres() -> None:
    with PostgresProxy() as proxy, running_worker(DATABASE_URL=proxy.url) as worker:
        wait_for_heartbeats(1)
        proxy.freeze()
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(25) == 0


def test_short_outage_of_postgres_costs_a_stop_no_duplicate(
    user: User, webhook: Webhook, receiver: HttpReceiver
) -> None:
    receiver.behaviour = Behaviour(delay_seconds=1)
    with running_worker() as worker:
        wait_for_heartbeats(1)
        trigger(user, 3)
        receiver.wait_for(3)
        worker.send_signal(signal.SIGTERM)
        with read_only():
            receiver.behaviour = Behaviour()
        assert worker.wait(25) == 0

    assert Delivery.objects.filter(status="SUCCESS").count() == 3
    assert not WorkerHeartbeat.objects.exists()


def test_stop_does_not_wait_for_a_valkey_that_hangs() -> None:
    with black_hole() as silent, running_worker(REDIS_URL=f"redis://{silent}/0") as worker:
        wait_for_heartbeats(1)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(20) == 0

    assert not WorkerHeartbeat.objects.exists()


def test_job_in_progress_is_waited_for_without_postgres(tmp_path: Any) -> None:
    queue = hints.make_queue(valkey.connect(5))
    notes = tmp_path / "notes"
    job = queue.enqueue_call(product_jobs.work, (str(notes), 15))
    declared = product_jobs.__name__
    with (
        PostgresProxy() as proxy,
        running_worker(DATABASE_URL=proxy.url, WEBHOOKS_JOB_MODULES=declared) as worker,
    ):
        wait_until(notes.exists)
        wait_for_heartbeats(1)
        proxy.freeze()
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 0

    assert notes.read_text().split() == ["started", "ended"]
    assert job.is_finished
