"""What the current transaction has stored about each object, exact under savepoints.

Postgres says what is current: every note's number is written to a setting that is local to the
transaction. A commit or a rollback empties it, and a savepoint's rollback brings back what it was
before, whoever ends them: Django, raw SQL, or a program that has switched autocommit off. What is
kept here is believed only as far as the note that the setting names; the rest is dropped.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID
from weakref import WeakKeyDictionary

from django.db import connections, transaction
from django.db.models import Model

from webhooks.outbox.notes import ADVANCE, POSITION, Note
from webhooks.tracking.writes import State

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


Lives = Mapping[Key, Life | None]
"""None for an object that is gone."""


class Journal:
    """The notes of one connection, one for each batch of writes."""

    def __init__(self) -> None:
        self.notes: list[tuple[str, Lives]] = []
        self.lives: dict[Key, Life | None] = {}

    def rewind(self, number: str) -> None:
        """Drop what came after a note; everything where it is unknown."""
        if self.notes and self.notes[-1][0] == number:
            return
        while self.notes and self.notes[-1][0] != number:
            self.notes.pop()
        self.lives = {}
        for _, lives in self.notes:
            self.lives.update(lives)


_journals: WeakKeyDictionary[Any, Journal] = WeakKeyDictionary()


def _journal(using: str) -> Journal:
    return _journals.setdefault(connections[using], Journal())


def known_keys(model: type[Model], using: str) -> list[Any]:
    """Return the keys of a model's objects that this transaction may have written."""
    return [key for known, key in _journal(using).lives if known is model]


def lives_of(keys: Collection[Key], using: str, position: str | None = None) -> Lives:
    """Return those of the objects that this transaction has written so far.

    An object may have been written only if a note says so; then `position` is believed where it
    names the last note. Any other may be older than that, and Postgres is asked.
    """
    journal = _journal(using)
    if not journal.lives.keys().isdisjoint(keys):
        number = (position or "").partition(" ")[0]
        if number != journal.notes[-1][0]:
            number = _select(POSITION, {}, using).partition(" ")[0]
        journal.rewind(number)
    return {key: journal.lives[key] for key in keys if key in journal.lives}


def _select(expression: str, parameters: Mapping[str, str], using: str) -> str:
    with connections[using].cursor() as cursor:
        cursor.execute(f"SELECT {expression}", parameters)
        return cursor.fetchone()[0] or ""


def write_down(changed: Lives, note: Note, using: str) -> None:
    """Note what was stored; must be called in the transaction that stored it."""
    position = note.position or _select(ADVANCE, {"note": note.number}, using)
    number, _, number_before = position.partition(" ")
    journal = _journal(using)
    journal.rewind(number_before)
    journal.notes.append((number, changed))
    journal.lives.update(changed)
    transaction.on_commit(lambda: seal(using), using=using, robust=True)


def seal(using: str) -> None:
    """Let nothing stored so far be rewritten, as if the transaction had been committed here."""
    _journal(using).rewind("")
