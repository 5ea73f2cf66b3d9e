"""Drain a backlog to one receiver that takes 20 ms per request, a few at a time, with and without
batches."""

from typing import Any

from benchmarks import harness, steady
from benchmarks.harness import Goal, Series, ratio
from benchmarks.receiver import Receiver

SECONDS = 0.02
AT_ONCE = 2
"""How many requests the receiver works on; others wait for their turn."""
EVENTS = 100
"""In one request."""
ALONE = 600
TOGETHER = 20_000
"""Deliveries without and with batches, so that each takes some seconds."""


def run(receiver: Receiver, rounds: int) -> dict[str, Any]:
    alone = Series("one event per request", "/s")
    together = Series(f"up to {EVENTS} events per request", "/s")
    plain = Series(f"one event per request, receiver {receiver.server} without a delay", "/s")
    for _ in range(rounds):
        with steady.recording(f"--delay={SECONDS}", f"--at-once={AT_ONCE}") as recorder:
            alone.values.append(_drain(recorder.url, ALONE))
            together.values.append(_drain(recorder.url, TOGETHER, batch_events=EVENTS))
        plain.values.append(_drain(receiver.url, TOGETHER))
    return harness.show(
        f"Drain to one webhook, receiver takes {SECONDS * 1000:.0f} ms per request, {AT_ONCE} at a time",
        [alone, together, plain],
        [
            Goal("batches / one event per request", ratio(together, alone), 20),
            Goal("batches / one event per request without a delay", ratio(together, plain)),
        ],
    )


def _drain(url: str, count: int, **settings: Any) -> float:
    harness.empty_tables()
    owners = harness.make_owners(1)
    harness.make_webhooks(owners, url, **settings)
    harness.trigger_messages(owners, count)
    with harness.draining() as drain:
        ended_at = harness.wait_for_deliveries(120)
    return count / (ended_at - drain.started_at)
