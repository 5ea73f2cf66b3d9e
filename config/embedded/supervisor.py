"""The supervisor: one process per server, which runs it as long as it has users."""

import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from config.embedded.locks import open_lock, try_lock
from config.embedded.postgres import start_postgres
from config.embedded.processes import STOP_SECONDS
from config.embedded.valkey import start_valkey

MAX_QUICK_DEATHS = 5
"""How often a supervisor restarts a server that dies within QUICK_SECONDS each time."""
QUICK_SECONDS = 5


def supervise(service: str, home: Path) -> None:
    """Run the server as long as it has users; return at once if it has another supervisor."""
    server_lock = open_lock(home, f"{service}.server")
    if not try_lock(server_lock, fcntl.LOCK_EX):
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    start = start_postgres if service == "postgres" else start_valkey
    users = open_lock(home, f"{service}.users")
    quick_deaths = 0
    while quick_deaths < MAX_QUICK_DEATHS and not try_lock(users, fcntl.LOCK_EX):
        started_at = time.monotonic()
        server = start(home)
        with stopping(server, service), _marked_ready(home, service):
            if _wait_for_last_user(users, server):
                return
        quick_deaths = quick_deaths + 1 if time.monotonic() - started_at < QUICK_SECONDS else 0


@contextmanager
def stopping(server: subprocess.Popen[bytes], service: str) -> Iterator[subprocess.Popen[bytes]]:
    try:
        yield server
    finally:
        if server.poll() is None:
            # SIGINT is Postgres' fast shutdown, which does not wait for clients.
            server.send_signal(signal.SIGINT if service == "postgres" else signal.SIGTERM)
            try:
                server.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


@contextmanager
def _marked_ready(home: Path, service: str) -> Iterator[None]:
    """Hold the lock that marks the server as ready; the kernel frees it if this process dies."""
    lock = open_lock(home, f"{service}.ready")
    try:
        # This waits only for a user in _is_ready(), which holds the lock for an instant.
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _wait_for_last_user(users: int, server: subprocess.Popen[bytes]) -> bool:
    """Wait until the last user is gone or the server died.

    Returns True, with the users' lock, if the last user is gone, and False if the server died.
    """
    server_died = signal.SIGCHLD
    signal.signal(server_died, _interrupt)
    try:
        if server.poll() is not None:
            return False
        fcntl.flock(users, fcntl.LOCK_EX)
    except InterruptedError:
        return False
    else:
        return True
    finally:
        signal.signal(server_died, signal.SIG_DFL)


def _interrupt(signum: int, frame: object) -> None:
    raise InterruptedError
