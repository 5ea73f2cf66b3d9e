"""One chaos run from the first webhook to the verdict."""

import json
import statistics
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from config.services import BASE_DIR
from projects.models import Project, User
from sessions_app.models import Session
from tests.chaos.verdict import Verdict, judge
from tests.chaos.world import TIMEOUT_SECONDS, Fault, World
from webhooks import service
from webhooks.models import ApiToken, Delivery, Webhook

OWNERS = 6
STANDSTILL_SECONDS = 60
"""After this long without any progress nothing more is waited for."""
RETRIES = [1, 1, 1, *[2] * 17]


def run(
    seed: int, minutes: float, workers: int, report: str | None, *, breaks_things: bool = True
) -> int:
    """Break things for `minutes`, print the verdict, return the exit status."""
    ledger = BASE_DIR / "var" / "chaos-ledger.jsonl"
    acknowledged = BASE_DIR / "var" / "chaos-acknowledged.jsonl"
    for path in (ledger, acknowledged):
        path.write_text("")
    with running_receiver(seed, ledger) as url:
        world = _build(seed, workers, url, acknowledged)
        world.start()
        try:
            if breaks_things:
                _break_for(world, minutes * 60)
            else:
                time.sleep(minutes * 60)
            producers = world.stop_producing()
            settled_after = _settle()
        finally:
            exits = world.stop()
    verdict = judge(ledger, acknowledged, world.faults, world.secrets)
    if any(exits):
        verdict.stuck.append(f"workers ended with {exits} after SIGTERM")
    if any(producers):
        verdict.stuck.append(f"producers ended with {producers}")
    _print(verdict, world.faults, seed, settled_after)
    if report:
        Path(report).write_text(json.dumps(_figures(verdict, world.faults, seed), indent=2))
    return 1 if verdict.broken else 0


@contextmanager
def running_receiver(seed: int, ledger: Path) -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.chaos.receiver", str(seed), str(ledger)],
        cwd=BASE_DIR,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _build(seed: int, workers: int, url: str, acknowledged: Path) -> World:
    webhooks: list[Webhook] = []
    secrets: defaultdict[str, list[str]] = defaultdict(list)
    for number in range(OWNERS):
        owner = User.objects.create(username=f"u{number}", email=f"u{number}@example.com")
        project = Project.objects.create(owner=owner, name="Website")
        Session.objects.create(project=project, owner=owner, title="Long")
        for kind in ("all", "messages", "ordered"):
            webhook = service.create_webhook(
                owner,
                name=kind,
                url=f"{url}{number}/{kind}",
                events=["session.*"] if kind == "messages" else ["*"],
                ordered=kind == "ordered",
                retry_schedule=RETRIES,
                timeout_seconds=TIMEOUT_SECONDS,
            )
            secrets[f"/{number}/{kind}"].append(webhook.secret)
            webhooks.append(webhook)
    service_user = User.objects.create(
        username="billing", email="billing@example.com", is_staff=True
    )
    _, token = ApiToken.objects.issue(
        service_user, name="chaos", scopes=["trigger"], lifetime=None, is_service=True
    )
    return World(seed, workers, url, webhooks, secrets, token, acknowledged)


def _break_for(world: World, seconds: float) -> None:
    end = time.monotonic() + seconds
    time.sleep(5)
    while time.monotonic() < end:
        fault = world.break_something()
        print(f"{time.strftime('%H:%M:%S')}  {fault.kind}", flush=True)
        time.sleep(world.dice.uniform(0.5, 4))


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


def _figures(verdict: Verdict, faults: list[Fault], seed: int) -> dict[str, object]:
    recoveries = [f.recovery_seconds for f in faults if f.recovery_seconds is not None]
    return {
        "seed": seed,
        "faults": len(faults),
        "byKind": dict(Counter(fault.kind for fault in faults)),
        "events": verdict.events,
        "acknowledged": verdict.acknowledged,
        "deliveries": verdict.deliveries,
        "succeeded": verdict.succeeded,
        "cancelled": verdict.cancelled,
        "requests": verdict.requests,
        "lost": len(verdict.lost),
        "sentThoughRolledBack": len(verdict.rolled_back),
        "outOfOrder": len(verdict.out_of_order),
        "duplicates": verdict.duplicates,
        "unexplainedDuplicates": len(verdict.unexplained),
        "recoverySeconds": _spread(recoveries),
        "standstillSeconds": _spread(verdict.standstills),
        "broken": {name: examples[:5] for name, examples in verdict.broken.items()},
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


def _print(verdict: Verdict, faults: list[Fault], seed: int, settled_after: float) -> None:
    figures = _figures(verdict, faults, seed)
    print(f"\nSeed {seed}: {len(faults)} faults; settled {settled_after:.0f} s after the last one.")
    for name in (
        "events", "acknowledged", "deliveries", "succeeded", "cancelled", "requests", "lost",
        "sentThoughRolledBack", "outOfOrder", "duplicates", "unexplainedDuplicates",
    ):  # fmt: skip
        print(f"  {name:<24}{figures[name]:>10,}")
    print(f"  recovery after a worker's death, s: {figures['recoverySeconds']}")
    print(f"  from a fault to the next arrival, s: {figures['standstillSeconds']}")
    print(f"  by kind: {figures['byKind']}")
    for name, examples in verdict.broken.items():
        print(f"BROKEN  {name}: {len(examples)}, such as {', '.join(examples[:5])}")
    if not verdict.broken:
        print(
            "Nothing was lost, nothing was sent that was rolled back, every duplicate is explained."
        )
