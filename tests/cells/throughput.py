"""How fast events go from a producer's database into two cells: `python -m tests.cells.throughput`.

The events are stored before. Then a relay and two consumers start, and the processor time of every
process is read while they work.
"""

import argparse
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import psutil

from config.services import BASE_DIR, provide_services

os.environ["DEBUG"] = "1"
os.environ["DJANGO_SETTINGS_MODULE"] = "config.settings"
for name in ("DATABASE_URL", "REDIS_URL"):
    os.environ.pop(name, None)
provide_services(BASE_DIR / "var" / "cells-throughput")

import json  # noqa: E402
import subprocess  # noqa: E402

import psycopg  # noqa: E402

from cells.cluster import Cluster  # noqa: E402
from cells.demo import (  # noqa: E402
    ADD_WEBHOOKS,
    CELLS,
    TRIGGER,
    Site,
    database_urls,
    owners_of_cells,
)  # fmt: skip


def processor_seconds(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def postgres_seconds() -> float:
    """Of this run's server alone, with its sessions."""
    for process in psutil.process_iter(["name", "cmdline"]):
        if process.info["name"] == "postgres" and "cells-throughput" in str(
            process.info["cmdline"]
        ):
            of_sessions = [processor_seconds(one.pid) for one in process.children()]
            return processor_seconds(process.pid) + sum(of_sessions)
    return 0.0


class Watch:
    """Processor time by part, from the start on."""

    def __init__(self, cluster: Cluster, processes: dict[str, subprocess.Popen[bytes]]) -> None:
        self._cluster, self._processes = cluster, processes
        self._before = self._now()

    def _now(self) -> dict[str, float]:
        found = {name: processor_seconds(one.pid) for name, one in self._processes.items()}
        found["three nodes"] = sum(map(processor_seconds, self._cluster.pids.values()))
        found["postgres"] = postgres_seconds()
        return found

    def spent(self, events: int) -> str:
        parts = {name: value - self._before[name] for name, value in self._now().items()}
        return ", ".join(f"{name} {spent / events * 1e6:.0f}" for name, spent in parts.items())


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=60_000)
    parser.add_argument("--streams", type=int, default=2)
    parser.add_argument("--webhooks", action="store_true", help="One for each owner.")
    options = parser.parse_args()
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cells-log-")))
        cluster = stack.enter_context(Cluster(home / "nats"))
        urls, redis_url = database_urls(BASE_DIR / "var" / "cells-throughput")
        site = Site(home, cluster.url, urls, redis_url)
        site.prepare(options.streams)
        owners = owners_of_cells(100)
        if options.webhooks:
            for cell in CELLS:
                request = json.dumps([owners[cell], "http://127.0.0.1:9/", {}])
                site.manage(cell, "shell", "-v", "0", "-c", ADD_WEBHOOKS, text=request)
        everybody = [owner for pair in zip(*owners.values(), strict=True) for owner in pair]
        request = json.dumps([everybody, options.events])
        began = time.monotonic()
        site.manage("producer", "shell", "-v", "0", "-c", TRIGGER, text=request)
        say(f"stored by the producer: {options.events / (time.monotonic() - began):,.0f}/s")

        consumers = {f"consumer {cell}": site.start(cell, "cells", "consume") for cell in CELLS}
        time.sleep(4)
        relay = {"relay": site.start("producer", "cells", "relay")}
        databases = [stack.enter_context(psycopg.connect(urls[cell])) for cell in CELLS]
        for database in databases:
            database.autocommit = True
        first = "SELECT EXISTS (SELECT FROM webhooks_event WHERE type = 'payment.succeeded')"
        while not any(one.execute(first).fetchone() == (True,) for one in databases):
            time.sleep(0.005)
        began, watch = time.monotonic(), Watch(cluster, relay | consumers)
        stored = "SELECT count(*) FROM webhooks_event WHERE type = 'payment.succeeded'"

        def so_far() -> int:
            return sum(int((one.execute(stored).fetchone() or (0,))[0]) for one in databases)

        at_first = so_far()
        while so_far() < options.events:
            time.sleep(0.25)
        seconds, events = time.monotonic() - began, options.events - at_first
        say(f"into two cells: {events / seconds:,.0f}/s ({events:,} in {seconds:.1f} s)")
        say(f"processor time, us/event: {watch.spent(events)}")
        files = (home / "nats" / "node0").rglob("*")
        size = sum(file.stat().st_size for file in files if file.is_file())
        say(f"on the disk of each node: {size / options.events:,.0f} bytes/event")
        for process in (relay | consumers).values():
            process.kill()
            process.wait()
    return 0


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
