"""The processes of a chaos run, and what breaks them."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import redis
from django.conf import settings
from django.db import Error, connection

from config.embedded import die_with_parent
from config.services import BASE_DIR
from tests.workers import free_port, wait_for_heartbeats
from webhooks import service
from webhooks.models import Delivery, Webhook, WorkerHeartbeat

TIMEOUT_SECONDS = 2
"""Too short for an answer that drips: nothing counts as received that the receiver did not mean."""
ZOMBIE_SECONDS = 14
"""Longer than the silence after which a worker is declared dead."""


@dataclass(frozen=True)
class Fault:
    """What was broken, and from when to when (Unix seconds)."""

    kind: str
    started_at: float
    ended_at: float
    recovery_seconds: float | None = None


@dataclass
class World:
    """Workers and a web process that are started again when they end, producers, and the servers
    under them all."""

    seed: int
    worker_count: int
    receiver_url: str
    webhooks: list[Webhook]
    secrets: dict[str, list[str]]
    """Every signing secret that each webhook ever had, by its path at the receiver."""
    token: str
    """For the client of the HTTP API."""
    acknowledged: Path
    """Where that client writes down what it was promised."""
    faults: list[Fault] = field(default_factory=list)
    _workers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _web: subprocess.Popen[bytes] | None = None
    _producers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _is_keeping: bool = True
    _keeps_no_more: threading.Event = field(default_factory=threading.Event)
    _is_over: threading.Event = field(default_factory=threading.Event)
    _keeper: threading.Thread | None = None

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)
        self._port = str(free_port())
        self._log = (BASE_DIR / "var" / "chaos.log").open("ab")

    # Processes.

    def start(self) -> None:
        self._workers = [self._spawn_worker() for _ in range(self.worker_count)]
        self._web = self._spawn_web()
        client = [
            str(self.seed),
            f"http://127.0.0.1:{self._port}",
            self.token,
            str(self.acknowledged),
            *map(str, sorted({webhook.owner_id for webhook in self.webhooks}, key=str)),
        ]
        self._producers = [
            self._spawn("-m", "tests.chaos.producer", str(self.seed * 100)),
            self._spawn("-m", "tests.chaos.producer", str(self.seed * 100 + 1)),
            self._spawn("-m", "tests.chaos.client", *client),
        ]
        self._keeper = threading.Thread(target=self._keep, daemon=True)
        self._keeper.start()

    def stop_producing(self) -> list[int]:
        """End the producers in order and return their exit codes."""
        for process in self._producers:
            process.terminate()
        return [process.wait(30) for process in self._producers]

    def stop(self) -> list[int]:
        """End the workers in order and return their exit codes."""
        wait_for_heartbeats(self.worker_count)
        self._is_keeping = False
        self._keeps_no_more.wait()
        for process in self._workers:
            process.terminate()
        exits = [process.wait(60) for process in self._workers]
        self._is_over.set()
        return exits

    def _keep(self) -> None:
        """Start workers again, as whoever runs them in production would."""
        while self._is_keeping:
            for number, process in enumerate(self._workers):
                if process.poll() is not None:
                    self._workers[number] = self._spawn_worker()
            if self._web is not None and self._web.poll() is not None:
                self._web = self._spawn_web()
            time.sleep(0.5)
        self._keeps_no_more.set()
        # To the kernel a process dies with the thread that started it.
        self._is_over.wait()

    def _spawn_worker(self) -> subprocess.Popen[bytes]:
        return self._spawn("manage.py", "rqworker")

    def _spawn_web(self) -> subprocess.Popen[bytes]:
        return self._spawn("manage.py", "runserver", "--noreload", f"127.0.0.1:{self._port}")

    def _spawn(self, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=BASE_DIR,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            # Nothing of a run outlives it, however it ends.
            preexec_fn=lambda: die_with_parent(signal.SIGKILL),
        )

    # Faults.

    def break_something(self) -> Fault:
        """Break one thing at random, mend it where it does not mend itself, and note it."""
        kinds: list[tuple[int, Callable[[], float | None]]] = [
            (6, self._kill_worker),
            (3, self._terminate_worker),
            (2, self._stop_and_continue_worker),
            (2, self._kill_web),
            (2, self._kill_valkey),
            (2, self._empty_valkey),
            (2, self._stop_valkey_for_a_while),
            (2, self._restart_postgres),
            (1, self._crash_postgres),
            (3, self._terminate_connections),
            (2, self._switch_webhook_off_and_on),
            (2, self._rotate_secret),
            (1, self._edit_url),
            (1, self._delete_webhook),
        ]
        weights, actions = zip(*kinds, strict=True)
        action = self.dice.choices(actions, weights)[0]
        started_at = time.time()
        recovery = None
        with suppress(Error, redis.RedisError, psutil.NoSuchProcess):
            recovery = action()
        connection.close()
        fault = Fault(action.__name__.strip("_"), started_at, time.time(), recovery)
        self.faults.append(fault)
        return fault

    def _worker(self) -> subprocess.Popen[bytes]:
        return self.dice.choice(self._workers)

    def _kill_worker(self) -> float | None:
        worker = self._worker()
        held = self._held_by(worker.pid)
        worker.kill()
        return self._seconds_until_taken_back(held)

    def _terminate_worker(self) -> None:
        self._worker().terminate()

    def _stop_and_continue_worker(self) -> float | None:
        worker = self._worker()
        held = self._held_by(worker.pid)
        worker.send_signal(signal.SIGSTOP)
        recovery = self._seconds_until_taken_back(held)
        time.sleep(max(0.0, ZOMBIE_SECONDS - (recovery or 0.0)))
        worker.send_signal(signal.SIGCONT)
        return recovery

    def _held_by(self, pid: int) -> list[object]:
        ids = WorkerHeartbeat.objects.filter(pid=pid).values("id")
        return list(
            Delivery.objects.filter(claimed_by__in=ids).values_list("id", "claimed_by")[:1000]
        )

    def _seconds_until_taken_back(self, held: list[object]) -> float | None:
        """Return after how long nothing of what a dead worker held is marked as held by it."""
        if not held:
            return None
        started_at = time.monotonic()
        ids = [row[0] for row in held]  # type: ignore[index]
        holder = held[0][1]  # type: ignore[index]
        while Delivery.objects.filter(id__in=ids, claimed_by=holder).exists():
            if time.monotonic() - started_at > 60:
                break
            time.sleep(0.1)
        return time.monotonic() - started_at

    def _kill_web(self) -> None:
        if self._web is not None:
            self._web.kill()

    def _valkey(self) -> psutil.Process:
        return _process_named("valkey-server", "chaos-services")

    def _kill_valkey(self) -> None:
        self._valkey().kill()

    def _empty_valkey(self) -> None:
        redis.Redis.from_url(settings.REDIS_URL, socket_timeout=5).flushall()

    def _stop_valkey_for_a_while(self) -> None:
        valkey = self._valkey()
        valkey.suspend()
        time.sleep(self.dice.uniform(2, 6))
        valkey.resume()

    def _postmaster(self) -> int:
        (data,) = (BASE_DIR / "var" / "chaos-services").glob("pgdata")
        return int((data / "postmaster.pid").read_text().split()[0])

    def _restart_postgres(self) -> None:
        # The fast shutdown; the supervisor of the embedded server starts it again.
        os.kill(self._postmaster(), signal.SIGINT)

    def _crash_postgres(self) -> None:
        os.kill(self._postmaster(), signal.SIGQUIT)

    def _terminate_connections(self) -> None:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            )

    def _webhook(self) -> Webhook:
        return Webhook.objects.get(id=self.dice.choice(self.webhooks).id)

    def _switch_webhook_off_and_on(self) -> None:
        webhook = self._webhook()
        service.disable(webhook, "chaos")
        time.sleep(self.dice.uniform(0.5, 3))
        service.enable(webhook, send="all")

    def _rotate_secret(self) -> None:
        webhook = self._webhook()
        service.rotate_secret(webhook)
        self.secrets[_path(webhook)].append(webhook.secret)

    def _edit_url(self) -> None:
        webhook = self._webhook()
        service.update_webhook(webhook, url=f"{webhook.url}?edited={time.time_ns()}")

    def _delete_webhook(self) -> None:
        """Make a webhook, let something go to it, and delete it."""
        webhook = service.create_webhook(
            self._webhook().owner_id,
            name="short-lived",
            url=f"{self.receiver_url}gone",
            events=["*"],
            timeout_seconds=TIMEOUT_SECONDS,
        )
        self.secrets["/gone"].append(webhook.secret)
        time.sleep(self.dice.uniform(0.2, 2))
        service.delete_webhook(webhook)


def _path(webhook: Webhook) -> str:
    return "/" + webhook.url.split("/", 3)[3].split("?")[0]


def _process_named(name: str, directory: str) -> psutil.Process:
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if command and Path(command[0]).name == name and any(directory in word for word in command):
            return process
    raise psutil.NoSuchProcess(0, name)
