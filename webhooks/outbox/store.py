"""The outbox (invariant 1): store events and their deliveries in the caller's own transaction.

They commit or roll back with the caller's data, also in a crash. Invalid arguments raise at once
and store nothing; no failure of a delivery ever raises here.
"""

import hashlib
import json
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from django.db import transaction
from django.db.models.base import ModelState

from webhooks import catalog
from webhooks.errors import EventDataInvalidError, IdempotencyConflictError
from webhooks.ids import EVENT_PREFIX, new_id
from webhooks.models import Event
from webhooks.models.owner_keys import NO_OWNER, SQL_TYPE, parse_owner_key
from webhooks.models.owners import owner_key
from webhooks.outbox import tracing, wakeup
from webhooks.outbox.event_data import encode
from webhooks.outbox.notes import ADVANCE, Note
from webhooks.postgres.sql import run

MAX_KEY_CHARACTERS = 255
MAX_REFERENCE_CHARACTERS = 100
NO_NUL_OR_SURROGATE = re.compile(r"[^\0\ud800-\udfff]*")

Owner = Any
"""A row of the owner model or its key; None for an event without an owner."""


@dataclass(frozen=True, slots=True)
class Trigger:
    """An event to trigger: the arguments of trigger_event() as a value."""

    event_type: str
    owner: Owner
    data: Mapping[str, Any]
    idempotency_key: str | None = None
    object_reference: str = ""
    is_self_reported: bool = False
    """Whether the owner triggered it through the API; platform webhooks receive no such event."""


def trigger_event(
    event_type: str,
    owner: Owner,
    data: Mapping[str, Any],
    idempotency_key: str | None = None,
    object_reference: str = "",
) -> Event:
    """Store an event and its deliveries in the current transaction and return the event.

    If the owner already has an event with this `idempotency_key`, return that event and store
    nothing; events that owners trigger through the API have separate keys. `object_reference` names
    what the event is about: webhooks with order per object receive the events of one object in the
    order in which they were stored, and an event without one waits for none. Raises
    EventTypeUnknownError, EventDataInvalidError, and IdempotencyConflictError if the key was used
    with different data or another object.
    """
    trigger = Trigger(event_type, owner, data, idempotency_key, object_reference)
    return trigger_events([trigger])[0]


def trigger_events(triggers: Iterable[Trigger]) -> list[Event]:
    """Store many events in one statement, all or none, and return them in the same order.

    See trigger_event() for idempotency keys and errors.
    """
    events = [build_trigger(trigger) for trigger in triggers]
    if all(event.idempotency_key is None for event in events):
        store_events(events)
        return events
    with transaction.atomic():
        stored_ids = store_events(events)
        return [
            event if event.id in stored_ids else _event_of_first_call(event) for event in events
        ]


def build_trigger(trigger: Trigger) -> Event:
    """Return the unsaved event of a trigger.

    Raises EventTypeUnknownError and EventDataInvalidError.
    """
    data = encode(trigger.data)
    catalog.validate_data(trigger.event_type, data.value)
    event = build_event(trigger.event_type, owner_id_of(trigger.owner), data.text)
    if trigger.object_reference:
        _check_text("object reference", trigger.object_reference, MAX_REFERENCE_CHARACTERS)
        event.object_reference = trigger.object_reference
    event.is_self_reported = trigger.is_self_reported
    if trigger.idempotency_key is not None:
        _check_text("idempotency key", trigger.idempotency_key, MAX_KEY_CHARACTERS, at_least=1)
        event.idempotency_key = trigger.idempotency_key
        event.body_hash = _hash_of(trigger, data.text)
    return event


def _hash_of(trigger: Trigger, data: bytes) -> bytes:
    """Return what tells whether a key is used again for the same event."""
    parts = [trigger.event_type.encode(), data]
    if trigger.object_reference:  # else the hash is that of events stored before there were any
        parts.append(trigger.object_reference.encode())
    return hashlib.sha256(b"\0".join(parts)).digest()


def owner_id_of(owner: Owner) -> Any:
    """Return the owner's id, given an owner, an id or an id's text; None for None.

    Raises EventDataInvalidError for anything else, such as an anonymous user.
    """
    if owner is None:
        return None
    try:
        owner_id = owner_key(owner)
    except ValueError as problem:
        raise EventDataInvalidError(str(problem)) from None
    try:
        return parse_owner_key(owner_id)
    except ValueError:
        raise EventDataInvalidError("The owner is neither an owner nor an owner's id.") from None


def _check_text(name: str, text: object, longest: int, *, at_least: int = 0) -> None:
    """Raise EventDataInvalidError for a value that its column cannot hold."""
    if (
        not isinstance(text, str)
        or not at_least <= len(text) <= longest
        or not NO_NUL_OR_SURROGATE.fullmatch(text)
    ):
        raise EventDataInvalidError(
            f"The {name} must be text of {at_least} to {longest} characters without NUL and "
            "without lone surrogates."
        )


