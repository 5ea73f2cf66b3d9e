"""Run real workers on the test database."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO

import requests
from django.db import connection

from config.embedded import die_with_parent
from config.services import BASE_DIR
from tests import canary
from tests.servers import stop_listening
from webhooks.models import WorkerHeartbeat


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int, host: str = "127.0.0.1") -> bool:
    """Say whether a server listens on a port, by default of this machine."""
    try:
        socket.create_connection((host, port), 1).close()
    except OSError:
        return False
    return True


def serves(port: int, host: str = "127.0.0.1") -> bool:
    """Say whether a process of the web server answers; its socket listens before any can."""
    try:
        return requests.get(f"http://{host}:{port}/healthz", timeout=1).ok
    except requests.RequestException:
        return False


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def environment(**changes: str) -> dict[str, str]:
    """The test database under its own name: the worker must not deliver from another one."""
    settings = connection.settings_dict
    host = settings["HOST"] or settings["OPTIONS"]["host"]
    user = settings["USER"] or settings["OPTIONS"]["user"]
    url = f"postgres:///{settings['NAME']}?host={host}&user={user}"
    return os.environ | {"DATABASE_URL": url} | changes


@contextmanager
def running(
    *arguments: str, stdout: int | IO[bytes], stderr: IO[bytes] | None = None, **changes: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run Python until the block ends, which kills it; `changes` go to its environment."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=BASE_DIR,
        env=environment(**changes),
        stdout=stdout,
        stderr=stderr,
        # It would keep the test database from the next run.
        preexec_fn=lambda: die_with_parent(signal.SIGKILL),
    )
    with killed_at_end(process):
        yield process


@contextmanager
def killed_at_end(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Kill a process when the block ends."""
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def running_worker(
    *arguments: str, notices_deaths_early: bool = False, **changes: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker until the block ends, which kills it; `changes` go to its environment."""
    program = ["manage.py"]
    if notices_deaths_early:
        program = ["-m", "tests.chaos.faulty_worker", "nowhere"]
    command = [*program, "rqworker", *arguments]
    with searched_log() as log, running(*command, stdout=log, stderr=log, **changes) as process:
        yield process


@contextmanager
def searched_log() -> Iterator[IO[bytes]]:
    """A file for the log of a process, searched for secrets when the block ends."""
    with tempfile.TemporaryFile() as log:
        yield log
        log.seek(0)
        for line in log.read().decode(errors="replace").splitlines():
            canary.note("log of a worker", line)
            # For whoever reads why the test failed.
            print(line, file=sys.stderr)  # noqa: T201


def wait_for_heartbeats(count: int) -> None:
    wait_until(lambda: WorkerHeartbeat.objects.count() == count)


@contextmanager
def black_hole() -> Iterator[str]:
    """The address of a server that accepts connections and never answers."""
    listener = socket.create_server(("127.0.0.1", 0))
    held: list[socket.socket] = []

    def accept() -> None:
        while True:
            try:
                held.append(listener.accept()[0])
            except OSError:
                return

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        stop_listening(listener, thread)
        for connection_ in held:
            connection_.close()
