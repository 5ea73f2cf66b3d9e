"""Remember which events the current transaction has stored for each object, across savepoints.

Postgres holds the truth: each batch of writes stores the number of its note in a setting that is
local to the transaction (webhooks/outbox/notes.py). A commit or a rollback clears the setting, and
a savepoint's rollback restores the previous number, whoever ends them: Django, raw SQL, or a
program that has switched autocommit off. The journal in memory is valid only up to the note that
the setting names; later notes are dropped.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID
from weakref import WeakKeyDictionary

from django.db import DEFAULT_DB_ALIAS, connection, connections, transaction
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
    """The hash of its data; an equal hash makes rewriting unnecessary."""


@dataclass(frozen=True, slots=True)
class ObjectHistory:
    """An object's events in this transaction, from its first write or its latest creation on."""

    is_created_here: bool
    before: State | None
    """The row before the transaction's first write; None where this transaction created it."""
    net_events: tuple[StoredEvent, ...] = ()
    """Created or updated events, which later writes rewrite to the net change."""
    transition_ids: tuple[UUID, ...] = ()
    """Ids of the events of status changes, which later writes never rewrite."""


Histories = Mapping[Key, ObjectHistory | None]
"""None for a deleted object."""


class Journal:
    """The notes of one connection, one for each batch of writes."""

    def __init__(self) -> None:
        self.notes: list[tuple[str, Histories]] = []
        self.histories: dict[Key, ObjectHistory | None] = {}

    def rewind(self, number: str) -> None:
        """Drop the notes after this number, or all notes if the number is unknown."""
        if self.notes and self.notes[-1][0] == number:
            return
        while self.notes and self.notes[-1][0] != number:
            self.notes.pop()
        self.histories = {}
        for _, histories in self.notes:
            self.histories.update(histories)


_journals: WeakKeyDictionary[Any, Journal] = WeakKeyDictionary()


def _journal() -> Journal:
    return _journals.setdefault(connections[DEFAULT_DB_ALIAS], Journal())


def written_keys(model: type[Model]) -> list[Any]:
    """Return the primary keys of a model's objects that this transaction may have written."""
    return [key for written, key in _journal().histories if written is model]


def histories_of(keys: Collection[Key], position: str | None = None) -> Histories:
    """Return the histories of those of the objects that this transaction has written.

    `position` is the transaction's position as the statement of the write returned it. A position
    that does not name the last note may be outdated; then this function queries Postgres. It
    queries nothing where no note names any of the objects.
    """
    journal = _journal()
    if not journal.histories.keys().isdisjoint(keys):
        number = (position or "").partition(" ")[0]
        if number != journal.notes[-1][0]:
            number = _select(POSITION, {}).partition(" ")[0]
        journal.rewind(number)
    return {key: journal.histories[key] for key in keys if key in journal.histories}


def _select(expression: str, parameters: Mapping[str, str]) -> str:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {expression}", parameters)
        return cursor.fetchone()[0] or ""


def add_note(changed: Histories, note: Note) -> None:
    """Add a note of the changed histories; call it in the transaction that stored their events.

    Stores the note's number in Postgres unless store_events() has done so.
    """
    position = note.position or _select(ADVANCE, {"note": note.number})
    number, _, number_before = position.partition(" ")
    journal = _journal()
    journal.rewind(number_before)
    journal.notes.append((number, changed))
    journal.histories.update(changed)
    transaction.on_commit(seal, robust=True)


def seal() -> None:
    """Forget all notes, as a commit does, so that no later write rewrites the stored events."""
    _journal().rewind("")
