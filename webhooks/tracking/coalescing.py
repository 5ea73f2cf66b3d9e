"""Turn writes into events as if the transaction had written each object once.

Created, updated and deleted events describe the net effect of the transaction:

- created, then updated: one `created` event with the final values;
- several updates: one `updated` event, or none where the final values equal the original ones;
- updated, then deleted: only a `deleted` event;
- created, then deleted: no event.

A rewritten event keeps its id and its position, those of the first write that caused it. Events of
status changes stay separate and in order, unless the transaction both created and deleted the
object. An object created again under a deleted object's key starts a new history, so that the
events are `deleted`, `created`. Only events of the current transaction are ever changed; committed
events are immutable.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any
from uuid import UUID

from django.db import Error, connection
from django.db.models import Model, QuerySet

from webhooks import catalog
from webhooks.errors import EventDataInvalidError, WebhooksError
from webhooks.models import Event
from webhooks.outbox import store
from webhooks.outbox.event_data import MAX_DATA_BYTES, EncodedData, encode
from webhooks.outbox.notes import Note
from webhooks.tracking import journal
from webhooks.tracking.deletes import needs_collector
from webhooks.tracking.journal import Histories, Key, ObjectHistory, StoredEvent
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

# Says beside each event whether a filter may decide otherwise about its new payload.
REWRITE_SQL = """
UPDATE webhooks_event e SET payload = r.payload
  FROM unnest(%(ids)s::uuid[], %(payloads)s::bytea[]) AS r (id, payload)
 WHERE e.id = r.id AND e.transaction_id = pg_current_xact_id()
RETURNING e.id, EXISTS (
    SELECT FROM webhooks_webhook w
     WHERE (w.owner_id = e.owner_id OR w.is_platform)
       AND w.active AND w.deleted_at IS NULL AND w.filter_path IS NOT NULL)
"""

TAKE_BACK_SQL = """
WITH taken AS (
    DELETE FROM webhooks_event
     WHERE id = ANY(%(ids)s::uuid[]) AND transaction_id = pg_current_xact_id()
    RETURNING id, sequence
), undelivered AS (
    DELETE FROM webhooks_delivery d USING taken WHERE d.event_id = taken.id
)
SELECT id, sequence FROM taken
"""

PUT_BACK_SQL = """
WITH place AS (
    SELECT * FROM unnest(%(ids)s::uuid[], %(sequences)s::bigint[]) AS p (id, sequence)
), event AS (
    UPDATE webhooks_event e SET sequence = place.sequence FROM place WHERE e.id = place.id
)
UPDATE webhooks_delivery d SET object_sequence = place.sequence
  FROM place WHERE d.event_id = place.id AND d.object_sequence IS NOT NULL
