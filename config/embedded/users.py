"""The side of the processes that use a server: start it if it is not running, wait, release it."""

import fcntl
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from config.embedded.locks import open_lock, try_lock
from config.embedded.places import EmbeddedServiceError, reachable_home
from config.embedded.postgres import DATABASE, postgres_responds
from config.embedded.valkey import valkey_responds

START_SECONDS = 60
ROOT = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True)
class Services:
    """The URLs of the servers of one directory."""

    database_url: str
    redis_url: str


_held: dict[tuple[Path, str], int] = {}


def start_services(directory: Path, *, postgres: bool = True, valkey: bool = True) -> Services:
    """Use the servers of `directory`: start those that are not running, and wait until all respond.

    The servers run until this process and all other users have ended or called release(). Raises
    EmbeddedServiceError with the end of the server's log if one does not start.
    """
    home = reachable_home(directory.resolve())
    if postgres:
        _use(home, "postgres", postgres_responds)
    if valkey:
        _use(home, "valkey", valkey_responds)
    return Services(
        database_url=f"postgres:///{DATABASE}?host={quote(str(home))}&user={DATABASE}",
        redis_url=f"unix://{home / 'valkey.sock'}?db=0",
    )


def release(directory: Path) -> None:
    """Stop using the servers of `directory` before this process ends."""
    home = reachable_home(directory.resolve())
    for key in [key for key in _held if key[0] == home]:
        os.close(_held.pop(key))


def _use(home: Path, service: str, responds: Callable[[Path], bool]) -> None:
    if (home, service) in _held:
        return
    users = open_lock(home, f"{service}.users")
    # This waits for a stopping supervisor, which holds the lock exclusively until its server is gone.
    fcntl.flock(users, fcntl.LOCK_SH)
    _held[home, service] = users
    deadline = time.monotonic() + START_SECONDS
    supervisor: int | None = None
    try:
        while not (_is_ready(home, service) and responds(home)):
            if supervisor is None or _has_ended(supervisor):
                # Several processes may do so at once; only one supervisor gets the server's lock,
                # the others exit.
                supervisor = _spawn_supervisor(home, service)
            if time.monotonic() > deadline:
                raise EmbeddedServiceError(_failure(home, service))
            time.sleep(0.02)
    except BaseException:
        os.close(_held.pop((home, service)))
        raise


def _spawn_supervisor(home: Path, service: str) -> int:
    """Start a supervisor in a session of its own and return its process id."""
    log = home / f"{service}.supervisor.log"
    # subprocess.Popen would warn about a child that outlives it, as a supervisor does.
    return os.posix_spawn(
        sys.executable,
        [sys.executable, "-m", "config.embedded", service, str(home)],
        os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )


def _has_ended(child: int) -> bool:
    return os.waitpid(child, os.WNOHANG) != (0, 0)


def _is_ready(home: Path, service: str) -> bool:
    ready = open_lock(home, f"{service}.ready")
    try:
        return not try_lock(ready, fcntl.LOCK_SH)
    finally:
        os.close(ready)


def _failure(home: Path, service: str) -> str:
    lines = []
    for log in (home / f"{service}.supervisor.log", home / f"{service}.log"):
        if log.exists():
            lines += [f"--- {log}", *log.read_text(errors="replace").splitlines()[-15:]]
    return "\n".join([f"The embedded {service} did not start in {START_SECONDS} s.", *lines])
