"""From save to receipt at steady rates, on an otherwise idle system."""

from typing import Any

from benchmarks import harness, steady
from benchmarks.harness import Goal, Series
from benchmarks.receiver import Receiver

RATES = (50, 200, 1000)
SECONDS = 8
OWNERS = 20


def run(receiver: Receiver, rounds: int) -> dict[str, Any]:
    series = {
        (rate, share): Series(f"{rate}/s, p{share * 100:g}", "ms")
        for rate in RATES
        for share in (0.5, 0.99)
    }
    for _ in range(rounds):
        for rate in RATES:
            latencies = measure(rate)
            for share in (0.5, 0.99):
                series[rate, share].values.append(steady.percentile(latencies, share))
    return harness.show(
        "From save to receipt, one worker, steady rate (open loop)",
        list(series.values()),
        [
            Goal("p50 at 200/s, ms", series[200, 0.5].median, 5, at_most=True),
            Goal("p99 at 200/s, ms", series[200, 0.99].median, 25, at_most=True),
        ],
        digits=1,
    )


def measure(rate: float) -> list[float]:
    harness.empty_tables()
    owners = harness.make_owners(OWNERS)
    sessions = steady.make_sessions(owners)
    with steady.recording() as recorder:
        harness.make_webhooks(owners, recorder.url)
        with harness.running_workers(1):
            # Connections and caches are warm on a system that runs.
            steady.save_messages(sessions, 100, 1)
            harness.wait_for_deliveries(60)
            warmed_up = harness.now()
            steady.save_messages(sessions, rate, SECONDS)
            harness.wait_for_deliveries(60)
    return steady.latencies_ms(recorder, owners, since=warmed_up)
