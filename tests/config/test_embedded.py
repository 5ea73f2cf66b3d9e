"""Real servers in a directory of the test: shared, stopped after the last user, crash-proof."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psycopg
import pytest

from config.embedded import release, start_services
from config.embedded.places import NOBODY, is_reachable
from config.embedded.postgres import postgres_responds, start_postgres
from config.embedded.supervisor import stopping
from config.embedded.valkey import start_valkey, valkey_responds

ROOT = Path(__file__).resolve().parent.parent.parent
USER_CODE = """
import sys
from functools import partial
from pathlib import Path
from config.embedded import start_services
print(start_services(Path(sys.argv[1]), valkey=False).database_url, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def directory() -> Iterator[Path]:
    # Not tmp_path: its parents are closed to other users, and its name may be too long for a socket.
    with tempfile.TemporaryDirectory(prefix="embedded-", ignore_cleanup_errors=True) as name:
        path = Path(name)
        path.chmod(0o755)
        yield path / "services"
        if (path / "services").exists() and (path / "services").stat().st_uid == os.getuid():
            release(path / "services")
        for service in ("postgres", "valkey"):
            if (path / "services" / f"{service}.server").exists():
                wait_until(partial(is_free, path / "services" / f"{service}.server"))


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


def is_free(lock: Path) -> bool:
    import fcntl

    with lock.open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


@contextmanager
def another_user(directory: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", USER_CODE, str(directory)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def answer_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def server_pid(directory: Path) -> int:
    return int((directory / "pgdata" / "postmaster.pid").read_text().split()[0])


def is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def count_sessions(url: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT count(*) FROM pg_stat_activity").fetchone()
        assert row is not None
        return int(row[0])


def test_two_processes_share_one_server_which_ends_after_the_last(directory: Path) -> None:
    with another_user(directory) as first, another_user(directory) as second:
        assert answer_of(first) == answer_of(second)
        pid = server_pid(directory)
        assert count_sessions(f"postgres:///remotedevai?host={directory}&user=remotedevai") > 0

        first.kill()
        first.wait()
        assert is_alive(pid)

    wait_until(lambda: not is_alive(pid))


def test_both_services_answer_with_real_settings(directory: Path) -> None:
    import redis

    services = start_services(directory)

    with psycopg.connect(services.database_url) as connection:
        rows = connection.execute(
            "SELECT name, setting FROM pg_settings"
            " WHERE name IN ('fsync', 'full_page_writes', 'synchronous_commit') ORDER BY name"
        ).fetchall()
        version = connection.info.server_version
    assert rows == [("fsync", "on"), ("full_page_writes", "on"), ("synchronous_commit", "on")]
    assert version // 10_000 == 18
    client = redis.Redis.from_url(services.redis_url)
    assert client.info()["valkey_version"].startswith("9.")
    client.close()


@pytest.mark.parametrize("victim", ["server", "supervisor"])
def test_start_succeeds_after_a_crash(directory: Path, victim: str) -> None:
    with another_user(directory) as user:
        url = answer_of(user)
        pid = server_pid(directory)
        supervisor = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
        user.kill()
        user.wait()
        killed = pid if victim == "server" else supervisor
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: not is_alive(killed))

    start_services(directory, valkey=False)

    assert count_sessions(url) > 0
    assert server_pid(directory) != pid


def test_server_left_over_from_a_killed_supervisor_is_not_used(directory: Path) -> None:
    import redis

    directory.mkdir()
    with (
        stopping(start_postgres(directory), "postgres") as postgres,
        stopping(start_valkey(directory), "valkey") as valkey,
    ):
        wait_until(lambda: valkey_responds(directory))

        services = start_services(directory)

        assert postgres.poll() is not None
        assert valkey.poll() is not None
    client = redis.Redis.from_url(services.redis_url)
    assert client.info()["process_id"] != valkey.pid
    client.close()
    assert count_sessions(services.database_url) > 0


def test_server_that_dies_in_use_is_started_again(directory: Path) -> None:
    with another_user(directory) as user:
        answer_of(user)
        pid = server_pid(directory)
        os.kill(pid, signal.SIGKILL)

        wait_until(lambda: postgres_responds(directory) and server_pid(directory) != pid)


def test_concurrent_first_start_makes_one_cluster(directory: Path) -> None:
    with another_user(directory) as a, another_user(directory) as b, another_user(directory) as c:
        assert len({answer_of(a), answer_of(b), answer_of(c)}) == 1
        assert not list(directory.glob("pgdata.*"))


def test_half_made_cluster_is_not_used(directory: Path) -> None:
    (directory / "pgdata.123").mkdir(parents=True)

    services = start_services(directory, valkey=False)

    assert count_sessions(services.database_url) > 0


def test_long_path_falls_back_to_a_short_one(directory: Path) -> None:
    long = directory / ("x" * 90)

    services = start_services(long, valkey=False)

    assert str(long) not in services.database_url
    assert count_sessions(services.database_url) > 0
    release(long)


def python_for_everybody() -> str | None:
    """Return a Python of this version that an ordinary user may run, or None."""
    for python in (sys.executable, f"/usr/bin/python{sys.version_info[0]}.{sys.version_info[1]}"):
        path = Path(python)
        if path.exists() and is_reachable(path.resolve(), NOBODY):
            return python
    return None


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
@pytest.mark.skipif(python_for_everybody() is None, reason="no Python that others may run")
def test_ordinary_user_runs_everything_as_itself(directory: Path) -> None:
    directory.parent.chmod(0o777)
    process = subprocess.run(
        [str(python_for_everybody()), "-c", USER_CODE, str(directory)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": str(Path(psycopg.__file__).parent.parent),
        },
    )

    assert process.returncode == 0, process.stderr
    assert (directory / "pgdata").stat().st_uid == NOBODY
    wait_until(lambda: not (directory / "pgdata" / "postmaster.pid").exists())
