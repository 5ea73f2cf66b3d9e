"""What the scenarios share: a database of their own, workers, rounds taken in turn, results.

Nothing here asserts a speed. Every figure is printed beside its yardstick, measured in the same
run and in turn (A B A B), because these ratios hold where absolute times do not.
"""

import contextlib
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from django.db import connection
from django.db.models import Count, Max, Q

from config.embedded import die_with_parent
from config.services import BASE_DIR
from projects.models import User
from webhooks import service
from webhooks.ids import first_id_of
from webhooks.models import Delivery, Pause, Webhook, WorkerHeartbeat
from webhooks.outbox import valkey, wakeup

TABLES = (
    "webhooks_attempt, webhooks_delivery, webhooks_event, webhooks_webhook, "
    "webhooks_workerheartbeat, webhooks_pause, webhooks_redelivery, "
    "webhooks_hourfigures, webhooks_reopenedhour, webhooks_rolledup, projects_user"
)


@dataclass
class Series:
    """One thing measured once per round."""

    name: str
    unit: str
    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def line(self, digits: int) -> str:
        low, middle, high = (
            f"{value:,.{digits}f}" for value in (min(self.values), self.median, max(self.values))
        )
        return f"{self.name:<56}{middle:>12} {self.unit:<8} ({low} to {high})"


def ratio(one: Series, other: Series) -> float:
    """Return the median of one / other taken round by round, which a drifting machine spares."""
    return statistics.median(a / b for a, b in zip(one.values, other.values, strict=True))


@dataclass
class Goal:
    """A figure, its goal where there is one, and whether it is met; never asserted."""

    what: str
    figure: float
    goal: float | None = None
    at_most: bool = False
    form: str = "{:,.2f}"

    @property
    def is_met(self) -> bool | None:
        if self.goal is None:
            return None
        return self.figure <= self.goal if self.at_most else self.figure >= self.goal

    def line(self) -> str:
        figure = f"{self.what:<58}{self.form.format(self.figure):>12}"
        if self.goal is None:
            return figure
        sign = "≤" if self.at_most else "≥"
        mark = "met" if self.is_met else "NOT MET"
        return f"{figure}   goal {sign} {self.form.format(self.goal):<10}{mark}"


def show(
    title: str, series: Sequence[Series], goals: Sequence[Goal], *, digits: int = 0
) -> dict[str, Any]:
    """Print a scenario's table and return it as what goes to the result file."""
    print(f"\n{title}")
    for one in series:
        print(f"  {one.line(digits)}")
    for goal in goals:
        print(f"  {goal.line()}")
    return {
        "title": title,
        "series": [
            {"name": s.name, "unit": s.unit, "median": s.median, "values": s.values} for s in series
        ],
        "goals": [
            {
                "what": g.what,
                "figure": g.figure,
                "goal": g.goal,
                "atMost": g.at_most,
                "met": g.is_met,
            }
            for g in goals
        ],
    }


def machine_facts() -> dict[str, Any]:
    with connection.cursor() as cursor:
        cursor.execute("SHOW server_version")
        postgres = cursor.fetchone()[0]
        cursor.execute("SELECT name, setting FROM pg_settings WHERE name = ANY(%s)", [DURABILITY])
        durability = dict(cursor.fetchall())
    return {
        "cores": os.cpu_count(),
        "memoryGiB": round(psutil.virtual_memory().total / 2**30),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "postgres": postgres,
        "durability": durability,
    }


DURABILITY = ["fsync", "full_page_writes", "synchronous_commit", "wal_level", "shared_buffers"]


# The database.


def execute(sql: str, parameters: Any = None) -> list[Any]:
    """Run one statement and return its rows, if it has any."""
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetchall() if cursor.description else []


def empty_tables() -> None:
    """Start a measurement with empty tables, fresh statistics and an empty Valkey."""
    execute(f"TRUNCATE {TABLES} CASCADE")
    valkey.connect(5).flushdb()


def make_partitions(first: datetime, last: datetime) -> None:
    """Make the partitions that attempts of these days would have got, had they been stored then."""
    execute(
        "SELECT webhooks_make_attempt_partition(day::date)"
        "  FROM generate_series(%s::date, %s::date, interval '1 day') AS day",
        [first.date(), last.date()],
    )


def settle_down() -> None:
    """Let Postgres finish what the filling left to do, so that it does not count as the drain."""
    execute("VACUUM ANALYZE webhooks_event, webhooks_delivery, webhooks_attempt")
    execute("CHECKPOINT")


def make_owners(count: int, *, prefix: str = "owner") -> list[User]:
    return list(
        User.objects.bulk_create(
            [User(username=f"{prefix}{n}", email=f"{prefix}{n}@example.com") for n in range(count)]
        )
    )


def make_webhooks(
    owners: Sequence[User], url: str, *, each: int = 1, **fields: Any
) -> list[Webhook]:
    """Register `each` webhooks for session.message per owner, all at one receiver."""
    return [
        service.create_webhook(
            owner, name=f"{owner.username}-{number}", url=url, events=["session.message"], **fields
        )
        for owner in owners
        for number in range(each)
    ]


def message(content: str = "The tests pass now. " * 10) -> dict[str, Any]:
    """Return the data of a session.message: with its envelope about half a kilobyte."""
    identifier = "01935710-5a3c-7d2e-9f10-3b6c8e2a4d71"
    return {
        "id": identifier,
        "sessionId": identifier,
        "projectId": identifier,
        "sender": "Ada Lovelace",
        "content": content,
        "createdAt": "2026-11-23T10:30:00.123Z",
    }


