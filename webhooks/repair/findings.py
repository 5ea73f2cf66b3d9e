"""Findings: the results of the doctor's checks."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any


class Level(IntEnum):
    """The severity of a finding."""

    OK = 0
    WARNING = 1
    FAILURE = 2


@dataclass(frozen=True)
class Finding:
    """One result of a check."""

    check: str
    level: Level
    message: str
    mend: str = ""
    """The command or step that fixes the problem; empty if there is none to fix."""
    count: int = 0
    """The number of affected rows."""
    ids: list[str] = field(default_factory=list)
    """The public ids of the first affected rows."""


Check = Callable[[], Iterator[Finding]]


def ok(check: str, message: str) -> Finding:
    """Return a finding without a problem."""
    return Finding(check, Level.OK, message)


def warning(check: str, message: str, mend: str, **rows: Any) -> Finding:
    """Return a warning; `rows` are `count` and `ids`."""
    return Finding(check, Level.WARNING, message, mend, **rows)


def failure(check: str, message: str, mend: str, **rows: Any) -> Finding:
    """Return a failure; `rows` are `count` and `ids`."""
    return Finding(check, Level.FAILURE, message, mend, **rows)
