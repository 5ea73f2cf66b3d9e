"""What the current transaction has stored about each object, exact under savepoints.

Every note hangs on Django's list of on-commit hooks: Django drops from it what a savepoint's
rollback undoes, and replaces the list whenever it drops something. So a list that is still the
same object means that nothing was undone; otherwise the notes that are left are read again. A
commit or a crash leaves nothing behind.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import connection, transaction
from django.db.models import Model

from webhooks.models.writes import State

Key = tuple[type[Model], Any]
"""A model and a primary key."""


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event of this transaction that a later write may rewrite or withdraw."""

    id: UUID
    event_type: str
    owner_id: UUID | None
    created_at: datetime
    digest: int
    """Of its data: an equal one need not be written again."""


@dataclass(frozen=True, slots=True)
class Life:
    """One object in this transaction, from its first write on or from its last creation."""

    is_born: bool
    before: State | None
    """The row as this transaction found it; None where it was created here."""
    told: tuple[StoredEvent, ...] = ()
    """Created or updated: kept at the net change."""
    steps: tuple[UUID, ...] = ()
    """Changes of status, which stay as they are."""


class Note:
    """The lives that one batch of writes changed; None for an object that is gone."""

    __slots__ = ("is_sealed", "lives")

    def __init__(self, lives: Mapping[Key, Life | None]) -> None:
        self.lives = lives
        self.is_sealed = False

    def __call__(self) -> None:
        """Committed, for real or as a test has it."""
        self.is_sealed = True
        _current.hooks = None


class _Current(threading.local):
    hooks: Any = None
    lives: dict[Key, Life | None]


_current = _Current()


def lives() -> dict[Key, Life | None]:
    """Return the objects that this transaction has written so far."""
    hooks = connection.run_on_commit
    if _current.hooks is not hooks:
        _current.hooks, _current.lives = hooks, {}
        for note in _notes():
            if not note.is_sealed:
                _current.lives.update(note.lives)
    return _current.lives


def write_down(changed: Mapping[Key, Life | None]) -> None:
    """Note what was stored; must be called inside the transaction that stored it."""
    lives().update(changed)
    transaction.on_commit(Note(changed), robust=True)


def seal() -> None:
    """Let nothing stored so far be rewritten, as if the transaction had been committed here."""
    for note in _notes():
        note.is_sealed = True
    _current.hooks = None


def _notes() -> list[Note]:
    hooks: list[Any] = connection.run_on_commit
    return [hook for _, hook, _ in hooks if isinstance(hook, Note)]
