"""Save models at a steady rate and measure from each save to the receipt of its webhook."""

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import psutil

from benchmarks import harness
from config.services import BASE_DIR
from projects.models import Project, User
from sessions_app.models import Session, SessionMessage
from webhooks.models import Event


@dataclass
class Recorder:
    """A recording receiver that runs; `received` is known once it has stopped."""

    url: str
    path: Path
    process: psutil.Process

    @property
    def received(self) -> dict[str, float]:
        """Return the first arrival of each event id, in Unix seconds."""
        first: dict[str, float] = {}
        for line in self.path.read_text().splitlines():
            event_id, _, at = line.partition(" ")
            first.setdefault(event_id, float(at))
        return first


@contextmanager
def recording(*options: str) -> Iterator[Recorder]:
    """Run a recording receiver in a process of its own, with its command's options."""
    path = harness.path_of("bench-received")
    path.unlink(missing_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.recording_receiver", str(path), *options],
        cwd=BASE_DIR,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield Recorder(process.stdout.readline().strip(), path, psutil.Process(process.pid))
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def make_sessions(owners: Sequence[User]) -> list[Session]:
    """Return one session of each owner."""
    projects = [Project.objects.create(owner=owner, name="P") for owner in owners]
    return [
        Session.objects.create(project=project, owner=project.owner, title="S")
        for project in projects
    ]


def save_messages(sessions: Sequence[Session], rate: float, seconds: float) -> None:
    """Save messages, dealt out to the sessions in turn, each at its planned time (open loop)."""
    started_at = time.perf_counter()
    for number in range(int(rate * seconds)):
        delay = started_at + number / rate - time.perf_counter()
        if delay > 0:
            time.sleep(delay)
        SessionMessage.objects.create(
            session=sessions[number % len(sessions)], sender="agent", content="Working on it. " * 20
        )


def latencies_ms(recorder: Recorder, owners: Sequence[User], *, since: datetime) -> list[float]:
    """Return the milliseconds from building each event of these owners, before its commit, to its
    receipt; sorted. Fails when one never arrived."""
    events = Event.objects.filter(
        type="session.message",
        owner_id__in=[owner.id for owner in owners],
        created_at__gt=since,
    )
    received = recorder.received
    return sorted(
        1000 * (received[event.public_id] - event.created_at.timestamp())
        for event in events.only("id", "created_at")
    )


def percentile(values: Sequence[float], share: float) -> float:
    return values[min(len(values) - 1, int(share * len(values)))]