def build_event(
    event_type: str,
    owner_id: uuid.UUID | None,
    data: bytes,
    *,
    event_id: uuid.UUID | None = None,
    created_at: datetime | None = None,
) -> Event:
    """Return an unsaved event with its payload; `data` is the JSON text from encode().

    `event_id` and `created_at` default to a new id and the current time.
    """
    event_id = event_id or new_id()
    created_at = created_at or datetime.now(UTC)
    payload = b'{"id":"%s%s","type":"%s","created":"%s","data":%s}' % (
        EVENT_PREFIX.encode(),
        event_id.hex.encode(),
        event_type.encode(),
        catalog.wire_time(created_at).encode(),
        data,
    )
    version = catalog.stored_version(event_type)
    event = unsaved_event(event_id, event_type, owner_id, payload, version, created_at)
    event.data_digest = hash(data)
    return event


def unsaved_event(
    event_id: uuid.UUID,
    event_type: str,
    owner_id: Any,
    payload: bytes,
    version: date | None,
    created_at: datetime,
) -> Event:
    """Return an event of these bytes, which build_event() has made, here or elsewhere."""
    event = Event.__new__(Event)
    event._state = ModelState()
    event._state.adding = False
    # As from_db() does, seven times as fast. It defers the other columns, which the database fills in:
    # they are read on access.
    event.__dict__.update(
        id=event_id, type=event_type, owner_id=owner_id, payload=payload, version=version,
        idempotency_key=None, body_hash=None, fanout_count=0, object_reference="",
        is_self_reported=False, created_at=created_at, traceparent=None,
    )  # fmt: skip
    return event


# Only where there is a filter is a payload parsed, for each of them anew: to parse it once would need
# another part of the plan, which costs every save more than a filter does.
LETS_THROUGH = "(w.filter_path IS NULL OR e.payload::jsonb @@ w.filter_path)"

# One statement finds the webhooks and inserts the rows: two would make a save a third slower.
# A delivery's id is its event's id with the last 20 bits replaced by a counter. So ids keep the order
# of the events even within a millisecond (ordered webhooks rely on it), with 53 random bits left.
STORE_SQL = f"""
WITH event AS MATERIALIZED (
    SELECT *
      FROM ROWS FROM (json_to_recordset(%(events)s) AS (
        id uuid, type text, owner_id {SQL_TYPE}, payload text, idempotency_key text, body_hash text,
        object_reference text, is_self_reported boolean, created_at timestamptz,
        version date, traceparent text, patterns varchar[])) WITH ORDINALITY AS e
     WHERE %(lock_timeout)s::text IS NULL
        OR set_config('lock_timeout', %(lock_timeout)s, true) IS NOT NULL
), target AS MATERIALIZED (
    SELECT e.id AS event_id, e.type, w.id AS webhook_id,
           coalesce(w.owner_id, %(no_owner)s) AS owner_id, e.object_reference,
           -- What its deliveries record of a webhook's form: as Selection.recorded_form() has it.
           CASE WHEN e.version > w.version THEN w.pinned_key
                WHEN w.form = 'fields' THEN w.form_key
                ELSE nullif(w.form, 'standard') END AS form,
           -- An event without an object waits for nothing at a webhook that keeps order per object.
           w.delivery_order = 'all' OR w.delivery_order = 'object' AND e.object_reference <> ''
               AS is_ordered,
           CASE WHEN w.delivery_order = 'object' THEN nullif(e.object_reference, '') END AS object,
           -- Whether a delivery supersedes what waits of its object, when it commits:
           -- webhooks_supersede(), made in migration 0036.
           w.debounce_seconds IS NOT NULL AND e.object_reference <> ''
               AND (e.type LIKE '%%.updated' OR e.type LIKE '%%.deleted') AS is_debounced,
           w.debounce_seconds
      FROM event e
      -- One scan for both kinds of webhooks: a branch for each makes one event 8 percent dearer.
      JOIN webhooks_webhook w
        ON w.owner_id = e.owner_id OR w.is_platform AND NOT e.is_self_reported
     WHERE w.active AND w.deleted_at IS NULL AND w.events && e.patterns AND {LETS_THROUGH}
), epoch AS MATERIALIZED (
    SELECT webhooks_current_epoch() AS number
), new_event AS (
    INSERT INTO webhooks_event
        (id, type, owner_id, payload, idempotency_key, body_hash, fanout_count, object_reference,
         is_self_reported, created_at, epoch, version, traceparent)
    SELECT e.id, e.type, e.owner_id, convert_to(e.payload, 'UTF8'), e.idempotency_key,
           decode(e.body_hash, 'hex'), coalesce(counted.count, 0), e.object_reference,
           e.is_self_reported, e.created_at, (SELECT number FROM epoch),
           e.version, e.traceparent
      FROM event e
      LEFT JOIN (SELECT event_id, count(*) FROM target GROUP BY event_id) counted
        ON counted.event_id = e.id
     ORDER BY e.ordinality
    ON CONFLICT (owner_id, idempotency_key, is_self_reported) WHERE idempotency_key IS NOT NULL
       DO NOTHING
    RETURNING id, fanout_count, sequence
), new_delivery AS (
    INSERT INTO webhooks_delivery
        (id, event_id, webhook_id, owner_id, event_type, status, attempt_count, round,
         attempts_before_round, is_suspect, crash_count, failure_kind, error, form,
         next_attempt_at, debounce_key, epoch, order_key, object_key, object_sequence)
    SELECT (left(t.event_id::text, -5) || lpad(to_hex(
               row_number() OVER (PARTITION BY t.event_id ORDER BY t.webhook_id)), 5, '0'))::uuid,
           t.event_id, t.webhook_id, t.owner_id, t.type, 'PENDING', 0, 1, 0, false, 0, '', '',
           t.form,
           CASE WHEN t.is_debounced AND t.type LIKE '%%.updated'
                THEN statement_timestamp() + make_interval(secs => t.debounce_seconds)
                ELSE statement_timestamp() END,
           CASE WHEN t.is_debounced THEN t.object_reference END,
           CASE WHEN t.is_ordered THEN (SELECT number FROM epoch) END,
           CASE WHEN t.is_ordered THEN pg_current_xact_id()::text::bigint END,
           hashtextextended(t.object, 0), CASE WHEN t.object <> '' THEN new_event.sequence END
      FROM target t JOIN new_event ON new_event.id = t.event_id
), note AS MATERIALIZED (
    SELECT CASE WHEN %(note)s::text <> '' THEN {ADVANCE} END AS position
)
SELECT id, fanout_count, (SELECT position FROM note) FROM new_event
"""  # noqa: S608 (a constant)


