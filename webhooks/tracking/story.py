"""Turn writes into events, told as if each object had been written once in its transaction.

The rule. Created, updated and deleted tell what the transaction did as a whole: created and then
updated is one `created` with the final values, several updates are one `updated` (none where the
values end as they began), updated and then deleted is only `deleted`, created and then deleted is
nothing at all. A rewritten event keeps its id and its place in the order: that of the first write
that told it. Changes of status stay separate events, in the order in which they were made, except
where the object itself comes to nothing. A deletion closes the story: an object created again
under the same key has a new one, so that the events are `deleted`, `created`. Only events of this
same transaction are ever changed; a committed one is immutable.
"""

import logging
from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from django.db import connections
from django.db.models import Model, QuerySet

from webhooks import catalog
from webhooks.errors import EventDataInvalidError, WebhooksError
from webhooks.models import Event
from webhooks.outbox import store
from webhooks.outbox.event_data import encode
from webhooks.outbox.notes import Note
from webhooks.tracking import journal
from webhooks.tracking.journal import Key, Life, Lives, StoredEvent
from webhooks.tracking.writes import Change, Tracking, Write, concrete, tracking_of

logger = logging.getLogger(__name__)

WITHDRAW_SQL = """
WITH withdrawn AS (
    DELETE FROM webhooks_event
     WHERE id = ANY(%(ids)s::uuid[]) AND transaction_id = pg_current_xact_id()
    RETURNING id
)
DELETE FROM webhooks_delivery d USING withdrawn WHERE d.event_id = withdrawn.id
"""

REWRITE_SQL = """
UPDATE webhooks_event e SET payload = r.payload
  FROM unnest(%(ids)s::uuid[], %(payloads)s::bytea[]) AS r (id, payload)
 WHERE e.id = r.id AND e.transaction_id = pg_current_xact_id()
RETURNING e.id
"""


def store_writes(
    model: type[Model],
    writes: Sequence[Write],
    using: str,
    *,
    position: str | None,
    is_last_word: bool,
) -> None:
    """Store the events of writes of one model, in the transaction that made them.

    `position` is the journal's, None where it is not known. `is_last_word`: nothing else writes
    these objects in this transaction, so that nothing is remembered of them.
    """
    tracking = tracking_of(model)
    if tracking is None:
        return
    # A new row begins a new life, whatever is remembered of its key.
    known = [write.row.pk for write in writes if write.before is not None]
    story = _Story(model, tracking, using, known, position)
    for write in writes:
        story.tell(write)
    story.store(is_last_word=is_last_word)


def withdraw_created(rows: QuerySet[Any]) -> None:
    """Withdraw what this transaction told of objects that it created, and that now go untold.

    For models without a `deleted` event, whose rows are deleted without being read.
    """
    tracking = tracking_of(rows.model)
    if tracking is None or tracking.deleted is not None:
        return
    known = journal.known_keys(concrete(rows.model), rows.db)
    if not known:
        return
    story = _Story(rows.model, tracking, rows.db, known)
    alive = [key for (_, key), life in story.lives.items() if life]
    if alive:
        for key in rows.filter(pk__in=alive).values_list("pk", flat=True):
            story.end((story.model, key))
        story.store()


