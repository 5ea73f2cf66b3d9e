"""How late a quiet owner's webhooks are beside hostile ones: the parts of `fairness` that compare
with an undisturbed worker.

Hostile owners cause events at a steady rate, each of which goes to all webhooks of its owner.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from urllib.parse import urlsplit

from django.db import connection

from benchmarks import harness, steady
from benchmarks.harness import Goal, Series, ratio
from projects.models import User
from tests.hostile import receivers
from webhooks import service

QUIET_OWNERS = 20
RATE = 50
WARM_UP_SECONDS = 3
SECONDS = 10
HOSTILE_EVENTS = 5
"""A second, of all hostile owners together."""
SHARES = (0.5, 0.99)
DEAR = [kind for kind in (*receivers.ANSWERS, *receivers.DRIPS) if kind != receivers.PLAIN]


@contextmanager
def nobody() -> Iterator[list[list[str]]]:
    yield []


@contextmanager
def dear_answers(kinds: Sequence[str]) -> Iterator[list[list[str]]]:
    """One owner with 100 webhooks whose receiver answers in these ways, in turn."""
    with receivers.hostile_receivers() as url:
        yield [[f"{url}{kinds[number % len(kinds)]}" for number in range(100)]]


@contextmanager
def dead_names() -> Iterator[list[list[str]]]:
    """Ten owners with 50 dead host names each."""
    yield [[f"http://{owner}-{n}.dead.invalid/" for n in range(50)] for owner in range(10)]


def beside_dear_answers(rounds: int) -> dict[str, Any]:
    return _compare(
        "100 webhooks of one owner answer validly and dearly",
        rounds,
        {
            "nobody": nobody,
            "100 plain answers": lambda: dear_answers([receivers.PLAIN]),
            "100 dear answers": lambda: dear_answers(DEAR),
        },
    )


def beside_dead_names(rounds: int) -> dict[str, Any]:
    return _compare(
        "500 dead host names of ten owners, names of others looked up for the first time",
        rounds,
        {"nobody": nobody, "500 dead names": dead_names},
        first_lookups=True,
    )


def _compare(
    title: str,
    rounds: int,
    neighbours: dict[str, Callable[[], AbstractContextManager[list[list[str]]]]],
    *,
    first_lookups: bool = False,
) -> dict[str, Any]:
    series = {
        (name, share): Series(f"p{share * 100:g} beside {name}", "ms")
        for name in neighbours
        for share in SHARES
    }
    busy = {name: Series(f"worker's processor time beside {name}", "s") for name in neighbours}
    for _ in range(rounds):
        for name, bad in neighbours.items():
            with bad() as urls:
                latencies, seconds = _measure(urls, first_lookups=first_lookups)
            busy[name].values.append(seconds)
            for share in SHARES:
                series[name, share].values.append(steady.percentile(latencies, share))
    *_, usual, worst = neighbours
    goals = [
        Goal(
            f"p{share * 100:g} beside {worst} / beside {other}",
            ratio(series[worst, share], series[other, share]),
            2 if other == "nobody" else None,
            at_most=True,
        )
        for other in dict.fromkeys(("nobody", usual))
        for share in SHARES
    ]
    what = f"worker's processor time beside {worst} / beside {usual}"
    goals.append(Goal(what, ratio(busy[worst], busy[usual])))
    rows = [*series.values(), *busy.values()]
    return {title: harness.show(title, rows, goals, digits=1)}


def _measure(hostile_urls: list[list[str]], *, first_lookups: bool) -> tuple[list[float], float]:
    """Return the milliseconds from save to receipt for the quiet owners, sorted, and the seconds of
    processor time that the worker used meanwhile."""
    harness.empty_tables()
    owners = harness.make_owners(QUIET_OWNERS)
    hostile = harness.make_owners(len(hostile_urls), prefix="hostile")
    for owner, urls in zip(hostile, hostile_urls, strict=True):
        for url in urls:
            harness.make_webhooks([owner], url)
    sessions = steady.make_sessions(owners)
    with steady.recording() as recorder:
        port = urlsplit(recorder.url).port
        for number, owner in enumerate(owners):
            host = f"{number}.alive.invalid" if first_lookups else "127.0.0.1"
            harness.make_webhooks([owner], f"http://{host}:{port}/")
        with (
            harness.running_workers(1, module="benchmarks.worker_with_dead_names") as workers,
            _causing_events(hostile),
        ):
            if first_lookups:
                time.sleep(WARM_UP_SECONDS)
            else:
                steady.save_messages(sessions, RATE, WARM_UP_SECONDS)
            warmed_up, used = harness.now(), harness.ProcessorTime(workers)
            steady.save_messages(sessions, RATE, SECONDS)
            harness.wait_for_deliveries(60, owners)
            sending, others, _ = used.seconds().values()
    return steady.latencies_ms(recorder, owners, since=warmed_up), sending + others


@contextmanager
def _causing_events(owners: Sequence[User]) -> Iterator[None]:
    """Let these owners have an event each in turn."""
    stop = threading.Event()

    def cause() -> None:
        number = 0
        while owners and not stop.wait(1 / HOSTILE_EVENTS):
            service.trigger_event(
                "session.message", owners[number % len(owners)], harness.message()
            )
            number += 1
        connection.close()

    thread = threading.Thread(target=cause)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
