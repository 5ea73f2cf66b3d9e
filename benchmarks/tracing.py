"""What traces cost: a drain and single saves without, with none sampled, with one in a hundred, in
twenty, and with all."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connection

from benchmarks import harness
from benchmarks.drain import OWNERS
from benchmarks.harness import Goal, Series, ratio
from benchmarks.receiver import Receiver
from config.services import BASE_DIR

DELIVERIES = 10_000
SAVES = 1000
SAMPLED = {"off": None, "none sampled": 0, "1 % sampled": 1, "5 % sampled": 5, "all sampled": 100}
"""How many of a hundred traces are recorded; None without tracing."""
TRACE_SQL = """
UPDATE webhooks_event SET traceparent = CASE WHEN %(sampled)s::int IS NOT NULL THEN
    '00-' || md5(id::text) || '-' || left(md5('span' || id::text), 16)
          || CASE WHEN sequence %% 100 < %(sampled)s THEN '-01' ELSE '-00' END END
"""


def run(receiver: Receiver, rounds: int) -> dict[str, Any]:
    sent = {name: Series(f"worker, a delivery: {name}", "µs CPU") for name in SAMPLED}
    saved = {name: Series(f"saving process, an event: {name}", "µs CPU") for name in SAMPLED}
    with collector() as endpoint:
        for _ in range(rounds):
            for name, sampled in SAMPLED.items():
                with variables(sampled, endpoint):
                    sent[name].values.append(_drain(receiver, sampled))
                    saved[name].values.append(_save(receiver))
    return harness.show(
        f"Traces: drain {DELIVERIES:,} deliveries, trigger {SAVES:,} events one by one",
        [*sent.values(), *saved.values()],
        [
            Goal(f"{what} / off, {name}", ratio(of[name], of["off"]), form="{:,.3f}")
            for what, of in (("worker and Postgres", sent), ("saving process", saved))
            for name in SAMPLED
            if name != "off"
        ],
        digits=1,
    )


@contextmanager
def variables(sampled: int | None, endpoint: str) -> Iterator[None]:
    """Give the processes that start in the block what says how much is traced."""
    told = {
        "WEBHOOKS_TRACING": str(int(sampled is not None)),
        "WEBHOOKS_SEND_TRACEPARENT": str(int(sampled is not None)),
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": str((sampled or 0) / 100),
    }
    os.environ.update(told)
    yield
    for name in told:
        del os.environ[name]


def _drain(receiver: Receiver, sampled: int | None) -> float:
    """Return the processors' microseconds per delivery of a worker and of Postgres."""
    harness.empty_tables()
    owners = harness.make_owners(OWNERS)
    harness.make_webhooks(owners, receiver.url)
    harness.trigger_messages(owners, DELIVERIES)
    # Not as they were stored, a thousand to a span.
    with connection.cursor() as cursor:
        cursor.execute(TRACE_SQL, {"sampled": sampled})
    with harness.draining() as drain:
        harness.wait_for_deliveries(120)
        return sum(drain.used.seconds().values()) / DELIVERIES * 1e6


def _save(receiver: Receiver) -> float:
    harness.empty_tables()
    harness.make_webhooks(harness.make_owners(1), receiver.url)
    return harness.run_python("benchmarks.traced_saves", str(SAVES))


@contextmanager
def collector() -> Iterator[str]:
    """Run benchmarks/collector.py until the block ends; yields its address."""
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.collector"],
        cwd=BASE_DIR,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        process.stdin.close()
