"""The memory of a worker that has as much in flight as it ever has."""

import time
from typing import Any

import psutil

from benchmarks import harness, steady
from benchmarks.harness import Goal, Series
from benchmarks.receiver import Receiver
from webhooks.models import Delivery

OWNERS = 150
"""Four requests each to start with: more than may be in flight."""
SLOW_SECONDS = 0.5
CASES = (("2 KB", 2_000, 6_000, 150), ("256 KB", 255_000, 1_200, 250))
"""Payload, its bytes, how many, and the goal in MB."""


def run(receiver: Receiver, rounds: int) -> dict[str, Any]:
    idle = Series("idle worker", "MB")
    peaks = [Series(f"payloads of {name}", "MB") for name, *_ in CASES]
    flights = [Series(f"payloads of {name}, most rows held", "") for name, *_ in CASES]
    for _ in range(rounds):
        for number, (_, size, count, _) in enumerate(CASES):
            before, peak, held = _peak(size, count)
            idle.values.append(before)
            peaks[number].values.append(peak)
            flights[number].values.append(held)
    return harness.show(
        f"A worker's memory, receivers that answer after {SLOW_SECONDS} s",
        [idle, *peaks, *flights],
        [
            Goal(f"MB, {name}", peak.median, goal, at_most=True, form="{:,.0f}")
            for peak, (name, _, _, goal) in zip(peaks, CASES, strict=True)
        ],
    )


def _peak(size: int, count: int) -> tuple[float, float, int]:
    """Return the worker's MB before and at most, and the most rows it held at once."""
    harness.empty_tables()
    owners = harness.make_owners(OWNERS)
    with steady.recording(f"--delay={SLOW_SECONDS}") as recorder:
        harness.make_webhooks(owners, recorder.url)
        harness.trigger_messages(owners, count, batch=100, data=harness.message("x" * size))
        harness.hold_back()
        with harness.running_workers(1) as (worker,):
            before = peak = _megabytes(worker)
            held = 0
            harness.start()
            while Delivery.objects.filter(finished_at=None).exists():
                peak = max(peak, _megabytes(worker))
                held = max(held, Delivery.objects.filter(status="SENDING").count())
                time.sleep(0.1)
    return before, peak, held


def _megabytes(process: psutil.Process) -> float:
    return float(process.memory_info().rss / 2**20)
