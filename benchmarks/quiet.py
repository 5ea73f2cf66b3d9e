"""Single events at a steady rate: what each costs while nothing piles up, and how late it is.

Each cell is measured beside the same cell of a bare system: a view (or a producer) that inserts one
row and commits, and a loop of one pop, one claim, one request and one settle. A single cell:
`python -m benchmarks quiet --rate 50 --by http --seconds 20`.
"""

import argparse
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import psutil
from django.db import connection

from benchmarks import bare_door, door, harness, orders, statements, steady
from benchmarks.harness import Goal, Series, ratio
from benchmarks.processors import PartTimes
from benchmarks.receiver import Receiver
from benchmarks.web import BARE, INTERFACES, OURS, USUAL, running_web
from config.embedded import die_with_parent
from config.services import BASE_DIR
from projects.models import User
from webhooks.models import Event

RATES = (10.0, 50.0, 200.0, 500.0)
CONNECTIONS = 8
WARM_UP = {"rate": 100, "seconds": 2}
COUNTED_SECONDS = 3
"""How long statements are logged, after what is measured."""
OURS_ARE = ("web", "producer", "worker", "Postgres", "Valkey")
"""The parts that count; the client and the receiver do not."""
GOALS = {50.0: (2.5, 1.0, 4, 15), 200.0: (1.5, None, 4, 15)}
"""By HTTP, in milliseconds: of processor time per event everything and the worker's, and of the time
to the receipt p50 and p99."""
NO_GOALS = (None, None, None, None)

parser = argparse.ArgumentParser(prog="benchmarks quiet")
parser.add_argument("--rate", type=float, action="append", help="Events per second; repeatable.")
parser.add_argument("--by", choices=("http", "save"), action="append")
parser.add_argument("--seconds", type=float, default=10, help="How long each is measured (10).")
parser.add_argument("--server", choices=INTERFACES, default=USUAL)
parser.add_argument("--processes", type=int, default=1, help="Web processes (1).")
parser.add_argument("--threads", type=int, default=32, help="Of each web process (32).")
parser.add_argument("--show", action="store_true", help="Show statements and Valkey's commands.")
options = parser.parse_args([])


@dataclass
class System:
    """What runs and who gives it events; `order` is what the client needs to know."""

    client: orders.Servant
    order: dict[str, Any]
    parts: dict[str, Sequence[psutil.Process]]
    wait: Callable[[], object]
    """Returns when everything that was stored has been delivered."""
    recorder: steady.Recorder

    def phase(self, rate: float, seconds: float) -> list[tuple[str, float, float]]:
        """Give it events and wait for their delivery; returns the client's `sent`."""
        report = self.client.do(**self.order, rate=rate, seconds=seconds)
        if report["failed"]:
            sys.exit(f"Failed: {report['failed']}")
        self.wait()
        return [(name, at, milliseconds) for name, at, milliseconds in report["sent"]]


@dataclass
class Measured:
    """One steady phase of one system."""

    costs: dict[str, float]
    """Milliseconds of processor time per event, of each part."""
    stored: list[float]
    """Milliseconds from each planned time to the answer or the commit; sorted."""
    received: list[float]
    """Milliseconds from each planned time to the receipt; sorted."""
    statements: dict[str, float]
    commands: dict[str, float]
    """How often each ran, for one event."""

    @property
    def total(self) -> float:
        return sum(self.costs.get(part, 0.0) for part in OURS_ARE)


def run(receiver: Receiver, rounds: int) -> dict[str, Any]:
    return {
        f"{by} {rate:g}": _cell(by, rate, rounds)
        for by in options.by or ("http", "save")
        for rate in options.rate or RATES
    }


def _cell(by: str, rate: float, rounds: int) -> dict[str, Any]:
    systems = {"": _our_system, "bare: ": _bare_system}
    runs: dict[str, list[Measured]] = {name: [] for name in systems}
    constant = Series("bare: view that answers a constant, web", "ms CPU")
    for _ in range(rounds):
        for name, system in systems.items():
            runs[name].append(measure(system, by, rate))
        if by == "http":
            constant.values.append(measure(_constant_system, by, rate).costs["web"])
    table = [
        Series(prefix + name, unit, [value(measured) for measured in runs[prefix]])
        for name, unit, value in _lines("web" if by == "http" else "producer")
        for prefix in systems
    ]
    if options.show:
        _show_counts(runs[""][-1])
    total, worker, p50, p99 = GOALS.get(rate, NO_GOALS) if by == "http" else NO_GOALS
    ours = {series.name: series for series in table}
    return harness.show(
        f"{rate:g} events a second by {by}, one worker; for each event",
        [*table, constant] if constant.values else table,
        [
            Goal("everything, ms CPU", ours["everything"].median, total, at_most=True),
            Goal("worker, ms CPU", ours["worker"].median, worker, at_most=True),
            Goal("received, p50, ms", ours["received, p50"].median, p50, at_most=True),
            Goal("received, p99, ms", ours["received, p99"].median, p99, at_most=True),
            Goal("everything / bare", ratio(ours["everything"], ours["bare: everything"])),
            Goal("worker / bare", ratio(ours["worker"], ours["bare: worker"])),
        ],
        digits=2,
    )


