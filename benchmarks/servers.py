"""Application servers with the same work: nothing, a constant view, one insert, and POST /events.

`python -m benchmarks servers --connections 32 --threads 32 --processes 1 --server gthread --server …`.
A server is left out where its package is not installed.
"""

import argparse
from typing import Any

from benchmarks import door, harness, steady
from benchmarks.door import Case, Phase
from benchmarks.harness import Goal, Series
from benchmarks.receiver import Receiver
from benchmarks.web import ALONE, BARE, INTERFACES, OURS, is_installed

RATE = 50
"""Events per second of the quiet phase."""
MOST_RATE = 2000
PATHS = {
    "server alone": (ALONE, "/"),
    "constant": (BARE, "/constant"),
    "insert": (BARE, "/insert"),
    "POST /events": (OURS, "/api/v1/events"),
}

parser = argparse.ArgumentParser(prog="benchmarks servers")
parser.add_argument("--server", choices=INTERFACES, action="append")
parser.add_argument("--path", choices=PATHS, action="append", help="What is asked; repeatable.")
parser.add_argument("--connections", type=int, default=32)
parser.add_argument("--processes", type=int, default=1, help="Web processes (1).")
parser.add_argument("--threads", type=int, default=32, help="Of each web process (32).")
parser.add_argument("--seconds", type=float, default=5, help="How long each is measured (5).")
options = parser.parse_args([])


def run(receiver: Receiver, rounds: int) -> dict[str, Any]:
    return {name: _compare(name, receiver, rounds) for name in options.path or PATHS}


def _compare(name: str, receiver: Receiver, rounds: int) -> dict[str, Any]:
    servers = [one for one in options.server or INTERFACES if is_installed(one)]
    busy: dict[str, list[Phase]] = {one: [] for one in servers}
    calm: dict[str, list[Phase]] = {one: [] for one in servers}
    quiet: dict[str, list[Phase]] = {one: [] for one in servers}
    case = Case(connections=options.connections, processes=options.processes)
    door.options.threads = options.threads
    for _ in range(rounds):
        for one in servers:
            with door.posting(case, *PATHS[name], receiver.url, server=one) as ready:
                busy[one].append(ready.phase(options.seconds))
                # Posted at the rate of a bare constant, the client would measure itself.
                rate = door.SHARE_OF_CAPACITY * min(busy[one][-1].rate, MOST_RATE)
                calm[one].append(ready.phase(options.seconds, rate=rate))
                quiet[one].append(ready.phase(options.seconds, rate=RATE))
    accepted = [Series(one, "/s", [phase.rate for phase in busy[one]]) for one in servers]
    table = list(accepted)
    for label, unit, phases, value in (
        ("web", "ms CPU", busy, lambda phase: phase.costs["web"]),
        (f"web at {RATE}/s", "ms CPU", quiet, lambda phase: phase.costs["web"]),
        ("everything", "ms CPU", busy, lambda phase: phase.total),
        ("POST at 80 %, p99", "ms", calm, lambda phase: steady.percentile(phase.posted, 0.99)),
        (f"POST at {RATE}/s, p50", "ms", quiet, lambda phase: steady.percentile(phase.posted, 0.5)),
        ("process", "MB", busy, lambda phase: phase.megabytes),
    ):
        table += [Series(f"{one}: {label}", unit, [*map(value, phases[one])]) for one in servers]
    return harness.show(
        f"{name} by {options.connections} connections, "
        f"{options.processes} x {options.threads} threads; for each event",
        table,
        [
            Goal(f"{other.name} / {accepted[0].name}", harness.ratio(other, accepted[0]))
            for other in accepted[1:]
        ],
        digits=2,
    )
