"""POST /events and /events/batch by many clients at once: how many, at what cost, how soon answered.

Beside the same server that answers a constant and that inserts one row and commits. A single case:
`python -m benchmarks door --connections 32 --tenants 50 --delivering --seconds 10`.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil

from benchmarks import bare_door, harness, load, orders, steady
from benchmarks.harness import Goal, Series, ratio
from benchmarks.processors import PartTimes
from benchmarks.receiver import Receiver
from benchmarks.web import BARE, INTERFACES, OURS, USUAL, Web, running_web
from projects.models import User
from webhooks.models import ApiToken

WARM_UP_SECONDS = 1.5
SHARE_OF_CAPACITY = 0.8
"""Of the rate that was reached: what a server should serve without a queue."""
OURS_ARE = ("web", "worker", "Postgres", "Valkey")
"""The parts that count; the client and the receiver do not."""


@dataclass(frozen=True)
class Case:
    """How events are posted."""

    connections: int = 32
    batch: int = 0
    """Events of each POST; 0 for single ones."""
    keys: str = "none"
    processes: int = 1
    tenants: int = 1
    delivering: bool = False

    @property
    def name(self) -> str:
        words = [
            f"{self.connections} connections",
            f"batches of {self.batch:,}" * bool(self.batch),
            f"keys in the {self.keys}" * (self.keys != "none"),
            f"{self.processes} processes" * (self.processes > 1),
            f"{self.tenants} tenants" * (self.tenants > 1),
            "delivering" * self.delivering,
        ]
        return ", ".join(filter(None, words))


CASES = [
    Case(),
    Case(delivering=True),
    Case(connections=256),
    Case(keys="body"),
    Case(keys="header"),
    Case(processes=2),
    Case(tenants=50),
    Case(tenants=50, delivering=True),
    Case(connections=4, batch=10),
    Case(connections=4, batch=100),
    Case(connections=4, batch=1000),
]

parser = argparse.ArgumentParser(prog="benchmarks door")
parser.add_argument("--connections", type=int, default=Case.connections)
parser.add_argument("--batch", type=int, default=0, help="Events of each POST; 0: single ones.")
parser.add_argument("--keys", choices=("none", "body", "header"), default="none")
parser.add_argument("--processes", type=int, default=1, help="Web processes (1).")
parser.add_argument("--tenants", type=int, default=1, help="Owners, by userId if above 1.")
parser.add_argument("--delivering", action="store_true", help="Deliver meanwhile.")
parser.add_argument("--server", choices=INTERFACES, default=USUAL)
parser.add_argument("--threads", type=int, default=32, help="Of each web process (32).")
parser.add_argument("--seconds", type=float, default=5, help="How long each is measured (5).")
options = parser.parse_args([])
_usual = vars(options).copy()


@dataclass
class Phase:
    """Some seconds of POSTs to one application."""

    rate: float
    """Events accepted per second."""
    costs: dict[str, float]
    """Milliseconds of processor time per event, of each part."""
    posted: list[float]
    """Milliseconds of each POST, from its planned time at a steady rate; sorted."""
    megabytes: float
    """Of the largest web process, at the end."""

    @property
    def total(self) -> float:
        return sum(self.costs.get(part, 0.0) for part in OURS_ARE)


@dataclass
class Posting:
    """A client, the web processes that it posts to, and a worker."""

    web: Web
    client: orders.Servant
    worker: psutil.Process
    order: dict[str, Any]
    case: Case

    def phase(self, seconds: float, *, rate: float = 0) -> Phase:
        """Post at a rate (events per second), without one as fast as possible, and have it
        delivered where the case says so."""
        used = PartTimes(
            {"web": [self.web.root], "client": [self.client.process], "worker": [self.worker]}
        )
        each = self.case.batch or 1
        report = self.client.do(**self.order, seconds=seconds, rate=rate / each)
        if report["failed"]:
            sys.exit(f"Failed: {report['failed']}")
        if self.case.delivering:
            harness.wait_for_deliveries(120)
        events = each * len(report["sent"])
        return Phase(
            events / report["seconds"],
            {part: 1000 * spent / events for part, spent in used.seconds().items()},
            sorted(milliseconds for _, _, milliseconds in report["sent"]),
            self.web.megabytes,
        )


def run(receiver: Receiver, rounds: int) -> dict[str, Any]:
    cases = CASES
    named = {name for name in vars(Case()) if vars(options)[name] != _usual[name]}
    if named:
        cases = [Case(**{name: vars(options)[name] for name in vars(Case())})]
    return {case.name: _case(case, receiver, rounds) for case in cases}


def _case(case: Case, receiver: Receiver, rounds: int) -> dict[str, Any]:
    path = "/api/v1/events/batch" if case.batch else "/api/v1/events"
    # One row each, whatever ours are.
    single = Case(connections=case.connections, processes=case.processes)
    ours: list[Phase] = []
    calm: list[Phase] = []
    inserts: list[Phase] = []
    constants: list[Phase] = []
    for _ in range(rounds):
        with posting(case, OURS, path, receiver.url) as ready:
            ours.append(ready.phase(options.seconds))
            calm.append(ready.phase(options.seconds, rate=SHARE_OF_CAPACITY * ours[-1].rate))
        for bare_path, phases in (("/insert", inserts), ("/constant", constants)):
            with posting(single, BARE, bare_path, receiver.url) as ready:
                phases.append(ready.phase(options.seconds))
    accepted = Series("accepted", "/s", [one.rate for one in ours])
    inserted = Series("bare: view with one insert", "/s", [one.rate for one in inserts])
    constant = Series("bare: view that answers a constant", "/s", [one.rate for one in constants])
    total = Series("everything", "ms CPU", [one.total for one in ours])
    bare_total = Series("bare: view with one insert, all", "ms CPU", [one.total for one in inserts])
    table = [accepted, inserted, constant, total, bare_total]
    table += [
        Series(part, "ms CPU", [one.costs.get(part, 0.0) for one in ours])
        for part in (*OURS_ARE, "client")
    ]
    for what, phases in (("POST", ours), (f"POST at {SHARE_OF_CAPACITY:.0%}", calm)):
        for share in (0.5, 0.99):
            values = [steady.percentile(one.posted, share) for one in phases]
            table.append(Series(f"{what}, p{share * 100:g}", "ms", values))
    table.append(Series("web process", "MB", [one.megabytes for one in ours]))
    goal = 0.9 if case == Case(delivering=True) else None
    return harness.show(
        f"POST by {case.name}; for each event",
        table,
        [
            Goal("accepted / bare insert", ratio(accepted, inserted)),
            Goal("everything / bare insert", ratio(total, bare_total)),
            Goal("everything, ms CPU", total.median, goal, at_most=True),
            Goal("web process, MB", table[-1].median, 120, at_most=True, form="{:,.0f}"),
        ],
        digits=2,
    )


@contextmanager
def posting(
    case: Case,
    applications: dict[str, str],
    path: str,
    url: str,
    *,
    server: str | None = None,
) -> Iterator[Posting]:
    """Run what a case needs, on empty tables; the block starts when it is warm."""
    harness.empty_tables()
    bare_door.make_tables()
    caller, *owners = harness.make_owners(1 + (case.tenants if case.tenants > 1 else 0))
    harness.make_webhooks(owners or [caller], url)
    if not case.delivering:
        harness.hold_back()
    names: list[str | None] = [str(owner.pk) for owner in owners] or [None]
    prepared = requests(path, service_token(caller), names, batch=case.batch, keys=case.keys)
    running = running_web(
        applications,
        server=server or options.server,
        processes=case.processes,
        threads=options.threads,
    )
    with (
        running as web,
        harness.running_workers(1) as (worker,),
        orders.running("benchmarks.load") as client,
    ):
        order = {"port": web.port, "connections": case.connections, "requests": prepared}
        ready = Posting(web, client, worker, order, case)
        ready.phase(WARM_UP_SECONDS)
        yield ready


# What is posted.


def service_token(owner: User) -> str:
    """Make the owner one of the staff and return a service token of his."""
    User.objects.filter(pk=owner.pk).update(is_staff=True)
    _, text = ApiToken.objects.issue(
        owner, name="bench", scopes=["trigger"], lifetime=None, is_service=True
    )
    return text


def requests(
    path: str,
    token: str,
    owner_ids: Sequence[str | None],
    *,
    batch: int = 0,
    keys: str = "none",
) -> list[str]:
    """Return a POST for each owner; a batch names all of them in turn."""
    if batch:
        events = [
            _event(owner_ids[n % len(owner_ids)], f"{load.KEY}-{n}" * (keys == "body"))
            for n in range(batch)
        ]
        bodies = [json.dumps({"events": events})]
    else:
        key = load.KEY * (keys == "body")
        bodies = [json.dumps(_event(owner_id, key)) for owner_id in owner_ids]
    headers = [f"Idempotency-Key: {load.KEY}"] if keys == "header" else []
    return [load.request(path, body, token, *headers) for body in bodies]


def _event(owner_id: str | None, key: str) -> dict[str, Any]:
    event: dict[str, Any] = {"type": "session.message", "data": harness.message()}
    if owner_id:
        event["userId"] = owner_id
    if key:
        event["idempotencyKey"] = key
    return event