class _Story:
    """The events of one batch of writes: what to insert, to rewrite, to withdraw."""

    def __init__(
        self,
        model: type[Model],
        tracking: Tracking,
        using: str,
        keys: Iterable[Any],
        position: str | None = None,
    ) -> None:
        self.model = concrete(model)
        self.tracking = tracking
        self.using = using
        objects = {(self.model, key) for key in keys}
        self.lives: Lives = journal.lives_of(objects, using, position)
        self.changed: dict[Key, Life | None] = {}
        self.fresh: list[Event] = []
        self.rewritten: list[Event] = []
        self.withdrawn: list[UUID] = []

    def tell(self, write: Write) -> None:
        key = (self.model, write.row.pk)
        if write.is_deleted:
            if not self.end(key) and self.tracking.deleted is not None:
                self._add(key, self.tracking.deleted(write.row))
            return
        life = known = self._life_of(key)
        if write.before is None or life is None:
            life = Life(is_born=write.before is None, before=write.before)
        told = self._retell(key, life, self._net_changes(write, life))
        steps = self._add(key, self.tracking.steps(write.row, write.before))
        now = Life(life.is_born, life.before, told, (*life.steps, *(event.id for event in steps)))
        if now != known and (known or told or steps or _changes_something(write)):
            self.changed[key] = now

    def _life_of(self, key: Key) -> Life | None:
        return self.changed[key] if key in self.changed else self.lives.get(key)

    def _net_changes(self, write: Write, life: Life) -> Iterable[Change]:
        if life.before is None:
            return self.tracking.created(write.row)
        return self.tracking.updated(write.row, life.before)

    def end(self, key: Key) -> bool:
        """Withdraw what a deleted object takes with it; True where it had been created here."""
        life = self._life_of(key)
        if life is None:
            return False
        self.changed[key] = None
        self.withdrawn += [event.id for event in life.told]
        if life.is_born:
            self.withdrawn += life.steps
        return life.is_born

    def _retell(self, key: Key, life: Life, changes: Iterable[Change]) -> tuple[StoredEvent, ...]:
        known = {(event.event_type, event.owner_id): event for event in life.told}
        told = []
        for change in changes:
            event = known.pop((change.event_type, change.owner_id), None)
            if event is None:
                told += [_stored(fresh) for fresh in self._add(key, [change])]
            else:
                told.append(self._rewrite(key, event, change))
        self.withdrawn += [event.id for event in known.values()]
        return tuple(told)

    def _add(self, key: Key, changes: Iterable[Change]) -> list[Event]:
        events = build_events(changes, self._reference(key))
        self.fresh += events
        return events

    def _rewrite(self, key: Key, event: StoredEvent, change: Change) -> StoredEvent:
        for again in build_events([change], self._reference(key), instead_of=event):
            if again.data_digest != event.digest:
                self.rewritten.append(again)
                return _stored(again)
        return event

    def _reference(self, key: Key) -> str:
        return f"{self.tracking.name}:{key[1]}"

    def store(self, *, is_last_word: bool = False) -> None:
        """Write it all to the database: the row counts decide, the journal is only a hint."""
        if self.withdrawn:
            self._run(WITHDRAW_SQL, {"ids": self.withdrawn})
        if self.rewritten:
            ids = [event.id for event in self.rewritten]
            payloads = [event.payload for event in self.rewritten]
            found = set(self._run(REWRITE_SQL, {"ids": ids, "payloads": payloads}))
            self.fresh += [event for event in self.rewritten if event.id not in found]
        if is_last_word or not self.changed:
            store.store_events(self.fresh, using=self.using)
            return
        note = Note()
        store.store_events(self.fresh, using=self.using, note=note)
        journal.write_down(self.changed, note, self.using)

    def _run(self, sql: str, parameters: dict[str, Any]) -> list[UUID]:
        with connections[self.using].cursor() as cursor:
            cursor.execute(sql, parameters)
            return [row[0] for row in cursor.fetchall()] if cursor.description else []


def build_events(
    changes: Iterable[Change], object_reference: str, *, instead_of: StoredEvent | None = None
) -> list[Event]:
    """Build the events of our own receivers, which must never abort the user's save.

    Data that does not fit its schema is sent all the same and logged as an error (the test suite
    fails on it); only what cannot be sent at all is left out. `instead_of` gives an event of this
    transaction its new data.
    """
    events = []
    for change in changes:
        try:
            event = _build_own(change, object_reference, instead_of)
        except WebhooksError as problem:
            logger.error("An event of %s is lost: %s", object_reference, problem)
        else:
            events.append(event)
    return events


def _build_own(change: Change, object_reference: str, instead_of: StoredEvent | None) -> Event:
    data = encode(change.data)
    try:
        catalog.validate_data(change.event_type, data.value)
    except EventDataInvalidError as problem:
        logger.error("%s for %s: %s", change.event_type, object_reference, problem)
    event = store.build_event(
        change.event_type,
        store.owner_id_of(change.owner_id),
        data.text,
        event_id=instead_of.id if instead_of else None,
        created_at=instead_of.created_at if instead_of else None,
    )
    # Of a long key its beginning: the reference is for people to search by.
    event.object_reference = object_reference[: store.MAX_REFERENCE_CHARACTERS]
    return event


def _changes_something(write: Write) -> bool:
    before = write.before
    return before is None or any(getattr(write.row, name) != before[name] for name in before)


def _stored(event: Event) -> StoredEvent:
    return StoredEvent(event.id, event.type, event.owner_id, event.created_at, event.data_digest)
