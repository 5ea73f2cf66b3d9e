"""What producers are about to do, and what became of it: a file outside the database.

A producer writes a line before its first statement, with every event that the transaction is to
cause, and a line when it knows how it ended. The judge believes these lines and nothing that the
product stored. A producer that is killed leaves a cause without an outcome: that transaction is
judged as all or nothing.
"""

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Literal, NamedTuple

Outcome = Literal["committed", "rolled back", "unknown", "forgotten"]
"""Forgotten is what was committed and then lost with its server, as a fault has shown."""

KEYS: Mapping[str, tuple[str, ...]] = {
    "project.updated": ("id", "description"),
    "user.updated": ("id", "name"),
    "agent.status_changed": ("id", "status"),
    "storage.quota_warning": ("quotaBytes",),
    "storage.quota_exceeded": ("quotaBytes",),
}
"""What tells an event from the others of its type, where that is not the id of its object."""

OVER_SECONDS = 15.0
"""How long Postgres may go on with a transaction whose producer saw it fail; KILLED_SECONDS from its
beginning where the producer was killed."""
KILLED_SECONDS = 60.0

Key = tuple[str, ...]


def now() -> float:
    """Return the machine's time in Unix seconds, though this process may see a clock of its own."""
    # Set by whoever started a process whose clock is off.
    started_at = os.environ.get("CHAOS_MONOTONIC_SINCE")
    return time.time() if started_at is None else float(started_at) + time.monotonic()


def key_of(event_type: str, data: Mapping[str, Any]) -> Key:
    """Return what names an event by its contents."""
    return (event_type, *(str(data.get(name)) for name in KEYS.get(event_type, ("id",))))


def object_of(event_type: str, data: Mapping[str, Any]) -> Key:
    """Return what names the object that an event tells of; the event's own key if it has no id."""
    if "id" not in data:
        return key_of(event_type, data)
    kind = event_type if event_type == "session.message" else event_type.partition(".")[0]
    return kind, str(data["id"])


class Expected(NamedTuple):
    """An event that a transaction is to cause."""

    type: str
    owner: str
    data: dict[str, Any]
    """What its data must hold, among other things."""


@dataclass
class Cause:
    """One transaction of a producer; times are Unix seconds."""

    name: str
    began_at: float
    expected: list[Expected]
    never: list[Expected]
    """What it does and undoes again."""
    outcome: Outcome = "unknown"
    ended_at: float = field(default=float("inf"))
    """When the producer knew of the commit; infinity where it never did."""
    over_at: float = field(default=float("inf"))
    """When the transaction was certainly over, however it ended."""


class Causes:
    """The file of one producer; lines reach the kernel at once, so that a kill loses none."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1)
        self._numbers = count()

    @contextmanager
    def cause(
        self, expected: Sequence[Expected], never: Sequence[Expected] = ()
    ) -> Iterator[list[Outcome]]:
        """Write the cause down; the last item of the yielded list is its outcome at the end."""
        name = f"{os.getpid()}-{next(self._numbers)}-{time.time_ns()}"
        self._write(cause=name, expected=expected, never=never)
        outcomes: list[Outcome] = ["unknown"]
        try:
            yield outcomes
        finally:
            self._write(cause=name, outcome=outcomes[-1])

    def _write(self, **line: Any) -> None:
        self._file.write(json.dumps({**line, "at": now()}) + "\n")


def read(paths: Sequence[Path]) -> list[Cause]:
    """Return the causes that producers wrote down, in the order of their beginning."""
    causes: dict[str, Cause] = {}
    for path in paths:
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            if "outcome" in entry:
                cause = causes[entry["cause"]]
                cause.outcome = entry["outcome"]
                cause.over_at = entry["at"] + OVER_SECONDS
                if cause.outcome == "committed":
                    cause.ended_at = cause.over_at = entry["at"]
            else:
                expected, never = ([Expected(*e) for e in entry[k]] for k in ("expected", "never"))
                cause = Cause(entry["cause"], entry["at"], expected, never)
                cause.over_at = cause.began_at + KILLED_SECONDS
                causes[cause.name] = cause
    return sorted(causes.values(), key=lambda cause: cause.began_at)


def idle(paths: Iterable[Path]) -> list[str]:
    """Return the numbers of the producers that committed nothing in any of their files."""
    busy: dict[str, bool] = {}
    for path in paths:
        number = path.stem.rpartition("-")[2]
        has_committed = any(cause.outcome == "committed" for cause in read([path]))
        busy[number] = busy.get(number, False) or has_committed
    return sorted(number for number, is_busy in busy.items() if not is_busy)
