"""Valkey, Postgres, its disk and the clocks break; another Postgres takes over."""

import signal
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import psutil
import psycopg
import redis
from django.conf import settings

from tests.chaos.clock import Clock
from tests.chaos.crew import forget_connection
from tests.chaos.faults import Fault, Kind, Stage
from tests.chaos.kinds.held import public

CLOCK_STEPS = (-20, 20)
FULL_DISK_SECONDS = (3, 8)


# Valkey.


def kill_valkey(_: Stage, __: Fault) -> None:
    _valkey().kill()


def empty_valkey(_: Stage, __: Fault) -> None:
    redis.Redis.from_url(settings.REDIS_URL, socket_timeout=5).flushall()


def stop_valkey_for_a_while(stage: Stage, _: Fault) -> None:
    valkey = _valkey()
    valkey.suspend()
    time.sleep(stage.dice.uniform(2, 6))
    valkey.resume()


def _valkey() -> psutil.Process:
    socket = urlsplit(settings.REDIS_URL).path
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or [""]
        if command[0].endswith("valkey-server") and socket in command:
            return process
    raise psutil.NoSuchProcess(0, "valkey-server")


# Postgres.


def restart_postgres(stage: Stage, fault: Fault) -> None:
    _replace_server(stage, fault, lambda: _stop_and_start(stage, signal.SIGINT))


def crash_postgres(stage: Stage, fault: Fault) -> None:
    _replace_server(stage, fault, lambda: _stop_and_start(stage, signal.SIGQUIT))


def _stop_and_start(stage: Stage, how: signal.Signals) -> None:
    postgres = stage.world.servers.postgres
    postgres.close()
    postgres.stop(how)
    postgres.start()


def restore_dump(stage: Stage, fault: Fault) -> None:
    """Everything is stopped hard, a younger cluster made of a dump, and started again."""
    stage.world.kill_all()
    try:
        postgres = stage.world.servers.postgres
        postgres.close()
        _terminate_others(postgres.connect)
        _replace_server(stage, fault, postgres.move_by_dump)
    finally:
        stage.world.start_again()
    fault.works_from = time.time()


def promote_standby(stage: Stage, fault: Fault) -> None:
    _replace_server(stage, fault, stage.world.servers.postgres.move_by_promotion)


def _replace_server(stage: Stage, fault: Fault, replace: Callable[[], None]) -> None:
    """Let another server serve, or the same one again.

    What it has forgotten, it forgot before anybody could get to it: only what it does not know
    to be finished can be sent again.
    """
    postgres = stage.world.servers.postgres
    forget_connection()
    replace()
    with postgres.connect() as look:
        rows = look.execute("SELECT id FROM webhooks_delivery WHERE finished_at IS NULL")
        fault.may_repeat = public(row[0] for row in rows)
    postgres.open()
    # Requests that were ready went out while nobody could take them back.
    fault.repeats_until = time.time() + 2
    fault.works_from = time.time()


def terminate_connections(stage: Stage, _: Fault) -> None:
    _terminate_others(stage.world.servers.postgres.connect)


def _terminate_others(connect: Callable[[], psycopg.Connection[Any]]) -> None:
    """End all connections to the database but strangers' to others, and wait until they are gone."""
    with connect() as maintenance:
        others = (
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
            " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            " AND datname = current_database()"
        )
        maintenance.execute(others)


def fill_disk(stage: Stage, fault: Fault) -> None:
    """Nothing can be written for some seconds; where Postgres panics, it is started again."""
    postgres, disk = stage.world.servers.postgres, stage.world.servers.disk
    disk.fill()
    until = time.time() + stage.dice.uniform(*FULL_DISK_SECONDS)
    while postgres.is_alive and time.time() < until:
        time.sleep(0.1)
    if postgres.is_alive:
        disk.empty()
        fault.works_from = time.time()
        return
    postgres.close()
    disk.empty()
    _replace_server(stage, fault, postgres.start)


# Clocks.


def step_database_clock(stage: Stage, fault: Fault) -> None:
    _step(stage, fault, stage.world.servers.database_clock)


def step_worker_clock(stage: Stage, fault: Fault) -> None:
    _step(stage, fault, stage.world.servers.worker_clock)


def _step(stage: Stage, fault: Fault, clock: Clock | None) -> None:
    assert clock is not None
    clock.set(stage.dice.choice(CLOCK_STEPS))
    stage.go_on(fault, 5, 20, lambda: clock.set(0))


KINDS = [
    Kind(1, kill_valkey),
    Kind(1, empty_valkey),
    Kind(2, stop_valkey_for_a_while),
    Kind(2, restart_postgres),
    Kind(2, crash_postgres),
    Kind(2, terminate_connections),
    Kind(1, fill_disk, lambda servers: servers.disk.is_own),
    Kind(1, step_database_clock, lambda servers: servers.database_clock is not None),
    Kind(1, step_worker_clock, lambda servers: servers.worker_clock is not None),
    Kind(0, restore_dump),
    Kind(0, promote_standby),
]
