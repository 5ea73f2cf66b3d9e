"""The processes of a chaos run: workers, a web process, producers, and the servers under them."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from django.db import connection

from config.embedded import die_with_parent
from config.services import BASE_DIR
from tests.chaos.clock import Clock
from tests.chaos.disk import Disk
from tests.chaos.postgres import Postgres
from tests.chaos.receiver import ADDRESSES
from tests.workers import answers, free_port, wait_for_heartbeats, wait_until
from webhooks.models import Webhook, WorkerHeartbeat

HOST = "receiver.chaos.test"
SITE = Path(__file__).with_name("site")
START_SECONDS = 120
"""On a busy machine, with nothing compiled yet."""
TIMEOUT_SECONDS = 2
"""Too short for an answer that drips: nothing counts as received that the receiver did not mean."""
SLOW_TIMEOUT_SECONDS = 25


@dataclass
class Span:
    """From before a change was made until after it was made; Unix seconds."""

    began_at: float
    ended_at: float


@dataclass
class Recipient:
    """A webhook as this run registered it, beside whatever the product stores of it."""

    path: str
    """At the receiver; tells one webhook from another."""
    owner: str | None
    """None for the platform's, which hears of everybody."""
    patterns: list[str]
    ordered: bool
    created: Span
    secrets: list[tuple[float, str]]
    """Each secret that it ever had, and when it was certain to be the newest."""
    webhook: Webhook
    off: list[Span] = field(default_factory=list)
    """When it was switched off and on again, by turns."""
    deleted: Span | None = None

    def wants(self, event_type: str, owner: str) -> bool:
        """Say whether it subscribes to such events of this owner."""
        is_its_own = self.owner is None or self.owner == owner
        return is_its_own and any(
            pattern in ("*", event_type)
            or (pattern.endswith(".*") and event_type.startswith(pattern[:-1]))
            for pattern in self.patterns
        )


@dataclass
class Servers:
    """What a run owns beside its processes."""

    postgres: Postgres
    disk: Disk
    database_clock: Clock | None
    worker_clock: Clock | None
    folder: Path
    """For the causes and the names."""