"""


def store_writes(
    model: type[Model],
    writes: Sequence[Write],
    *,
    position: str | None,
    is_final_write: bool,
) -> None:
    """Store the events of writes of one model in the current transaction, that of the writes.

    `position` is the transaction's position in the journal, None if unknown. `is_final_write` says
    that no later statement of the transaction writes these objects, so that the journal skips them.
    """
    tracking = tracking_of(model)
    if tracking is None:
        return
    # A new row starts a new history, whatever the journal holds for its key.
    existing = [write.row.pk for write in writes if write.before is not None]
    batch = _EventBatch(model, tracking, existing, position)
    for write in writes:
        batch.add_write(write)
    batch.store(is_final_write=is_final_write)


def withdraw_created(rows: QuerySet[Any]) -> None:
    """Delete events of objects that this transaction has created and is about to delete.

    This is for models without a `deleted` event, whose rows Django deletes without announcing them.
    """
    tracking = tracking_of(rows.model)
    if tracking is None or tracking.deleted is not None:
        return
    written = journal.written_keys(concrete(rows.model))
    if not written:
        return
    batch = _EventBatch(rows.model, tracking, written)
    alive = [key for (_, key), history in batch.histories.items() if history]
    if alive:
        for key in rows.filter(pk__in=alive).values_list("pk", flat=True):
            batch.delete_object((batch.model, key))
        batch.store()


class _EventBatch:
    """The events of one batch of writes: those to insert, to rewrite and to withdraw."""

    def __init__(
        self,
        model: type[Model],
        tracking: Tracking,
        keys: Iterable[Any],
        position: str | None = None,
    ) -> None:
        self.model = concrete(model)
        self.tracking = tracking
        objects = {(self.model, key) for key in keys}
        self.histories: Histories = journal.histories_of(objects, position)
        self.changed: dict[Key, ObjectHistory | None] = {}
        self.new_events: list[Event] = []
        self.rewritten_events: list[Event] = []
        self.withdrawn_ids: list[UUID] = []

    def add_write(self, write: Write) -> None:
        key = (self.model, write.row.pk)
        history = earlier = self._history_of(key)
        if history is None and self._is_known(key) and write.before is not None:
            # `deleted` is an object's last event, whatever a listener still does to the row.
            return
        if write.is_deleted:
            self._delete(key, write)
            return
        if write.before is None or history is None:
            history = ObjectHistory(is_created_here=write.before is None, before=write.before)
        net_events = self._update_net_events(key, history, self._net_changes(key, write, history))
        transitions = self._add(
            key, self._said(key, self.tracking.transitions, write.row, write.before)
        )
        transition_ids = (*history.transition_ids, *(event.id for event in transitions))
        now = ObjectHistory(history.is_created_here, history.before, net_events, transition_ids)
        if now != earlier and (earlier or net_events or transitions or _changes_values(write)):
            self.changed[key] = now

    def _is_known(self, key: Key) -> bool:
        return key in self.changed or key in self.histories

    def _history_of(self, key: Key) -> ObjectHistory | None:
        return self.changed[key] if key in self.changed else self.histories.get(key)

    def _net_changes(self, key: Key, write: Write, history: ObjectHistory) -> list[Change]:
        if history.before is None:
            return self._said(key, self.tracking.created, write.row)
        return self._said(key, self.tracking.updated, write.row, history.before)

    def _said(self, key: Key, say: Callable[..., Iterable[Change]], *args: Any) -> list[Change]:
        """Return the changes that a declared function says; none if it fails, so that no save does.

        Errors of the database are raised: the transaction is broken.
        """
        try:
            return list(say(*args))
        except Error:
            raise
        except Exception:
            logger.exception("An event of %s was dropped.", self._reference(key))
            return []

    def _delete(self, key: Key, write: Write) -> None:
        is_created_here = self.delete_object(key)
        if self.tracking.deleted is not None and not is_created_here:
            self._add(key, self._said(key, self.tracking.deleted, write.row))
        if self._may_write_on:
            self.changed[key] = None

    @cached_property
    def _may_write_on(self) -> bool:
        """Whether listeners may still write rows of the model that are being deleted."""
        return needs_collector(self.model)

    def delete_object(self, key: Key) -> bool:
        """Withdraw the events that an object's deletion makes void.

        Returns whether this transaction had created the object.
        """
        history = self._history_of(key)
        if history is None:
            return False
        self.changed[key] = None
        self.withdrawn_ids += [event.id for event in history.net_events]
        if history.is_created_here:
            self.withdrawn_ids += history.transition_ids
        return history.is_created_here

    def _update_net_events(
        self, key: Key, history: ObjectHistory, changes: Iterable[Change]
    ) -> tuple[StoredEvent, ...]:
        """Add, rewrite and withdraw events so that they match the net changes; return them all."""
        earlier = {(event.event_type, event.owner_id): event for event in history.net_events}
        net_events = []
        for change in changes:
            event = earlier.pop((change.event_type, change.owner_id), None)
            if event is None:
                net_events += [_stored(new_event) for new_event in self._add(key, [change])]
            else:
                net_events += self._rewrite(key, event, change)
        self.withdrawn_ids += [event.id for event in earlier.values()]
        return tuple(net_events)

    def _add(self, key: Key, changes: Iterable[Change]) -> list[Event]:
        events = build_events(changes, self._reference(key))
        self.new_events += events
        return events

    def _rewrite(self, key: Key, event: StoredEvent, change: Change) -> list[StoredEvent]:
        rewritten = build_events([change], self._reference(key), replaced=event)
        if not rewritten:
            # What it says is not so any more.
            self.withdrawn_ids.append(event.id)
        self.rewritten_events += [one for one in rewritten if one.data_digest != event.digest]
        return [_stored(one) for one in rewritten]

    def _reference(self, key: Key) -> str:
        return f"{self.tracking.name}:{key[1]}"

    def store(self, *, is_final_write: bool = False) -> None:
        """Write the batch to the database.

        The journal may be outdated, so the UPDATE decides: an event that it does not find is
        inserted instead. Where a filter may have decided by the old payload, the event is stored anew,
        in its old place.
        """
        if self.withdrawn_ids:
            self._run(WITHDRAW_SQL, {"ids": self.withdrawn_ids})
        places: dict[UUID, int] = {}
        if self.rewritten_events:
            ids = [event.id for event in self.rewritten_events]
            payloads = [event.payload for event in self.rewritten_events]
            updated = dict(self._run(REWRITE_SQL, {"ids": ids, "payloads": payloads}))
            if filtered := [id_ for id_, is_filtered in updated.items() if is_filtered]:
                places = dict(self._run(TAKE_BACK_SQL, {"ids": filtered}))
            self.new_events += [
                one for one in self.rewritten_events if one.id not in updated or one.id in places
            ]
        if is_final_write or not self.changed:
            store.store_events(self.new_events)
        else:
            note = Note()
            store.store_events(self.new_events, note=note)
            journal.add_note(self.changed, note)
        if places:
            self._run(PUT_BACK_SQL, {"ids": [*places], "sequences": [*places.values()]})

    def _run(self, sql: str, parameters: dict[str, Any]) -> list[Any]:
        with connection.cursor() as cursor:
            cursor.execute(sql, parameters)
            return cursor.fetchall() if cursor.description else []


def build_events(
    changes: Iterable[Change], object_reference: str, *, replaced: StoredEvent | None = None
) -> list[Event]:
    """Return the unsaved events of changes; never raises, so that no user's save fails.

    Data that does not fit its schema is sent anyway and logged as an error (the test suite fails on
    it). Of data that cannot be sent, long texts are cut and other values become null, which is
    logged, too. With `replaced`, the new event takes the id and time of that event of this transaction.
    """
    events = []
    for change in changes:
        try:
            event = _build_event(change, object_reference, replaced)
        except WebhooksError as problem:
            logger.error("An event of %s was dropped: %s", object_reference, problem)
        else:
            events.append(event)
    return events


def _build_event(change: Change, object_reference: str, replaced: StoredEvent | None) -> Event:
    try:
        data = encode(change.data)
    except EventDataInvalidError as problem:
        if not isinstance(change.data, Mapping):
            raise
        logger.error("An event of %s lacks what cannot be sent: %s", object_reference, problem)
        data = _sendable(change.data)
    try:
        catalog.validate_data(change.event_type, data.value)
    except EventDataInvalidError as problem:
        logger.error("Sending an invalid event of %s: %s", object_reference, problem)
    event = store.build_event(
        change.event_type,
        store.owner_id_of(change.owner_id),
        data.text,
        event_id=replaced.id if replaced else None,
        created_at=replaced.created_at if replaced else None,
    )
    # A long key is cut: the reference serves searches, and names the object in some forms.
    event.object_reference = object_reference[: store.MAX_REFERENCE_CHARACTERS]
    return event


def _sendable(data: Mapping[str, Any]) -> EncodedData:
    """Encode data without the values that cannot be sent, and without the largest if all are too large."""
    try:
        return _encoded(data, MAX_DATA_BYTES)
    except EventDataInvalidError:
        return _encoded(data, MAX_DATA_BYTES // len(data))


def _encoded(data: Mapping[str, Any], room: int) -> EncodedData:
    return encode({name: _within(room, name, value) for name, value in data.items()})


def _within(room: int, name: str, value: Any) -> Any:
    """Return a value, the beginning of a text, or None, so that it takes `room` bytes at most."""
    for candidate in (value, *_beginnings(value, room - len(str(name)) - 7)):
        with suppress(EventDataInvalidError):
            if len(encode({name: candidate}).text) <= room:
                return candidate
    return None


def _beginnings(value: Any, room: int) -> Iterator[str]:
    """Yield the longest beginning of a text that may fit, and one that does: an escape has six bytes."""
    if isinstance(value, str):
        yield value.encode("utf-8", "replace")[:room].decode("utf-8", "ignore")
        yield value[: room // 6]


def _changes_values(write: Write) -> bool:
    before = write.before
    return before is None or any(getattr(write.row, name) != before[name] for name in before)


def _stored(event: Event) -> StoredEvent:
    return StoredEvent(event.id, event.type, event.owner_id, event.created_at, event.data_digest)
