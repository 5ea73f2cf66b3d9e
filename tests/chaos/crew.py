"""The processes of a chaos run that are the same wherever they run: kept alive, ended, chosen."""

import random
import signal
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil
from django.db import connection

from tests.chaos.network import Network
from tests.chaos.recipients import Recipient
from tests.workers import wait_for_heartbeats, wait_until
from webhooks.models import WorkerHeartbeat

START_SECONDS = 240
"""On a busy machine, with nothing compiled yet."""
WORK_SECONDS = 0.0, 1.0
"""When a fault strikes a web server, at least and at most, after it has answered its client."""
END_SECONDS = 60

Process = subprocess.Popen[bytes]


class Crew(ABC):
    """Workers and web servers that are started again when they end; producers, clients, a follower.

    Whoever inherits says how each of them is started.
    """

    network: Network
    """Says what the receiver's name means."""
    folder: Path
    """For the causes, the feed and the names."""

    def __init__(self, seed: int, worker_count: int, recipients: list[Recipient]) -> None:
        self.seed = seed
        self.recipients = recipients
        self.worker_count = worker_count
        self.dice = random.Random(seed)
        self.workers: list[Process] = []
        self.webs: list[Process] = []
        self._generation = 0
        self._follower: Process | None = None
        self._producers: list[Process] = []
        self._keeping = threading.Lock()
        """Held while processes are started or ended on purpose."""
        self._is_over = threading.Event()

    # How each is started.

    @abstractmethod
    def spawn_worker(self, number: int) -> Process: ...

    @abstractmethod
    def spawn_web(self, number: int) -> Process: ...

    @abstractmethod
    def spawn_follower(self) -> Process: ...

    @abstractmethod
    def spawn_producers(self, seed: int) -> list[Process]:
        """Each writes its causes to causes_file() of its number, from 1 on. The last ones are the
        HTTP clients, one of each web server."""

    @abstractmethod
    def web_answers(self, number: int) -> bool: ...

    @property
    def web_count(self) -> int:
        return 1

    # Their files.

    @property
    def causes(self) -> list[Path]:
        """The files that the producers write."""
        return sorted(self.folder.glob("causes-*.jsonl"))

    @property
    def feed(self) -> Path:
        """The file that the follower writes."""
        return self.folder / "feed.jsonl"

    def causes_file(self, number: int) -> str:
        return str(self.folder / f"causes-{self._generation}-{number}.jsonl")

    # From start to end.

    def start(self) -> None:
        """Start everything; returns when all of it is at work."""
        self._start_all()
        self._wait_until_all_work()
        threading.Thread(target=self._keep, daemon=True).start()

    def _start_all(self) -> None:
        self._follower = self.spawn_follower()
        # What is caused before the follower knows where the feed begins is nothing it can miss.
        wait_until(lambda: self.feed.exists() and self.feed.stat().st_size > 0, START_SECONDS)
        self.workers = [self.spawn_worker(number) for number in range(self.worker_count)]
        self.webs = [self.spawn_web(number) for number in range(self.web_count)]
        self.renew_producers()

    def _wait_until_all_work(self) -> None:
        pids = [worker.pid for worker in self.workers]
        files = [Path(self.causes_file(number + 1)) for number in range(len(self._producers))]
        wait_until(
            lambda: (
                WorkerHeartbeat.objects.filter(pid__in=pids).count() == len(pids)
                and all(map(self.web_answers, range(self.web_count)))
                and all(file.exists() and file.stat().st_size for file in files)
            ),
            START_SECONDS,
        )

    def kill_all(self) -> None:
        """End everything that uses Postgres, at once; start_again() is to follow."""
        self._keeping.acquire()
        for process in self._all():
            kill_tree(process)

    def _all(self) -> list[Process]:
        follower = [self._follower] if self._follower is not None else []
        return [*self._producers, *self.webs, *follower, *self.workers]

    def start_again(self) -> None:
        self._start_all()
        self._wait_until_all_work()
        self._keeping.release()

    def kill_producers(self) -> None:
        """End them at once; renew_producers() is to follow."""
        for process in self._producers:
            kill_tree(process)

    def renew_producers(self) -> None:
        """Start producers that know nothing of what is stored."""
        self._generation += 1
        self._producers = self.spawn_producers(self.seed * 1000 + self._generation * 10)

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
        for name, processes in (("workers", self.workers), ("follower", [self._follower])):
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
                for number, process in enumerate(self.workers):
                    if process.poll() is not None:
                        self.workers[number] = self.spawn_worker(number)
                for number, process in enumerate(self.webs):
                    if process.poll() is not None:
                        self.webs[number] = self.spawn_web(number)
            # To the kernel a process dies with the thread that started it: this one stays.

    # One of them.

    def worker(self) -> Process:
        return self.dice.choice(self.workers)

    def web(self) -> Process:
        """Return a web server that has answered its client, at some moment after.

        Killed before it answers anybody, it could break no promise.
        """
        number = self.dice.randrange(self.web_count)
        before = self._stored_through(number)
        wait_until(lambda: self._stored_through(number) > before, START_SECONDS)
        time.sleep(self.dice.uniform(*WORK_SECONDS))
        return self.webs[number]

    def _stored_through(self, number: int) -> int:
        """Return how many events the client of a web server has seen stored."""
        clients = len(self._producers) - self.web_count
        return Path(self.causes_file(clients + number + 1)).read_text().count('"committed"')

    def recipient(self) -> Recipient:
        """Return a webhook at random that stays until the end."""
        return self.dice.choice([r for r in self.recipients if r.deleted is None])


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
