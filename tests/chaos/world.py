"""The processes of a chaos run: workers, the web server, producers, and the servers under them."""

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from django.db import connection

from config.embedded import die_with_parent
from config.serve import command
from config.services import BASE_DIR
from tests.chaos.clock import Clock
from tests.chaos.disk import Disk
from tests.chaos.network import Network, Way
from tests.chaos.postgres import Postgres
from tests.chaos.recipients import Recipient
from tests.workers import answers, free_port, wait_for_heartbeats, wait_until
from webhooks.models import WorkerHeartbeat

SITE = Path(__file__).with_name("site")
START_SECONDS = 240
"""On a busy machine, with nothing compiled yet."""
END_SECONDS = 60
NOTHING: Mapping[str, str] = {}
WEB_PROCESSES = 2
WEB_THREADS = 8
"""Each keeps a connection to Postgres, which has a hundred."""


@dataclass
class Servers:
    """What a run owns beside its processes."""

    postgres: Postgres
    valkey: Path | None
    """Its socket; None where there is no Valkey."""
    disk: Disk
    database_clock: Clock | None
    worker_clock: Clock | None
    folder: Path
    """For the causes, the feed and the names."""
    certificates: Path
    """The folder with those of the receiver."""


class World:
    """Workers and a web server that are started again when they end; producers, a client, a follower.

    All in production mode, over TCP: each worker by a way of its own, so that it can be cut off.
    """

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
        self.network = Network(servers.folder / "names.json")
        self._token = token
        self._port = free_port()
        self._log = (BASE_DIR / "var" / "chaos.log").open("wb")
        self._generation = 0
        self._workers: list[subprocess.Popen[bytes]] = []
        self._web: subprocess.Popen[bytes] | None = None
        self._follower: subprocess.Popen[bytes] | None = None
        self._producers: list[subprocess.Popen[bytes]] = []
        self._keeping = threading.Lock()
        """Held while processes are started or ended on purpose."""
        self._is_over = threading.Event()
        ways = [self.network.make_way(servers.postgres.address) for _ in range(worker_count + 1)]
        *self._ways, self._way = ways
        self._valkey_url = (
            os.environ["REDIS_URL"]
            if servers.valkey is None
            else self.network.make_way(servers.valkey).redis_url
        )

    # Processes.

    @property
    def causes(self) -> list[Path]:
        """The files that the producers write."""
        return sorted(self.servers.folder.glob("causes-*.jsonl"))

    @property
    def feed(self) -> Path:
        """The file that the follower writes."""
        return self.servers.folder / "feed.jsonl"

    def start(self) -> None:
        """Start everything; returns when all of it is at work."""
        self._start_all()
        self._wait_until_all_work()
        threading.Thread(target=self._keep, daemon=True).start()

    def _start_all(self) -> None:
        self._generation += 1
        self._follower = self._spawn("-m", "tests.chaos.follower", str(self.feed))
        # What is caused before the follower knows where the feed begins is nothing it can miss.
        wait_until(lambda: self.feed.exists() and self.feed.stat().st_size > 0, START_SECONDS)
        self._workers = [self._spawn_worker(way) for way in self._ways]
        self._web = self._spawn_web()
        seed = self.seed * 1000 + self._generation * 10
        owners = sorted({r.owner for r in self.recipients if r.owner is not None})
        client = [f"http://localhost:{self._port}", self._token, self._causes_file(3), *owners]
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
                and answers(self._port)
                and all(file.exists() and file.stat().st_size for file in files)
            ),
            START_SECONDS,
        )

    def _causes_file(self, number: int) -> str:
        return str(self.servers.folder / f"causes-{self._generation}-{number}.jsonl")

    def kill_all(self) -> None:
        """End everything that uses Postgres, at once; start_again() is to follow."""
        self._keeping.acquire()
        for process in self._all():
            kill_tree(process)

    def _all(self) -> list[subprocess.Popen[bytes]]:
        single = [process for process in (self._web, self._follower) if process is not None]
        return [*self._producers, *single, *self._workers]

    def start_again(self) -> None:
        self._start_all()
        self._wait_until_all_work()
        self._keeping.release()

    def stop_producing(self) -> list[int]:
        """End the producers in order and return their exit codes."""
        return _end(self._producers)

    def stop(self) -> list[str]:
        """End the workers and the follower in order; returns what is wrong about how they end."""
        problems = []
        try:
            wait_for_heartbeats(self.worker_count)
        except AssertionError:
            lives = WorkerHeartbeat.objects.values_list("pid", "declared_dead_at")
            problems.append(f"{self.worker_count} workers, but the heartbeats {list(lives)}")
        # From here on nothing is started again; the thread that keeps them stays all the same.
        self._keeping.acquire()
        for name, processes in (("workers", self._workers), ("follower", [self._follower])):
            exits = _end([process for process in processes if process is not None])
            if any(exits):
                problems.append(f"{name} ended with {exits} after SIGTERM")
        return problems

    def close(self) -> None:
        """End what is left, however far the run came."""
        self._is_over.set()
        for process in self._all():
            kill_tree(process)
        self.network.close()

    def _keep(self) -> None:
        """Start workers again, as whoever runs them in production would."""
        while not self._is_over.wait(0.5):
            with self._keeping:
                for number, process in enumerate(self._workers):
                    if process.poll() is not None:
                        self._workers[number] = self._spawn_worker(self._ways[number])
                if self._web is not None and self._web.poll() is not None:
                    self._web = self._spawn_web()
            # To the kernel a process dies with the thread that started it: this one stays.

    def worker(self) -> subprocess.Popen[bytes]:
        return self.dice.choice(self._workers)

    def worker_and_way(self) -> tuple[subprocess.Popen[bytes], Way]:
        """Return a worker, and the one way by which it reaches Postgres."""
        return self.dice.choice(list(zip(self._workers, self._ways, strict=True)))

    def web(self) -> subprocess.Popen[bytes]:
        assert self._web is not None
        return self._web

    def recipient(self) -> Recipient:
        """Return a webhook at random that stays until the end."""
        return self.dice.choice([r for r in self.recipients if r.deleted is None])

    def _spawn_worker(self, way: Way) -> subprocess.Popen[bytes]:
        clock = self.servers.worker_clock
        environment = {"CHAOS_NAMES": str(self.network.names), "PYTHONPATH": str(SITE)}
        environment |= clock.environment if clock else {}
        return self._spawn("manage.py", "rqworker", way=way, environment=environment)

    def _spawn_web(self) -> subprocess.Popen[bytes]:
        _, *arguments = command(self._port, processes=WEB_PROCESSES, threads=WEB_THREADS)
        # The server's own processes would outlive it.
        environment = {"CHAOS_ENDS_WITH_PARENT": "1", "PYTHONPATH": str(SITE)}
        return self._spawn(*arguments, environment=environment)

    def _spawn(
        self, *arguments: str, way: Way | None = None, environment: Mapping[str, str] = NOTHING
    ) -> subprocess.Popen[bytes]:
        servers = {
            "DATABASE_URL": (way or self._way).database_url,
            "REDIS_URL": self._valkey_url,
            "PYTHONFAULTHANDLER": "1",
        }
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=BASE_DIR,
            env={**os.environ, **servers, **environment},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            # Nothing of a run outlives it, however it ends.
            preexec_fn=lambda: die_with_parent(signal.SIGKILL),
        )


def _end(processes: list[subprocess.Popen[bytes]]) -> list[int]:
    """End processes in order; -6 stands for one that does not, whose stacks are in the log then."""
    for process in processes:
        process.terminate()
    exits = []
    for process in processes:
        try:
            exits.append(process.wait(END_SECONDS))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)
            exits.append(process.wait())
    return exits


def tree(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Return a process and what it has started; nothing where it has ended."""
    try:
        root = psutil.Process(process.pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    kill_all(tree(process))
    process.wait()


def kill_all(processes: Iterable[psutil.Process]) -> None:
    """Kill those that are still there: some end by themselves when others go."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def forget_connection() -> None:
    """Let the run's own connection be made anew: the server behind it was replaced."""
    connection.close()