class World:
    """Workers and a web process that are started again when they end, producers and a client."""

    def __init__(
        self,
        seed: int,
        worker_count: int,
        servers: Servers,
        recipients: list[Recipient],
        token: str,
    ) -> None:
        """`token` is the client's, for the HTTP API."""
        self.seed = seed
        self.servers = servers
        self.recipients = recipients
        self.worker_count = worker_count
        self.dice = random.Random(seed)
        self.address_moves: list[tuple[float, str]] = []
        self._token = token
        self._port = str(free_port())
        self._log = (BASE_DIR / "var" / "chaos.log").open("wb")
        self._generation = 0
        self._workers: list[subprocess.Popen[bytes]] = []
        self._web: subprocess.Popen[bytes] | None = None
        self._producers: list[subprocess.Popen[bytes]] = []
        self._keeping = threading.Lock()
        """Held while processes are started or ended on purpose."""
        self._is_over = threading.Event()
        self.move_name()

    # The receiver's name.

    @property
    def _names(self) -> Path:
        return self.servers.folder / "names.json"

    def move_name(self) -> None:
        """Let the receiver's name mean its other address; the old one goes on answering."""
        address = ADDRESSES[len(self.address_moves) % len(ADDRESSES)]
        fresh = self._names.with_suffix(".new")
        fresh.write_text(json.dumps({HOST: address}))
        fresh.rename(self._names)
        self.address_moves.append((time.time(), address))

    # Processes.

    @property
    def causes(self) -> list[Path]:
        """The files that the producers write."""
        return sorted(self.servers.folder.glob("causes-*.jsonl"))

    def start(self) -> None:
        """Start everything; returns when all of it is at work."""
        self._start_all()
        self._wait_until_all_work()
        threading.Thread(target=self._keep, daemon=True).start()

    def _start_all(self) -> None:
        self._generation += 1
        self._workers = [self._spawn_worker() for _ in range(self.worker_count)]
        self._web = self._spawn_web()
        seed = self.seed * 1000 + self._generation * 10
        owners = sorted({r.owner for r in self.recipients if r.owner is not None})
        client = [f"http://127.0.0.1:{self._port}", self._token, self._causes_file(3), *owners]
        self._producers = [
            self._spawn("-m", "tests.chaos.producer", str(seed + 1), self._causes_file(1)),
            self._spawn("-m", "tests.chaos.producer", str(seed + 2), self._causes_file(2)),
            self._spawn("-m", "tests.chaos.client", str(seed + 3), *client),
        ]

    def _wait_until_all_work(self) -> None:
        pids = [worker.pid for worker in self._workers]
        files = [Path(self._causes_file(number)) for number in (1, 2, 3)]
        wait_until(
            lambda: (
                WorkerHeartbeat.objects.filter(pid__in=pids).count() == len(pids)
                and answers(int(self._port))
                and all(file.exists() and file.stat().st_size for file in files)
            ),
            START_SECONDS,
        )

    def _causes_file(self, number: int) -> str:
        return str(self.servers.folder / f"causes-{self._generation}-{number}.jsonl")

    def kill_all(self) -> None:
        """End everything that writes to Postgres, at once; start_again() is to follow."""
        self._keeping.acquire()
        assert self._web is not None
        for process in (*self._producers, self._web, *self._workers):
            kill_tree(process)

    def start_again(self) -> None:
        self._start_all()
        self._wait_until_all_work()
        self._keeping.release()

    def stop_producing(self) -> list[int]:
        """End the producers in order and return their exit codes."""
        for process in self._producers:
            process.terminate()
        return [process.wait(60) for process in self._producers]

    def stop(self) -> list[int]:
        """End the workers in order and return their exit codes."""
        wait_for_heartbeats(self.worker_count)
        # From here on nothing is started again.
        self._keeping.acquire()
        for process in self._workers:
            process.terminate()
        exits = [process.wait(60) for process in self._workers]
        self._is_over.set()
        return exits

    def _keep(self) -> None:
        """Start workers again, as whoever runs them in production would."""
        while not self._is_over.wait(0.5):
            with self._keeping:
                for number, process in enumerate(self._workers):
                    if process.poll() is not None:
                        self._workers[number] = self._spawn_worker()
                if self._web is not None and self._web.poll() is not None:
                    self._web = self._spawn_web()
            # To the kernel a process dies with the thread that started it: this one stays.

    def worker(self) -> subprocess.Popen[bytes]:
        return self.dice.choice(self._workers)

    def web(self) -> subprocess.Popen[bytes]:
        assert self._web is not None
        return self._web

    def recipient(self) -> Recipient:
        """Return a webhook at random that stays until the end."""
        return self.dice.choice([r for r in self.recipients if r.deleted is None])

    def _spawn_worker(self) -> subprocess.Popen[bytes]:
        clock = self.servers.worker_clock
        environment = {"CHAOS_NAMES": str(self._names), "PYTHONPATH": str(SITE)}
        environment |= clock.environment if clock else {}
        return self._spawn("manage.py", "rqworker", **environment)

    def _spawn_web(self) -> subprocess.Popen[bytes]:
        return self._spawn("manage.py", "runserver", "--noreload", f"127.0.0.1:{self._port}")

    def _spawn(self, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=BASE_DIR,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            # Nothing of a run outlives it, however it ends.
            preexec_fn=lambda: die_with_parent(signal.SIGKILL),
        )


def tree(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Return a process and what it has started; nothing where it has ended."""
    try:
        root = psutil.Process(process.pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    for member in tree(process):
        member.kill()
    process.wait()


def forget_connection() -> None:
    """Let the run's own connection be made anew: the server behind it was replaced."""
    connection.close()
