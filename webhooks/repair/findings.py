"""What a check of the doctor found."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any


class Level(IntEnum):
    """How bad a finding is."""

    OK = 0
    WARNING = 1
    FAILURE = 2


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    check: str
    level: Level
    message: str
    mend: str = ""
    """The command, or else the step, that mends it; empty where nothing is to be done."""
    count: int = 0
    """Of rows concerned."""
    ids: list[str] = field(default_factory=list)
    """Public ids of the first of them."""


Check = Callable[[], Iterator[Finding]]


def ok(check: str, message: str) -> Finding:
    return Finding(check, Level.OK, message)


def warning(check: str, message: str, mend: str, **rows: Any) -> Finding:
    return Finding(check, Level.WARNING, message, mend, **rows)


def failure(check: str, message: str, mend: str, **rows: Any) -> Finding:
    return Finding(check, Level.FAILURE, message, mend, **rows)
