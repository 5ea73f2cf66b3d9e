"""One chaos run from the first webhook to the verdict."""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from config.services import BASE_DIR
from projects.models import User
from tests.chaos import causes
from tests.chaos.faults import Fault, Faults
from tests.chaos.verdict import Verdict, judge
from tests.chaos.world import (
    HOST,
    SLOW_TIMEOUT_SECONDS,
    TIMEOUT_SECONDS,
    Recipient,
    Servers,
    Span,
    World,
)
from webhooks import service
from webhooks.models import ApiToken, Delivery, Webhook

OWNERS = 6
STANDSTILL_SECONDS = 60
"""After this long without any progress nothing more is waited for."""
RETRIES = [1, 1, 1, *[2] * 17]
ALL = ["*"]
KINDS: dict[str, tuple[list[str], bool]] = {
    "all": (ALL, False), "messages": (["session.*"], False), "ordered": (ALL, True),
}  # fmt: skip
"""Each owner's webhooks: their patterns, and whether they are ordered."""


def run(servers: Servers, options: argparse.Namespace) -> int:
    """Break things for as long as asked, print the verdict, return the exit status."""
    ledger = BASE_DIR / "var" / "chaos-ledger.jsonl"
    ledger.write_text("")
    seconds = options.minutes * 60
    with running_receiver(options.seed, ledger) as port:
        recipients, token = _build(port)
        world = World(options.seed, options.workers, servers, recipients, token)
        kinds = [kind for kind in options.faults.split(",") if kind]
        faults = Faults(world, seconds, kinds)
        world.start()
        try:
            if options.without_valkey:
                time.sleep(seconds)
            else:
                _break_for(world, faults, seconds)
            producers = world.stop_producing()
            settled_after = _settle()
        finally:
            exits = world.stop()
    caused = causes.read(world.causes)
    verdict = judge(ledger, caused, world.recipients, faults.done, world.address_moves)
    if any(exits):
        verdict.broken["stuck"].append(f"workers ended with {exits} after SIGTERM")
    if any(producers):
        verdict.broken["stuck"].append(f"producers ended with {producers}")
    figures = _figures(verdict, faults.done, options.seed, settled_after)
    _print(figures)
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=2))
    return 1 if verdict.broken else 0


@contextmanager
def running_receiver(seed: int, ledger: Path) -> Iterator[int]:
    """Run the receiver on one port of its addresses."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.chaos.receiver", str(seed), str(ledger)],
        cwd=BASE_DIR,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _build(port: int) -> tuple[list[Recipient], str]:
    """Make the owners, their webhooks, the platform's, and a token for the HTTP API."""
    # Before the webhook that would hear of it.
    billing = User.objects.create(username="billing", email="billing@example.com", is_staff=True)
    recipients = []
    for number in range(OWNERS):
        owner = User.objects.create(username=f"u{number}", email=f"u{number}@example.com")
        for kind, (patterns, ordered) in KINDS.items():
            # One kind without a name that can move.
            host = "127.0.0.1" if kind == "messages" else HOST
            url = f"http://{host}:{port}/{number}/{kind}"
            recipients.append(_register(owner, url, patterns, ordered=ordered))
    slow = _register(
        User.objects.get(username="u0"),
        f"http://{HOST}:{port}/0/slow",
        ["agent.*"],
        timeout_seconds=SLOW_TIMEOUT_SECONDS,
    )
    platform = _register(None, f"http://{HOST}:{port}/platform", ALL, is_platform=True)
    _, token = ApiToken.objects.issue(
        billing, name="chaos", scopes=["trigger"], lifetime=None, is_service=True
    )
    return [*recipients, slow, platform], token


def _register(
    owner: User | None, url: str, patterns: list[str], *, ordered: bool = False, **settings: Any
) -> Recipient:
    began_at = time.time()
    settings = {"timeout_seconds": TIMEOUT_SECONDS, **settings}
    webhook = service.create_webhook(
        owner,
        name="chaos",
        url=url,
        events=patterns,
        ordered=ordered,
        retry_schedule=RETRIES,
        **settings,
    )
    return Recipient(
        "/" + url.split("/", 3)[3],
        None if owner is None else str(owner.id),
        patterns,
        ordered,
        Span(began_at, time.time()),
        [(0.0, webhook.secret)],
        webhook,
    )


def _break_for(world: World, faults: Faults, seconds: float) -> None:
    began_at = time.monotonic()
    moves = [
        (seconds * number / (len(faults.moves) + 1), move)
        for number, move in enumerate(faults.moves, start=1)
    ]
    while (passed := time.monotonic() - began_at) < seconds:
        if moves and passed >= moves[0][0]:
            fault: Fault | None = faults.carry_out(moves.pop(0)[1])
        else:
            fault = faults.break_something()
        if fault:
            print(f"{time.strftime('%H:%M:%S')}  {fault.kind}", flush=True)
        time.sleep(world.dice.uniform(0.5, 4))
    faults.end()


def _settle() -> float:
    """Wait until nothing waits any more; return how long that took."""
    started_at = progress_at = time.monotonic()
    left = -1
    while time.monotonic() - progress_at < STANDSTILL_SECONDS:
        before, left = left, Delivery.objects.filter(finished_at=None).count()
        if left == 0:
            break
        if left != before:
            progress_at = time.monotonic()
        # A breaker that opened while the receiver misbehaved would make us wait for minutes.
        Webhook.objects.exclude(breaker_state="closed").update(
            breaker_state="closed", breaker_failures=0
        )
        time.sleep(0.5)
    return time.monotonic() - started_at


def _figures(
    verdict: Verdict, faults: list[Fault], seed: int, settled_after: float
) -> dict[str, Any]:
    return {
        "seed": seed,
        "faults": len(faults),
        "faultsByKind": dict(Counter(fault.kind for fault in faults)),
        "transactions": dict(verdict.causes),
        "events": verdict.events,
        "eventTypes": len(verdict.by_type),
        "eventsByType": dict(sorted(verdict.by_type.items())),
        "deliveries": verdict.owed,
        "requests": verdict.requests,
        "duplicates": verdict.duplicates.total(),
        "duplicatesByReason": dict(verdict.duplicates),
        "recoverySeconds": _spread(verdict.recoveries),
        "standstillSeconds": _spread(verdict.standstills),
        "orderedStandstillSeconds": _spread(verdict.ordered_standstills),
        "settledAfterSeconds": round(settled_after),
        "broken": {name: len(examples) for name, examples in verdict.broken.items()},
        "examples": {name: examples[:5] for name, examples in verdict.broken.items()},
    }


def _spread(seconds: list[float]) -> dict[str, float]:
    if not seconds:
        return {"count": 0}
    in_order = sorted(seconds)
    return {
        "count": len(in_order),
        "median": round(statistics.median(in_order), 2),
        "p99": round(in_order[int(0.99 * len(in_order))], 2),
        "max": round(in_order[-1], 2),
    }


def _print(figures: dict[str, Any]) -> None:
    print()
    for name, figure in figures.items():
        if name not in ("broken", "examples"):
            print(f"  {name:<26}{figure}")
    for name, count in figures["broken"].items():
        print(f"BROKEN  {name}: {count}, such as {', '.join(figures['examples'][name])}")
    if not figures["broken"]:
        print("Nothing was lost, out of order or uncaused; every duplicate is explained.")
