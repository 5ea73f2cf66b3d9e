"""One chaos run from the first webhook to the verdict."""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.db.models import Count, DurationField, F, Min
from django.db.models.functions import Now

from config.services import BASE_DIR
from projects.models import User
from tests.chaos import causes
from tests.chaos.crew import Crew
from tests.chaos.evidence import Evidence
from tests.chaos.faults import Fault, Faults, Kind, Stage
from tests.chaos.receiver import ADDRESSES, HOST
from tests.chaos.recipients import RETRIES, Recipient, Secret, Span
from tests.chaos.timing import Times
from tests.chaos.verdict import Verdict, judge
from webhooks import service
from webhooks.models import ApiToken, Delivery, Redelivery, Webhook

OWNERS = 6
SAID_SECONDS = 30
STANDSTILL_SECONDS = 60
"""After this long without any progress nothing more is waited for."""
LONG_MINUTES = 3.0
"""In runs of at least this length the webhooks for messages have the timeout that is the default;
shorter ones end sooner without."""
DEFAULT_SECONDS = 15
SHORT_SECONDS = 2
SLOW_SECONDS = 25
"""For a receiver that takes fifteen."""
ALL = ["*"]
KINDS: dict[str, tuple[list[str], str]] = {
    "all": (ALL, "none"), "messages": (["session.*"], "none"), "ordered": (ALL, "all"),
    "objects": (ALL, "object"),
}  # fmt: skip
"""Each owner's webhooks: their patterns and their order."""


@dataclass(frozen=True)
class Setting:
    """Where a run takes place."""

    name: str
    """Of its files in var/."""
    certificates: Path
    """The folder with those of the receiver."""
    kinds: Sequence[Kind]
    make_crew: Callable[[list[Recipient], str], Crew]
    """Makes the processes, given the webhooks and the token of the HTTP API's client."""
    receiver_prefix: Sequence[str] = ()
    """What its command begins with."""


def run(setting: Setting, options: argparse.Namespace) -> int:
    """Break things for as long as asked, print the verdict, return the exit status."""
    ledger = BASE_DIR / "var" / f"{setting.name}-ledger.jsonl"
    ledger.write_text("")
    seconds = options.minutes * 60
    with running_receiver(setting, options.seed, ledger) as port:
        recipients, token = _build(port, is_long=options.minutes >= LONG_MINUTES)
        crew = setting.make_crew(recipients, token)
        stage = Stage(crew, seconds)
        only = [kind for kind in options.faults.split(",") if kind]
        faults = Faults(stage, setting.kinds, only)
        try:
            crew.start()
            _break_for(stage, faults, seconds)
            producers = crew.stop_producing()
            settled_after = _settle()
            problems = crew.stop()
        finally:
            crew.close()
    evidence = Evidence(
        causes.read(crew.causes),
        {recipient.path: recipient for recipient in crew.recipients},
        faults.done,
        crew.network.address_moves,
    )
    evidence.read_ledger(ledger)
    evidence.read_feed(crew.feed)
    verdict = judge(evidence)
    if any(producers):
        problems.append(f"producers ended with {producers}")
    if idle := causes.idle(crew.causes):
        problems.append(f"producers committed nothing: {', '.join(idle)}")
    if problems:
        verdict.broken["did not end in order"] += problems
    figures = _figures(verdict, faults.done, options.seed, settled_after)
    _print(figures)
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=2))
    return 1 if verdict.broken else 0


