"""Receivers of other kinds: slow ones, failing ones, and HTTPS with and without kept connections."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks import harness, steady
from benchmarks.harness import Goal, Series, ratio
from benchmarks.receiver import Receiver, running_https_receiver
from webhooks.models import Attempt

DELIVERIES = 10_000
OWNERS = 50
SLOW_SECONDS = 0.1


def run(receiver: Receiver, rounds: int) -> dict[str, Any]:
    plain = Series("HTTP, kept connections", "/s")
    kept = Series("HTTPS, kept connections", "/s")
    closed = Series("HTTPS, a new connection each", "/s")
    multiplexed = Series("HTTPS, HTTP/2", "/s")
    slow = Series(f"HTTP, answers after {SLOW_SECONDS * 1000:.0f} ms", "/s")
    failing = Series("HTTP, answers 500, attempts", "/s")
    for _ in range(rounds):
        plain.values.append(_drain(receiver.url))
        for series, options in (
            (kept, {}),
            (closed, {"keeps": False}),
            (multiplexed, {"h2": True}),
        ):
            with running_https_receiver(**options) as secure, _trusting(secure.ca_bundle):
                series.values.append(_drain(secure.url))
        with steady.recording(f"--delay={SLOW_SECONDS}") as recorder:
            slow.values.append(_drain(recorder.url))
        with steady.recording("--status=500") as recorder:
            failing.values.append(_fail(recorder.url))
    return harness.show(
        f"Drain {DELIVERIES:,} deliveries to {OWNERS} webhooks, one worker",
        [plain, kept, closed, multiplexed, slow, failing],
        [Goal("HTTPS kept / HTTP kept", ratio(kept, plain))],
    )


@contextmanager
def _trusting(ca_bundle: str) -> Iterator[None]:
    os.environ["WEBHOOKS_CA_BUNDLE"] = ca_bundle
    try:
        yield
    finally:
        del os.environ["WEBHOOKS_CA_BUNDLE"]


def _drain(url: str) -> float:
    return _measure(url, lambda: harness.wait_for_deliveries(120))


def _fail(url: str) -> float:
    """Return attempts per second until every webhook's breaker has opened."""

    def wait() -> float:
        harness.wait_until(lambda: Attempt.objects.count() >= OWNERS * 10, 60, "the breakers")
        last = Attempt.objects.order_by("-started_at").first()
        assert last is not None
        return last.started_at.timestamp()

    return _measure(url, wait)


def _measure(url: str, wait: Callable[[], float]) -> float:
    harness.empty_tables()
    owners = harness.make_owners(OWNERS)
    harness.make_webhooks(owners, url)
    harness.trigger_messages(owners, DELIVERIES)
    with harness.draining() as drain:
        ended_at = wait()
        return Attempt.objects.count() / (ended_at - drain.started_at)
