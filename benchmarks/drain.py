"""Drain a backlog with one and two workers, beside the limit and beside one job per delivery."""

from typing import Any

from benchmarks import bare_rows, harness
from benchmarks.harness import Goal, Series, ratio
from benchmarks.receiver import Receiver
from webhooks.dispatch.records import SETTLE_ROWS
from webhooks.models import Event

DELIVERIES = 20_000
JOBS = 600
OWNERS = 50
"""Each with one webhook, so that every event has one delivery."""


def run(receiver: Receiver, rounds: int) -> dict[str, Any]:
    bare = Series("bare CurlMulti loop, same bytes and signatures", "/s")
    one = Series("one worker", "/s")
    two = Series("two workers", "/s")
    recorded = Series("bare UPDATE and COPY of the same results", "/s")
    per_job = Series("one RQ job per delivery with requests, SimpleWorker", "/s")
    peer = Series("django-webhook, one Celery worker, solo pool", "/s")
    cost = Series("one worker and Postgres", "µs CPU")
    costs = [Series(f"one worker: {part}", "µs CPU") for part in harness.ProcessorTime.PARTS]
    for _ in range(rounds):
        bare.values.append(_bare(receiver))
        rate, microseconds = _drain(receiver, workers=1)
        one.values.append(rate)
        cost.values.append(sum(microseconds))
        for series, value in zip(costs, microseconds, strict=True):
            series.values.append(value)
        recorded.values.append(bare_rows.record_attempts(SETTLE_ROWS))
        two.values.append(_drain(receiver, workers=2)[0])
        per_job.values.append(_per_job(receiver))
        peer.values.append(
            harness.run_python("benchmarks.django_webhook_peer", receiver.url, str(JOBS))
        )
    return harness.show(
        f"Drain {DELIVERIES:,} due deliveries, receiver {receiver.server}",
        [bare, recorded, one, two, per_job, peer, cost, *costs],
        [
            Goal("one worker / bare loop", ratio(one, bare), 0.20),
            Goal("one worker / bare UPDATE and COPY", ratio(one, recorded)),
            Goal("two workers / one worker", ratio(two, one), 1.8),
            Goal("one worker / one RQ job per delivery", ratio(one, per_job), 40, form="{:,.0f}"),
            Goal("one worker / django-webhook", ratio(one, peer), form="{:,.0f}"),
            Goal("CPU per delivery, µs", cost.median, 140, at_most=True, form="{:,.0f}"),
        ],
    )


def _fill(receiver: Receiver, count: int) -> None:
    harness.empty_tables()
    owners = harness.make_owners(OWNERS)
    harness.make_webhooks(owners, receiver.url)
    harness.trigger_messages(owners, count)


def _bare(receiver: Receiver) -> float:
    _fill(receiver, DELIVERIES)
    path = harness.path_of("bench-payloads")
    payloads = Event.objects.values_list("payload", flat=True).iterator()
    path.write_bytes(b"\n".join(map(bytes, payloads)))
    return harness.run_python("benchmarks.bare_loop", receiver.url, str(path))


def _per_job(receiver: Receiver) -> float:
    _fill(receiver, JOBS)
    harness.settle_down()
    return harness.run_python("benchmarks.rq_per_delivery", str(JOBS))


def _drain(receiver: Receiver, *, workers: int) -> tuple[float, list[float]]:
    """Return deliveries per second, and the processors' microseconds per delivery in each part."""
    _fill(receiver, DELIVERIES)
    with harness.draining(workers) as drain:
        ended_at = harness.wait_for_deliveries(120)
        microseconds = [seconds / DELIVERIES * 1e6 for seconds in drain.used.seconds().values()]
    return DELIVERIES / (ended_at - drain.started_at), microseconds
