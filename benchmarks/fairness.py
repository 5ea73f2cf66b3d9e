"""Healthy webhooks beside hanging ones, dead host names, and an owner with nearly all the volume."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks import harness, steady
from benchmarks.harness import Goal, Series, ratio
from benchmarks.receiver import Receiver
from projects.models import User

HEALTHY_EACH = 500
RATE = 100
SECONDS = 8


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


def run(receiver: Receiver, rounds: int) -> dict[str, Any]:
    results = {}
    for name, bad, count in (("hang", hanging, 30), ("have a dead host name", dead_names, 50)):
        alone, beside = Series("healthy alone", "/s"), Series(f"beside {count} that {name}", "/s")
        p99_alone, p99_beside = Series("p99 alone", "ms"), Series("p99 beside them", "ms")
        for _ in range(rounds):
            alone.values.append(_throughput(receiver, 100 - count, None, 0))
            p99_alone.values.append(_p99(100 - count, None, 0))
            with bad() as url:
                beside.values.append(_throughput(receiver, 100 - count, url, count))
                p99_beside.values.append(_p99(100 - count, url, count))
        results[name] = harness.show(
            f"{count} of 100 webhooks {name}",
            [alone, beside, p99_alone, p99_beside],
            [
                Goal("throughput of the healthy beside / alone", ratio(beside, alone), 0.9),
                Goal(
                    "p99 of the healthy beside / alone",
                    ratio(p99_beside, p99_alone),
                    2,
                    at_most=True,
                ),
            ],
            digits=1,
        )
    quiet, busy = (
        Series("p99 of quiet owners, nobody busy", "ms"),
        Series("p99 beside a busy owner", "ms"),
    )
    for _ in range(rounds):
        quiet.values.append(_p99_beside_busy_owner(receiver, 0))
        busy.values.append(_p99_beside_busy_owner(receiver, 60_000))
    results["busy owner"] = harness.show(
        "One owner floods 100 webhooks, 20 others are quiet",
        [quiet, busy],
        [Goal("p99 beside / without", ratio(busy, quiet), 2, at_most=True)],
        digits=1,
    )
    return results


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
    harness.settle_down()
    harness.hold_back()
    with harness.running_workers(1, module="benchmarks.worker_with_dead_names"):
        started_at = harness.start()
        ended_at = harness.wait_for_deliveries(120, owners)
    return HEALTHY_EACH * healthy / (ended_at - started_at)


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


def _p99_beside_busy_owner(receiver: Receiver, flood: int) -> float:
    harness.empty_tables()
    quiet = harness.make_owners(20)
    (busy,) = harness.make_owners(1, prefix="busy")
    harness.make_webhooks([busy], receiver.url, each=100)
    sessions = steady.make_sessions(quiet)
    with steady.recording() as recorder:
        harness.make_webhooks(quiet, recorder.url)
        with harness.running_workers(1):
            steady.save_messages(sessions, 50, 2)
            harness.trigger_messages([busy], flood // 100)
            warmed_up = harness.now()
            steady.save_messages(sessions, 50, SECONDS)
            harness.wait_for_deliveries(120, quiet)
    return steady.percentile(steady.latencies_ms(recorder, quiet, since=warmed_up), 0.99)
