"""Which deliveries a fault strikes, under the ids that receivers see."""

import time
from collections.abc import Iterable

import psutil

from tests.chaos.crew import Process, tree
from webhooks.ids import DELIVERY_PREFIX
from webhooks.models import Delivery, WorkerHeartbeat

LOOK_SECONDS = 0.5


def public(ids: Iterable[object]) -> frozenset[str]:
    return frozenset(DELIVERY_PREFIX + getattr(one, "hex") for one in ids)  # noqa: B009


def held_by(processes: Iterable[psutil.Process]) -> frozenset[str]:
    """Return what is marked as these processes' own."""
    pids = [process.pid for process in processes]
    workers = WorkerHeartbeat.objects.filter(pid__in=pids).values("id")
    held = Delivery.objects.filter(claimed_by__in=workers, finished_at=None)
    return public(held.values_list("id", flat=True))


def held_for(worker: Process, seconds: float) -> frozenset[str]:
    """Return what a worker holds at any time in the next seconds, as far as one can see."""
    held: frozenset[str] = frozenset()
    until = time.time() + seconds
    while time.time() < until:
        held |= held_by(tree(worker))
        time.sleep(LOOK_SECONDS)
    return held
