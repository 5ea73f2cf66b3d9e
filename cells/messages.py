"""Events as messages of the log, and back.

A message's data are the exact bytes that webhooks receive. What else a cell needs stands in headers:
`Owner` always, `Object`, `Version` and `Self-Reported` where the event has them.
"""

import re
from datetime import date, datetime
from functools import lru_cache
from typing import Any
from urllib.parse import quote, unquote
from uuid import UUID

from cells.log import Entry, Message
from cells.slots import slot_of
from webhooks.errors import WebhooksError
from webhooks.ids import EVENT_PREFIX, parse_public_id
from webhooks.models import Event
from webhooks.models.owner_keys import parse_owner_key
from webhooks.outbox.event_data import DECODER, encode
from webhooks.outbox.feed import FeedEvent
from webhooks.outbox.store import Trigger, build_event, build_trigger, unsaved_event

OWNER = "Owner"
OBJECT = "Object"
VERSION = "Version"
SELF_REPORTED = "Self-Reported"

BEGINNING = re.compile(
    rb'\{"id":"(evt_[0-9a-f]{32})","type":"([^"\\]{1,100})","created":"([0-9TZ:.-]{20,30})","data":'
)
"""How the bytes of build_event() (webhooks/outbox/store.py) begin."""


class RefusedError(Exception):
    """A message holds no event that this cell can store; the text says why."""


def entry_of(event: FeedEvent) -> Entry:
    """Return what a relay publishes of an event."""
    headers = {OWNER: "" if event.owner_id is None else str(event.owner_id)}
    if event.object_reference:
        headers[OBJECT] = quote(event.object_reference)
    if event.version is not None:
        headers[VERSION] = event.version.isoformat()
    if event.is_self_reported:
        headers[SELF_REPORTED] = "1"
    return Entry(event.id, slot_of(event.owner_id), headers, event.payload)


def event_of(message: Message) -> Event:
    """Return the unsaved event of a message, with its id and its bytes.

    What a relay publishes was checked when it was triggered; what a producer publishes directly is
    checked here. Raises RefusedError.
    """
    try:
        owner_id = _owner_of(message)
        event = (_direct if message.is_direct else _relayed)(message, owner_id)
    except (ValueError, OverflowError, RecursionError, WebhooksError) as problem:
        raise RefusedError(str(problem)) from None
    if EVENT_PREFIX + event.id.hex != message.id:
        raise RefusedError("The message id is not the event's id.")
    return event


def _owner_of(message: Message) -> Any:
    text = message.headers.get(OWNER)
    if text is None:
        raise ValueError(f"The header {OWNER} is missing.")
    owner_id, slot = _owner_and_slot(text)
    if slot != message.slot:
        raise ValueError(f"The owner's slot is {slot}, not {message.slot}.")
    return owner_id


# The same owners again and again: to parse and hash an id takes a third of the time of an event.
@lru_cache(maxsize=10_000)
def _owner_and_slot(text: str) -> tuple[Any, int]:
    owner_id = parse_owner_key(text) if text else None
    return owner_id, slot_of(owner_id)


def _relayed(message: Message, owner_id: Any) -> Event:
    beginning = BEGINNING.match(message.data)
    if beginning is None:
        raise ValueError("The bytes are not those of an event.")
    public_id, event_type, created = (part.decode() for part in beginning.groups())
    headers = message.headers
    version = headers.get(VERSION)
    event = unsaved_event(
        UUID(public_id[len(EVENT_PREFIX) :]),
        event_type,
        owner_id,
        message.data,
        None if version is None else date.fromisoformat(version),
        datetime.fromisoformat(created),
    )
    event.object_reference = unquote(headers.get(OBJECT, ""))
    event.is_self_reported = headers.get(SELF_REPORTED) == "1"
    return event


def _direct(message: Message, owner_id: Any) -> Event:
    document = DECODER.decode(message.data.decode())
    if not isinstance(document, dict) or document.keys() != {"id", "type", "created", "data"}:
        raise ValueError("An event is an object with id, type, created and data.")
    if not all(isinstance(document[name], str) for name in ("id", "type", "created")):
        raise ValueError("An event's id, type and created are texts.")
    created_at = datetime.fromisoformat(document["created"])
    if created_at.utcoffset() is None:
        raise ValueError("The time in created has no time zone.")
    # Checks the type, the data and the reference.
    checked = build_trigger(
        Trigger(
            document["type"],
            owner_id,
            document["data"],
            object_reference=unquote(message.headers.get(OBJECT, "")),
        )
    )
    event = build_event(
        checked.type,
        owner_id,
        encode(document["data"]).text,
        event_id=parse_public_id(document["id"], EVENT_PREFIX),
        created_at=created_at,
    )
    event.object_reference = checked.object_reference
    return event