def store_events(
    events: Sequence[Event],
    *,
    note: Note | None = None,
    lock_timeout_ms: int | None = None,
) -> set[uuid.UUID]:
    """Insert events, and a delivery for each active webhook that selects them and whose filter lets
    them through. One statement.

    An event goes to webhooks of its owner and, unless it is self-reported, of the platform. Sets
    each event's `fanout_count` and wakes the workers on commit. Returns the ids of the stored
    events, which are all except those with a known idempotency key.

    If events were stored, `note` becomes the transaction's last note and gets its position. With
    `lock_timeout_ms`, waiting longer than that for a lock raises OperationalError; the limit lasts
    until the end of the transaction.
    """
    if not events:
        return set()
    with tracing.storing(events):
        return _store(events, note, lock_timeout_ms)


def _store(
    events: Sequence[Event], note: Note | None, lock_timeout_ms: int | None
) -> set[uuid.UUID]:
    # The events are one JSON parameter, because binding an array per column takes longer than the
    # statement itself.
    rows = [
        {
            "id": event.id.hex,
            "type": event.type,
            "owner_id": None if event.owner_id is None else str(event.owner_id),
            "payload": bytes(event.payload).decode(),
            "idempotency_key": event.idempotency_key,
            "body_hash": event.body_hash and bytes(event.body_hash).hex(),
            "object_reference": event.object_reference,
            "is_self_reported": event.is_self_reported,
            "created_at": event.created_at.isoformat(),
            "patterns": list(catalog.patterns_matching(event.type)),
            **({} if event.version is None else {"version": event.version.isoformat()}),
            **({} if event.traceparent is None else {"traceparent": event.traceparent}),
        }
        for event in events
    ]
    number = note.number if note else ""
    parameters = {
        "events": _json(rows),
        "no_owner": NO_OWNER,
        "note": number,
        "lock_timeout": lock_timeout_ms and str(lock_timeout_ms),
    }
    stored = run(STORE_SQL, parameters).fetchall()
    counts = {event_id: count for event_id, count, _ in stored}
    if note and stored:
        note.position = stored[0][2]
    for event in events:
        event.fanout_count = counts.get(event.id, 0)
    if any(counts.values()):
        wakeup.nudge_on_commit()
    return set(counts)


def _json(rows: list[dict[str, Any]]) -> str:
    return json.dumps(rows, ensure_ascii=False, separators=(",", ":"))


def _event_of_first_call(event: Event) -> Event:
    first = Event.objects.get(
        owner_id=event.owner_id,
        idempotency_key=event.idempotency_key,
        is_self_reported=event.is_self_reported,
    )
    if bytes(first.body_hash or b"") != event.body_hash:
        raise IdempotencyConflictError(
            f"The idempotency key {event.idempotency_key!r} was already used with other data."
        )
    return first