def _lines(first: str) -> list[tuple[str, str, Callable[[Measured], float]]]:
    """Return name, unit and value of the lines of a table."""
    return [
        ("everything", "ms CPU", lambda m: m.total),
        (first, "ms CPU", lambda m: m.costs[first]),
        ("worker", "ms CPU", lambda m: m.costs["worker"]),
        ("Postgres", "ms CPU", lambda m: m.costs["Postgres"]),
        ("Valkey", "ms CPU", lambda m: m.costs["Valkey"]),
        ("stored, p50", "ms", lambda m: steady.percentile(m.stored, 0.5)),
        ("stored, p99", "ms", lambda m: steady.percentile(m.stored, 0.99)),
        ("received, p50", "ms", lambda m: steady.percentile(m.received, 0.5)),
        ("received, p99", "ms", lambda m: steady.percentile(m.received, 0.99)),
        ("statements", "", lambda m: sum(m.statements.values())),
        ("Valkey commands", "", lambda m: sum(m.commands.values())),
    ]


def _show_counts(measured: Measured) -> None:
    print("\n  Ran for each event, ours:")
    for counts in (measured.statements, measured.commands):
        for text, count in counts.items():
            print(f"  {count:8.2f}  {text}")


# One measurement.

Build = Callable[[ExitStack, str, User, steady.Recorder], System]


def measure(build: Build, by: str, rate: float) -> Measured:
    """Run one system at a steady rate."""
    harness.empty_tables()
    bare_door.make_tables()
    (owner,) = harness.make_owners(1)
    with ExitStack() as stack:
        recorder = stack.enter_context(steady.recording())
        harness.make_webhooks([owner], recorder.url)
        system = build(stack, by, owner, recorder)
        # Connections and caches are warm on a system that runs.
        system.phase(**WARM_UP)
        events = int(rate * options.seconds)
        used, calls = PartTimes(system.parts), statements.valkey_calls()
        sent = system.phase(rate, options.seconds)
        seconds, called = used.seconds(), statements.valkey_calls() - calls
        logged = statements.logged(lambda: system.phase(rate, COUNTED_SECONDS))
    arrivals = recorder.received
    names = _event_names()
    received = [arrivals[names[name]] - at for name, at, _ in sent if arrivals]
    return Measured(
        {part: 1000 * used / events for part, used in seconds.items()},
        sorted(milliseconds for _, _, milliseconds in sent),
        sorted(1000 * seconds for seconds in received),
        _each(logged, int(rate * COUNTED_SECONDS)),
        _each(called, events),
    )


def _each(counts: Counter[str], events: int) -> dict[str, float]:
    return {name: count / events for name, count in counts.most_common()}


def _event_names() -> dict[str, str]:
    """Return what an event's `webhook-id` is by what the clients know: that or the saved object."""
    names = {}
    for event in Event.objects.only("id", "object_reference"):
        names[event.public_id] = event.public_id
        names[event.object_reference.rpartition(":")[2]] = event.public_id
    with connection.cursor() as cursor:
        cursor.execute("SELECT id::text FROM bare_event")
        return names | {row[0]: row[0] for row in cursor}


# The systems.


def _our_system(stack: ExitStack, by: str, owner: User, recorder: steady.Recorder) -> System:
    if by == "http":
        parts, client, order = _door(stack, OURS, "/api/v1/events", owner)
    else:
        client = stack.enter_context(orders.running("benchmarks.producer"))
        parts = {"producer": [client.process]}
        order = {"session": str(steady.make_sessions([owner])[0].id)}
    parts["worker"] = stack.enter_context(harness.running_workers(1))
    return System(client, order, parts, lambda: harness.wait_for_deliveries(60), recorder)


def _bare_system(stack: ExitStack, by: str, owner: User, recorder: steady.Recorder) -> System:
    if by == "http":
        parts, client, order = _door(stack, BARE, "/queue", owner)
    else:
        client = stack.enter_context(orders.running("benchmarks.producer", "--bare"))
        parts, order = {"producer": [client.process]}, {"session": ""}
    parts["worker"] = [stack.enter_context(_bare_worker(recorder.url))]
    return System(client, order, parts, _wait_for_bare, recorder)


def _constant_system(stack: ExitStack, by: str, owner: User, recorder: steady.Recorder) -> System:
    parts, client, order = _door(stack, BARE, "/constant", owner)
    return System(client, order, parts, lambda: None, recorder)


def _door(
    stack: ExitStack, applications: dict[str, str], path: str, owner: User
) -> tuple[dict[str, Sequence[psutil.Process]], orders.Servant, dict[str, Any]]:
    """Run web processes and a client; returns the parts, the client and its order."""
    web = stack.enter_context(
        running_web(
            applications,
            server=options.server,
            processes=options.processes,
            threads=options.threads,
        )
    )
    client = stack.enter_context(orders.running("benchmarks.load"))
    order = {
        "port": web.port,
        "connections": CONNECTIONS,
        "requests": door.requests(path, door.service_token(owner), [None]),
    }
    return {"web": [web.root], "client": [client.process]}, client, order


@contextmanager
def _bare_worker(url: str) -> Iterator[psutil.Process]:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.bare_worker", url],
        cwd=BASE_DIR,
        preexec_fn=lambda: die_with_parent(signal.SIGTERM),
    )
    try:
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(30)


def _wait_for_bare() -> None:
    def is_done() -> bool:
        with connection.cursor() as cursor:
            cursor.execute("SELECT NOT EXISTS (SELECT FROM bare_event WHERE finished_at IS NULL)")
            return bool(cursor.fetchone()[0])

    harness.wait_until(is_done, 60, "the bare loop")
