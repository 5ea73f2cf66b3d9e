"""What a delivery costs as work grows: webhooks, fan-out, workers, rows that wait, rows stored."""

import os
from typing import Any

from benchmarks import harness, purge
from benchmarks.harness import Goal, Series
from benchmarks.receiver import Receiver

MEASURED = 20_000
"""Deliveries sent for each figure, whatever else waits or is stored."""
WEBHOOKS = (1, 50, 1000, 10_000)
FAN_OUTS = (1, 10, 100)
WORKERS = (1, 2, 4)
LARGEST = int(os.environ.get("BENCH_GROWTH_ROWS", 1_000_000))
WAITING = (MEASURED, LARGEST // 10, LARGEST)
STORED = (0, LARGEST, 5 * LARGEST)


def run(receiver: Receiver, rounds: int) -> dict[str, Any]:
    return {
        "webhooks": _compare(
            receiver, rounds, "webhooks", [({"owners": n}, f"{n:,} webhooks") for n in WEBHOOKS]
        ),
        "fan-out": _compare(
            receiver,
            rounds,
            "fan-out",
            [({"owners": 1, "each": n}, f"{n} webhooks per event") for n in FAN_OUTS],
        ),
        "workers": _compare(
            receiver, rounds, "workers", [({"workers": n}, f"{n} workers") for n in WORKERS]
        ),
        "waiting": _compare(
            receiver, 1, "rows that wait", [({"waiting": n}, f"{n:,} due") for n in WAITING]
        ),
        "stored": _compare(
            receiver, 1, "rows stored", [({"stored": n}, f"{n:,} stored") for n in STORED]
        ),
    }


def _compare(
    receiver: Receiver, rounds: int, what: str, cases: list[tuple[dict[str, int], str]]
) -> dict[str, Any]:
    rates = [Series(name, "/s") for _, name in cases]
    costs = [Series(f"{name}, worker and Postgres", "µs CPU") for _, name in cases]
    memory = [Series(f"{name}, worker's memory", "MB") for _, name in cases]
    for _ in range(rounds):
        for number, (case, _) in enumerate(cases):
            rate, cost, megabytes = _drain(receiver, **case)
            rates[number].values.append(rate)
            costs[number].values.append(cost)
            memory[number].values.append(megabytes)
    goals = []
    if what != "workers":
        share = 0.9 if what == "rows that wait" else 0.85
        last = f"{rates[-1].name} / {rates[0].name}"
        goals.append(Goal(last, harness.ratio(rates[-1], rates[0]), share))
    if what == "rows that wait":
        growth = harness.ratio(memory[-1], memory[0])
        goals.append(Goal(f"memory, {last}", growth, 1.2, at_most=True))
    return harness.show(
        f"Drain {MEASURED:,} deliveries as {what} grow", [*rates, *costs, *memory], goals
    )


def _drain(
    receiver: Receiver,
    *,
    owners: int = 50,
    each: int = 1,
    workers: int = 1,
    waiting: int = MEASURED,
    stored: int = 0,
) -> tuple[float, float, float]:
    """Return deliveries per second, processor microseconds each, and the largest worker's MB."""
    harness.empty_tables()
    users = harness.make_owners(owners)
    webhooks = harness.make_webhooks(users, receiver.url, each=each)
    if stored:
        purge.store_history(webhooks, stored)
    harness.trigger_messages(users, waiting // each, batch=max(1, 1000 // each))
    with harness.draining(workers) as drain:
        count, ended_at = harness.wait_until_succeeded(MEASURED, 300)
        microseconds = sum(drain.used.seconds().values()) / count * 1e6
        megabytes = max(worker.memory_info().rss for worker in drain.workers) / 2**20
    return count / (ended_at - drain.started_at), microseconds, megabytes