@contextmanager
def running_receiver(setting: Setting, seed: int, ledger: Path) -> Iterator[int]:
    """Run the receiver on one port of its addresses."""
    arguments = [str(seed), str(ledger), str(setting.certificates)]
    process = subprocess.Popen(
        [*setting.receiver_prefix, sys.executable, "-m", "tests.chaos.receiver", *arguments],
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


def _build(port: int, *, is_long: bool) -> tuple[list[Recipient], str]:
    """Make the owners, their webhooks, the platform's, and a token for the HTTP API."""
    # Before the webhook that would hear of it.
    billing = User.objects.create(username="billing", email="billing@example.com", is_staff=True)
    recipients = []
    for number in range(OWNERS):
        owner = User.objects.create(username=f"u{number}", email=f"u{number}@example.com")
        for kind, (patterns, order) in KINDS.items():
            # One kind without a name that can move.
            host = ADDRESSES[0] if kind == "messages" else HOST
            url = f"https://{host}:{port}/{number}/{kind}"
            timeout = DEFAULT_SECONDS if kind == "messages" and is_long else SHORT_SECONDS
            recipients.append(_register(owner, url, patterns, timeout, order=order))
    slow = _register(
        User.objects.get(username="u0"),
        f"https://{HOST}:{port}/0/slow",
        ["agent.*"],
        SLOW_SECONDS,
    )
    url = f"https://{HOST}:{port}/platform"
    platform = _register(None, url, ALL, SHORT_SECONDS, is_platform=True)
    _, token = ApiToken.objects.issue(
        billing, name="chaos", scopes=["trigger"], lifetime=None, is_service=True
    )
    return [*recipients, slow, platform], token


def _register(
    owner: User | None,
    url: str,
    patterns: list[str],
    timeout_seconds: int,
    *,
    order: str = "none",
    is_platform: bool = False,
) -> Recipient:
    began_at = time.time()
    webhook = service.create_webhook(
        owner,
        name="chaos",
        url=url,
        events=patterns,
        order=order,
        retry_schedule=RETRIES,
        is_platform=is_platform,
        timeout_seconds=timeout_seconds,
    )
    return Recipient(
        "/" + url.split("/", 3)[3],
        None if owner is None else str(owner.id),
        patterns,
        order,
        Span(began_at, time.time()),
        [Secret(webhook.secret, 0.0)],
        webhook,
    )


def _break_for(stage: Stage, faults: Faults, seconds: float) -> None:
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
        time.sleep(stage.dice.uniform(0.5, 4))
    stage.end()


def _settle() -> float:
    """Wait until nothing waits any more; return how long that took, and say what takes long."""
    started_at = progress_at = said_at = time.monotonic()
    left = -1
    while time.monotonic() - progress_at < STANDSTILL_SECONDS:
        before, left = left, _count_unfinished()
        if left == 0:
            break
        if left != before:
            progress_at = time.monotonic()
        # A breaker that opened while the receiver misbehaved would make us wait for minutes.
        Webhook.objects.exclude(breaker_state="closed").update(
            breaker_state="closed", breaker_failures=0
        )
        if time.monotonic() - said_at > SAID_SECONDS:
            said_at = time.monotonic()
            _say_what_is_left()
        time.sleep(0.5)
    return time.monotonic() - started_at


def _count_unfinished() -> int:
    running = Redelivery.objects.filter(status=Redelivery.Status.RUNNING)
    return Delivery.objects.filter(finished_at=None).count() + running.count()


def _say_what_is_left() -> None:
    by = ("webhook__url", "webhook__breaker_state", "status", "is_suspect", "claimed_by", "epoch")
    left = Delivery.objects.filter(finished_at=None).values_list(*by)
    in_seconds = Min(F("next_attempt_at") - Now(), output_field=DurationField())
    for *group, count, due in left.annotate(count=Count("id"), due=in_seconds):
        print("  still left:", count, *group, f"due in {due}", flush=True)


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
        "redelivered": verdict.redelivered,
        "inFeed": verdict.in_feed,
        "recoverySeconds": _spread(verdict.times.recoveries),
        "standstillSeconds": _spread(verdict.times.standstills),
        "orderedStandstillSeconds": _spread(verdict.times.ordered_standstills),
        "byFault": _by_fault(verdict.times),
        "settledAfterSeconds": round(settled_after),
        "broken": {name: len(examples) for name, examples in verdict.broken.items()},
        "examples": {name: examples[:5] for name, examples in verdict.broken.items()},
    }


def _spread(measured: list[tuple[str, float]]) -> dict[str, float]:
    in_order = sorted(seconds for _, seconds in measured)
    if not in_order:
        return {"count": 0}
    return {
        "count": len(in_order),
        "median": round(statistics.median(in_order), 2),
        "p99": round(in_order[int(0.99 * len(in_order))], 2),
        "max": round(in_order[-1], 2),
    }


def _by_fault(times: Times) -> dict[str, dict[str, float]]:
    """Return the longest times in seconds for each kind of fault."""
    longest: dict[str, dict[str, float]] = {}
    for name, measured in vars(times).items():
        for kind, seconds in measured:
            of_kind = longest.setdefault(kind, {})
            of_kind[name] = max(of_kind.get(name, 0.0), round(seconds, 2))
    return dict(sorted(longest.items()))


def _print(figures: dict[str, Any]) -> None:
    print()
    for name, figure in figures.items():
        if name not in ("broken", "examples", "byFault"):
            print(f"  {name:<26}{figure}")
    for name, count in figures["broken"].items():
        print(f"BROKEN  {name}: {count}, such as {', '.join(figures['examples'][name])}")
    if not figures["broken"]:
        what = "Nothing"
        if count := figures["transactions"].get("forgotten"):
            what = f"Nothing but the {count} transactions that went down with a server"
        print(f"{what} was lost, out of order or uncaused; every duplicate is explained.")
