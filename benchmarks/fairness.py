"""Healthy webhooks beside hanging ones, dead host names, one with all the volume, and dear answers.

A part alone: `python -m benchmarks fairness --only dear --rounds 3`.
"""

import argparse
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from benchmarks import harness, neighbours, steady
from benchmarks.harness import Goal, Series, ratio
from benchmarks.receiver import Receiver
from projects.models import User
from webhooks.models import Delivery

HEALTHY_EACH = 500
RATE = 100
SECONDS = 8
SHARES = (0.5, 0.99)


@contextmanager
def hanging() -> Iterator[str]:
    """Listen and never answer; connections pile up in the kernel's queue."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    finally:
        listener.close()


@contextmanager
def dead_names() -> Iterator[str]:
    """Host names whose look-up takes as long as that of a name server that does not answer."""
    yield "http://%d.dead.invalid/"


def beside_failing(
    receiver: Receiver,
    rounds: int,
    name: str,
    bad: Callable[[], AbstractContextManager[str]],
    count: int,
) -> dict[str, Any]:
    alone, beside = Series("healthy alone", "/s"), Series(f"beside {count} that {name}", "/s")
    p99_alone, p99_beside = Series("p99 alone", "ms"), Series("p99 beside them", "ms")
    for _ in range(rounds):
        alone.values.append(_throughput(receiver, 100 - count, None, 0))
        p99_alone.values.append(_p99(100 - count, None, 0))
        with bad() as url:
            beside.values.append(_throughput(receiver, 100 - count, url, count))
            p99_beside.values.append(_p99(100 - count, url, count))
    results = harness.show(
        f"{count} of 100 webhooks {name}",
        [alone, beside, p99_alone, p99_beside],
        [
            Goal("throughput of the healthy beside / alone", ratio(beside, alone), 0.9),
            Goal(
                "p99 of the healthy beside / alone", ratio(p99_beside, p99_alone), 2, at_most=True
            ),
        ],
        digits=1,
    )
    return {name: results}


def beside_backlog(receiver: Receiver, rounds: int) -> dict[str, Any]:
    return {
        "busy owner": _beside_backlog(
            receiver, rounds, "One owner has 120,000 due, 20 others are quiet", 20, 100, 120_000
        ),
        "busy webhook": _beside_backlog(
            receiver, rounds, "One webhook has 200,000 due, 99 others are quiet", 99, 1, 200_000
        ),
    }


PARTS: dict[str, Callable[[Receiver, int], dict[str, Any]]] = {
    "hang": lambda receiver, rounds: beside_failing(receiver, rounds, "hang", hanging, 30),
    "dead": lambda receiver, rounds: beside_failing(
        receiver, rounds, "have a dead host name", dead_names, 50
    ),
    "backlog": beside_backlog,
    "dear": lambda receiver, rounds: neighbours.beside_dear_answers(rounds),
    "names": lambda receiver, rounds: neighbours.beside_dead_names(rounds),
}
parser = argparse.ArgumentParser(prog="benchmarks fairness")
parser.add_argument("--only", choices=PARTS, action="append", help="A part; repeatable.")
options = parser.parse_args([])


def run(receiver: Receiver, rounds: int) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for name in options.only or PARTS:
        results |= PARTS[name](receiver, rounds)
    return results


def _beside_backlog(
    receiver: Receiver, rounds: int, title: str, quiet: int, each: int, waiting: int
) -> dict[str, Any]:
    alone = [Series(f"p{share * 100:g} of the quiet, nobody busy", "ms") for share in SHARES]
    beside = [Series(f"p{share * 100:g} beside the backlog", "ms") for share in SHARES]
    for _ in range(rounds):
        for series, backlog in ((alone, 0), (beside, waiting)):
            latencies = _latencies_beside(receiver, quiet, each, backlog)
            for one, share in zip(series, SHARES, strict=True):
                one.values.append(steady.percentile(latencies, share))
    return harness.show(
        title,
        [*alone, *beside],
        [
            Goal("p99 beside the backlog, ms", beside[-1].median, 100, at_most=True),
            Goal("p99 beside / alone", ratio(beside[-1], alone[-1])),
        ],
        digits=1,
    )


def _bad_webhooks(url: str | None, count: int) -> list[User]:
    owners = harness.make_owners(count, prefix="bad")
    for number, owner in enumerate(owners):
        harness.make_webhooks([owner], (url or "").replace("%d", str(number)), timeout_seconds=10)
    return owners


def _throughput(receiver: Receiver, healthy: int, bad_url: str | None, bad: int) -> float:
    """Return how many deliveries per second the healthy webhooks get while a backlog drains."""
    harness.empty_tables()
    owners = harness.make_owners(healthy)
    harness.make_webhooks(owners, receiver.url)
    bad_owners = _bad_webhooks(bad_url, bad)
    everybody = owners + bad_owners
    harness.trigger_messages(everybody, HEALTHY_EACH * len(everybody))
    with harness.draining(module="benchmarks.worker_with_dead_names") as drain:
        ended_at = harness.wait_for_deliveries(120, owners)
    return HEALTHY_EACH * healthy / (ended_at - drain.started_at)


def _p99(healthy: int, bad_url: str | None, bad: int) -> float:
    harness.empty_tables()
    owners = harness.make_owners(healthy)
    bad_owners = _bad_webhooks(bad_url, bad)
    sessions = steady.make_sessions(owners + bad_owners)
    with steady.recording() as recorder:
        harness.make_webhooks(owners, recorder.url)
        with harness.running_workers(1, module="benchmarks.worker_with_dead_names"):
            rate = RATE * len(sessions) / 70
            steady.save_messages(sessions, rate, 2)
            warmed_up = harness.now()
            steady.save_messages(sessions, rate, SECONDS)
            harness.wait_for_deliveries(60, owners)
    return steady.percentile(steady.latencies_ms(recorder, owners, since=warmed_up), 0.99)


def _latencies_beside(receiver: Receiver, quiet: int, each: int, waiting: int) -> list[float]:
    """Return the milliseconds from save to receipt for quiet owners while one worker drains what
    waits for another owner's `each` webhooks."""
    harness.empty_tables()
    owners = harness.make_owners(quiet)
    (busy,) = harness.make_owners(1, prefix="busy")
    harness.make_webhooks([busy], receiver.url, each=each)
    harness.trigger_messages([busy], waiting // each, batch=max(1, 1000 // each))
    sessions = steady.make_sessions(owners)
    with steady.recording() as recorder:
        harness.make_webhooks(owners, recorder.url)
        with harness.draining():
            steady.save_messages(sessions, 50, 2)
            warmed_up = harness.now()
            steady.save_messages(sessions, 50, SECONDS)
            if waiting and not Delivery.objects.filter(finished_at=None).exists():
                sys.exit("The backlog was drained before the end: it was no backlog.")
            harness.wait_for_deliveries(120, owners)
    return steady.latencies_ms(recorder, owners, since=warmed_up)
