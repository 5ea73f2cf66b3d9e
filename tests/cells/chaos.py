"""Cells while everything is killed: `python -m tests.cells.chaos --events 20000 --kills 5`.

A producer stores events all the time. Each node of the log, relay, consumer, worker and Postgres is killed
(SIGKILL; SIGQUIT for Postgres, which is its crash) as often as asked, and one slot moves there and back.
Afterwards every event of the producer's database must have arrived, none before an earlier one of its
webhook, none twice unless a worker or a Postgres that was killed explains it, and the auditor must find
nothing in either cell.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

import django

from config.embedded import DATABASE
from config.services import BASE_DIR, provide_services

os.environ["DEBUG"] = "1"
os.environ["DJANGO_SETTINGS_MODULE"] = "config.settings"
for name in ("DATABASE_URL", "REDIS_URL"):
    os.environ.pop(name, None)
provide_services(BASE_DIR / "var" / "cells-chaos")
django.setup()

from cells.cluster import Cluster  # noqa: E402 (its servers are there now)
from cells.demo import ADD_WEBHOOKS, CELLS, PLACES, Site, owners_of_cells  # noqa: E402
from cells.slots import slot_of  # noqa: E402
from tests import clusters  # noqa: E402
from tests.chaos.crew import kill_all, tree  # noqa: E402
from tests.chaos.faults import Fault  # noqa: E402
from tests.chaos.kinds.held import held_by, public  # noqa: E402
from tests.chaos.postgres import Postgres  # noqa: E402
from tests.chaos.repeats import Repeats  # noqa: E402
from webhooks.ids import DELIVERY_PREFIX  # noqa: E402
from webhooks.models import Delivery  # noqa: E402
from webhooks.workbench.receiver import HttpReceiver, Received  # noqa: E402

OWNERS = 20
PAUSE_SECONDS = 2.0
AUDITS = 5

LATE_SQL = """
SELECT FROM webhooks_attempt a
  JOIN webhooks_delivery d ON d.id = a.delivery_id
  JOIN webhooks_webhook w ON w.id = d.webhook_id
 WHERE a.delivery_id = %s AND a.number = %s AND a.response_code IS NULL
   AND a.failure_kind = 'timeout' AND a.duration_ms >= 900 * w.timeout_seconds
"""
# Until told to stop, or so many; an error of Postgres is only the end of a transaction.
PRODUCE = """
import json, sys, time
from django.db import Error, connection
from webhooks.service import Trigger, trigger_events
owners, count, per_second = json.loads(sys.stdin.read())
done, began = 0, time.monotonic()
while done < count:
    try:
        trigger_events(
            Trigger("payment.succeeded", owners[n % len(owners)], {
                "id": f"pay_{n}", "subscriptionId": None, "amount": n, "currency": "EUR",
                "paidAt": "2026-11-23T10:30:00.000Z"})
            for n in range(done, min(done + 20, count))
        )
        done += 20
    except Error:
        connection.close()
        time.sleep(0.2)
    time.sleep(max(0, done / per_second - (time.monotonic() - began)))