def trigger_messages(
    owners: Sequence[User], count: int, *, batch: int = 1000, data: dict[str, Any] | None = None
) -> None:
    """Store `count` events, dealt out to the owners in turn."""
    data = data or message()
    for start in range(0, count, batch):
        service.trigger_events(
            [
                service.Trigger("session.message", owners[number % len(owners)], data)
                for number in range(start, min(start + batch, count))
            ]
        )


# Processes.


@contextmanager
def running_workers(count: int, *, module: str = "manage") -> Iterator[list[psutil.Process]]:
    """Run `rqworker` processes; the block starts when each has said that it lives."""
    before = WorkerHeartbeat.objects.count()
    log = (BASE_DIR / "var" / "bench-worker.log").open("ab")
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", module, "rqworker"],
            cwd=BASE_DIR,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=lambda: die_with_parent(signal.SIGTERM),
        )
        for _ in range(count)
    ]
    try:
        wait_until(lambda: WorkerHeartbeat.objects.count() == before + count, 60, "the workers")
        yield [psutil.Process(process.pid) for process in processes]
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(60)
        log.close()


def hold_back() -> None:
    """Let no worker send until start()."""
    Pause.objects.create(reason="benchmark")


@dataclass
class Drain:
    """A backlog that workers have just begun to deliver."""

    workers: list[psutil.Process]
    used: "ProcessorTime"
    started_at: float
    """By the database's clock (Unix seconds)."""


@contextmanager
def draining(workers: int = 1, *, module: str = "manage") -> Iterator[Drain]:
    """Have what is stored delivered; the block starts with the starting shot."""
    settle_down()
    hold_back()
    with running_workers(workers, module=module) as processes:
        yield Drain(processes, ProcessorTime(processes), start())


def now() -> datetime:
    return datetime.now(UTC)


def start() -> float:
    """Give the starting shot and return its time by the database's clock (Unix seconds)."""
    Pause.objects.all().delete()
    with connection.cursor() as cursor:
        cursor.execute("SELECT extract(epoch FROM clock_timestamp())::float8")
        started_at = float(cursor.fetchone()[0])
    wakeup.nudge(force=True)
    return started_at


def wait_for_deliveries(seconds: float, owners: Sequence[User] | None = None) -> float:
    """Wait until all deliveries of these owners (of all) have succeeded; return when, by the
    database's clock."""
    deliveries = Delivery.objects.all()
    if owners is not None:
        deliveries = deliveries.filter(owner_id__in=[owner.id for owner in owners])
    wait_until(lambda: not deliveries.filter(finished_at=None).exists(), seconds, "the drain")
    outcome = deliveries.aggregate(
        all=Count("id"), good=Count("id", filter=Q(status="SUCCESS")), last=Max("finished_at")
    )
    if outcome["all"] != outcome["good"]:
        sys.exit(f"Only {outcome['good']:,} of {outcome['all']:,} deliveries succeeded.")
    return float(outcome["last"].timestamp())


def wait_until_succeeded(count: int, seconds: float) -> tuple[int, float]:
    """Wait until at least `count` attempts made from now on have succeeded; return how many have,
    and when by the database's clock."""
    done = 0, 0.0
    first_id = first_id_of(now())

    def look() -> bool:
        nonlocal done
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*), extract(epoch FROM clock_timestamp())::float8"
                "  FROM webhooks_attempt WHERE id > %s AND response_code = 200",
                [first_id],
            )
            done = cursor.fetchone()
        return bool(done[0] >= count)

    # Counting costs something itself.
    wait_until(look, seconds, "the drain", every=0.25)
    return done


class ProcessorTime:
    """Processor seconds used by workers and Postgres since this was made, without our own part."""

    PARTS = ("sending thread", "other threads", "Postgres")

    def __init__(self, workers: Sequence[psutil.Process]) -> None:
        self._workers = workers
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            self._own_backend = cursor.fetchone()[0]
        self._before = self._read()

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each of PARTS."""
        parts = dict.fromkeys(self.PARTS, 0.0)
        for key, used in self._read().items():
            parts[key[0]] += used - self._before.get(key, 0.0)
        return parts

    def _read(self) -> dict[tuple[str, int], float]:
        sending, others, postgres = self.PARTS
        used = {}
        for worker in self._workers:
            for thread in worker.threads():
                part = sending if thread.id == worker.pid else others
                used[part, thread.id] = thread.user_time + thread.system_time
        server = psutil.Process(self._own_backend).parent()
        assert server is not None
        for process in server.children():
            with contextlib.suppress(psutil.NoSuchProcess):
                used[postgres, process.pid] = sum(process.cpu_times()[:2])
        used.pop((postgres, self._own_backend), None)
        # Of itself, and of its children that have ended meanwhile.
        used[postgres, server.pid] = sum(server.cpu_times()[:4])
        return used


def run_python(module: str, *arguments: str) -> float:
    """Run a yardstick in a process of its own and return the figure it prints last."""
    finished = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=BASE_DIR,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return float(finished.stdout.split()[-1])


def wait_until(
    condition: Callable[[], bool], seconds: float, what: str, *, every: float = 0.05
) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"Waited {seconds:.0f} s for {what}.")
        time.sleep(every)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def path_of(name: str) -> Path:
    """Return a file below var/ for what a scenario hands to another process."""
    return BASE_DIR / "var" / name