"""


class Arrival(NamedTuple):
    at: float
    """In Unix seconds."""
    delivery: str
    attempt: int


class Run:
    def __init__(self, stack: ExitStack, dice: random.Random) -> None:
        self.dice = dice
        self.arrived: defaultdict[str, list[Arrival]] = defaultdict(list)
        """By the id of the event, in the order of the first arrivals."""
        self.faults: list[Fault] = []
        self.received = 0
        self.unsigned = 0
        self.receiver = stack.enter_context(HttpReceiver(on_request=self.hear, keep=1))
        self.postgres: dict[str, Postgres] = {}
        for place in PLACES:
            home = stack.enter_context(clusters.folder())
            public = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cells-")))
            public.chmod(0o755)
            self.postgres[place] = Postgres(home, public, {})
            self.postgres[place].start_first()
            stack.callback(self.postgres[place].stop, signal.SIGINT)
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cells-log-")))
        self.home = home
        self.cluster = stack.enter_context(Cluster(home / "nats"))
        urls = {place: one.url for place, one in self.postgres.items()}
        self.site = Site(home, self.cluster.url, urls, os.environ["REDIS_URL"])
        self.site.prepare()
        self.processes: dict[tuple[str, ...], subprocess.Popen[bytes]] = {}
        stack.callback(self.end)
        self.kills: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()

    def hear(self, received: Received) -> None:
        self.received += 1
        self.unsigned += not received.standard_ok
        arrival = Arrival(received.received_at, received.delivery_id, int(received.attempt))
        self.arrived[received.event_id].append(arrival)

    def start(self, *command: str) -> None:
        self.processes[command] = self.site.start(*command)

    def supervise(self) -> None:
        """Start again what has ended by itself, as a supervisor does."""
        for command, process in list(self.processes.items()):
            if process.poll() is not None:
                self.ended[" ".join(command)] += 1
                self.start(*command)

    def end(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()

    # What is killed.

    def victims(self) -> dict[str, Callable[[], None]]:
        found: dict[str, Callable[[], None]] = {}
        for node in range(3):
            found[f"node {node}"] = partial(self.kill_node, node)
        for command in self.processes:
            found[" ".join(command)] = partial(self.kill_process, command)
        for place in PLACES:
            found[f"postgres {place}"] = partial(self.kill_postgres, place)
        return found

    def kill_node(self, node: int) -> None:
        self.cluster.kill(node)
        time.sleep(1)
        self.cluster.start(node)
        self.cluster.wait_until_ready()

    def kill_process(self, command: tuple[str, ...]) -> None:
        process = self.processes[command]
        if command[1:] == ("webhooks_worker",):
            self.kill_worker(command[0], process)
        else:
            process.kill()
        process.wait()
        self.start(*command)

    def kill_worker(self, cell: str, worker: subprocess.Popen[bytes]) -> None:
        """Stop it in the middle of everything, note what it holds, and kill it."""
        fault = Fault(f"worker of {cell}", time.time())
        processes = tree(worker)
        for process in processes:
            process.suspend()
        with self.inside(cell):
            fault.may_repeat = held_by(processes)
        fault.repeats_until = time.time() + 1
        kill_all(processes)
        self.faults.append(fault)

    def kill_postgres(self, place: str) -> None:
        """Nobody gets to it before it is noted what it does not know to be finished."""
        postgres, fault = self.postgres[place], Fault(f"postgres of {place}", time.time())
        postgres.close()
        postgres.stop(signal.SIGQUIT)
        time.sleep(0.5)
        postgres.start()
        with self.inside(place):
            open_ones = Delivery.objects.filter(finished_at=None)
            fault.may_repeat = public(open_ones.values_list("id", flat=True))
        postgres.open()
        # What was ready went out while nobody could take it back.
        fault.repeats_until = time.time() + 2
        self.faults.append(fault)

    def inside(self, place: str) -> AbstractContextManager[None]:
        """Let Django use a database, past the address of its Postgres."""
        return clusters.connected_to(clusters.Cluster(self.postgres[place].home), DATABASE)

    def wait_for(self, thread: threading.Thread) -> None:
        while thread.is_alive():
            thread.join(0.5)
            self.supervise()

    # The slot that moves.

    def move(self, slot: int, to: str, tries: list[str]) -> None:
        while True:
            ran = subprocess.run(
                [sys.executable, "manage.py", "cells", "move", str(slot), "--to", to],
                cwd=BASE_DIR,
                env=self.site.environments["producer"],
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
            tries.append(f"to {to}: {ran.returncode} {ran.stderr.strip().splitlines()[-1:]}")
            if ran.returncode == 0 or "already" in ran.stderr:
                return
            time.sleep(1)

    # The verdict.

    def audit(self, cell: str) -> list[str]:
        """What the auditor finds, once the deliveries of killed workers are taken back."""
        found: list[str] = []
        for _ in range(AUDITS):
            ran = subprocess.run(
                [sys.executable, "manage.py", "doctor", "--faults"],
                cwd=BASE_DIR,
                env=self.site.environments[cell],
                stdout=subprocess.PIPE,
                text=True,
                check=False,
            )
            found = ran.stdout.splitlines()
            if not found:
                return []
            kinds = Counter(line.split()[0] for line in found)
            say(f"{cell}: {dict(kinds)} {found[:2]} {self.open_deliveries(cell)}")
            self.supervise()
            time.sleep(5)
        return found

    def open_deliveries(self, cell: str) -> object:
        with self.postgres[cell].connect() as connection:
            return connection.execute(
                "SELECT status, count(*), min(claimed_by::text) FROM webhooks_delivery GROUP BY 1"
            ).fetchall()

    def expected(self) -> dict[str, list[str]]:
        """The ids of each owner's events, in their order, from the producer's database."""
        found: dict[str, list[str]] = {}
        order = "SELECT owner_id, id FROM webhooks_event WHERE type = 'payment.succeeded' ORDER BY epoch, transaction_id, sequence"
        with self.postgres["producer"].connect() as connection:
            for owner, id_ in connection.execute(order):
                found.setdefault(str(owner), []).append(f"evt_{id_.hex}")
        return found

    def overtaken(self, expected: dict[str, list[str]]) -> list[str]:
        """Events that came before an earlier one of their webhook."""
        ranks = {id_: rank for rank, id_ in enumerate(self.arrived)}
        found = []
        for ids in expected.values():
            last = -1
            for id_ in ids:
                rank = ranks.get(id_, -1)
                if 0 <= rank < last:
                    found.append(id_)
                last = max(last, rank)
        return found

    def repeats(self) -> tuple[Counter[str], list[str]]:
        """Return how many arrivals each fault has made repeat, and those that none explains."""
        repeats = Repeats(self.faults, self.was_late)
        found = [f"{one}: {same}" for one, same in repeats.unexplained(self.arrived.values())]
        return repeats.reasons, found

    def was_late(self, first: Arrival) -> bool:
        """The machine was so busy that the answer came after the webhook's timeout."""
        for cell in CELLS:
            with self.postgres[cell].connect() as connection:
                late = connection.execute(
                    LATE_SQL, [first.delivery.removeprefix(DELIVERY_PREFIX), first.attempt]
                )
                if late.fetchone():
                    return True
        return False


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--per-second", type=float, default=150)
    parser.add_argument("--quiet", type=float, default=240, help="Seconds for what is left then.")
    options = parser.parse_args()
    dice = random.Random(options.seed)
    with ExitStack() as stack:
        run = Run(stack, dice)
        owners = owners_of_cells(OWNERS)
        for cell in CELLS:
            request = json.dumps(
                [owners[cell], run.receiver.url, {"order": "all", "retry_schedule": [1] * 20}]
            )
            made = run.site.manage(cell, "shell", "-v", "0", "-c", ADD_WEBHOOKS, text=request)
            run.receiver.secrets += list(json.loads(made).values())
        run.start("producer", "cells", "relay")
        for cell in CELLS:
            run.start(cell, "cells", "consume")
            run.start(cell, "webhooks_worker")
        everybody = [owner for pair in zip(*owners.values(), strict=True) for owner in pair]
        request = json.dumps([everybody, options.events, options.per_second])
        produce = threading.Thread(
            target=run.site.manage,
            args=("producer", "shell", "-v", "0", "-c", PRODUCE),
            kwargs={"text": request},
        )
        began = time.monotonic()
        produce.start()
        victims = run.victims()
        schedule = [name for name in victims for _ in range(options.kills)]
        dice.shuffle(schedule)
        slot, tries = slot_of(everybody[0]), list[str]()
        moves = [(len(schedule) // 4, "b"), (len(schedule) // 2, "a")]
        mover: threading.Thread | None = None
        for number, name in enumerate(schedule):
            for at, to in moves:
                if number == at:
                    if mover is not None:
                        run.wait_for(mover)
                    mover = threading.Thread(target=run.move, args=(slot, to, tries))
                    mover.start()
            victims[name]()
            run.kills[name] += 1
            time.sleep(PAUSE_SECONDS)
            run.supervise()
        if mover is not None:
            run.wait_for(mover)
        run.wait_for(produce)
        killed_for = time.monotonic() - began
        expected = run.expected()
        total = sum(map(len, expected.values()))
        deadline = time.monotonic() + options.quiet
        while len(run.arrived) < total and time.monotonic() < deadline:
            time.sleep(0.5)
            run.supervise()
        missing = [id_ for ids in expected.values() for id_ in ids if id_ not in run.arrived]
        overtaken = run.overtaken(expected)
        say(
            f"{total:,} events, {killed_for:.0f} s with kills, {time.monotonic() - began:.0f} s in all"
        )
        say(f"kills: {dict(run.kills)}; ended by themselves: {dict(run.ended)}")
        say(f"moves of slot {slot}: {tries}")
        again = run.received - len(run.arrived)
        reasons, unexplained = run.repeats()
        say(
            f"received {run.received:,}: {len(run.arrived):,} events, {again} again; unsigned {run.unsigned}"
        )
        say(f"came again for: {dict(reasons)}")
        say(
            f"missing {len(missing)}, out of order {len(overtaken)}, unexplained {len(unexplained)}"
        )
        if missing or overtaken or unexplained:
            say(f"{missing[:5]} {overtaken[:5]} {unexplained[:5]}; logs: {keep(run.home)}")
        audits = {cell: run.audit(cell) for cell in CELLS}
        say(f"faults: {audits}")
        broken = missing or overtaken or unexplained or run.unsigned or any(audits.values())
        return int(bool(broken))


def keep(home: Path) -> str:
    kept = tempfile.mkdtemp(prefix="cells-logs-")
    subprocess.run(["cp", "-r", *map(str, home.glob("*.log")), kept], check=False)
    return kept


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
