"""The catalogue of event types.

Validation, the API, the documentation and WEBHOOK_EVENTS derive from one declaration per type. An app
declares its types in an `events.py` that its AppConfig.ready() imports.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from itertools import islice
from typing import Any

import jsonschema_rs

from webhooks.errors import EventDataInvalidError, EventTypeUnknownError
from webhooks.pace.bounds import MAX_PROBLEMS

UUID_TEXT = {"type": "string", "format": "uuid"}
TIME_TEXT = {"type": "string", "format": "date-time"}
TEXT = {"type": "string"}
OPTIONAL_TEXT = {"type": ["string", "null"]}
COUNT = {"type": "integer", "minimum": 0}

MAX_TEXT_CHARACTERS = 40_000
"""A character takes at most six bytes in JSON (`\\u0001`), so that text of this length fits into the
256 KB of an event."""

MAX_PROBLEM_CHARACTERS = 2000
"""The limit for validation errors, which quote the data."""


def object_schema(
    properties: Mapping[str, Any], *, optional: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Return the JSON Schema of an object with only these properties, required unless `optional`."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": dict(properties),
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
    }


def wire_time(moment: datetime) -> str:
    """Return an aware time in wire format: UTC with milliseconds and `Z`."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def wire_text(text: str) -> str:
    """Return free text in wire format: shortened to MAX_TEXT_CHARACTERS, so that an event fits."""
    return text if len(text) <= MAX_TEXT_CHARACTERS else text[: MAX_TEXT_CHARACTERS - 1] + "…"


@dataclass(frozen=True)
class EventType:
    """The declaration of an event type, with the JSON Schema and a valid example of its `data`."""

    name: str
    description: str
    schema: Mapping[str, Any] = field(hash=False)
    example: Mapping[str, Any] = field(hash=False)
    since: str = "1.0"

    @property
    def group(self) -> str:
        return self.name.split(".")[0]

    @property
    def constant(self) -> str:
        """The attribute of WEBHOOK_EVENTS, such as `PROJECT_CREATED` for `project.created`."""
        return self.name.replace(".", "_").upper()


_types: dict[str, EventType] = {}
_validators: dict[str, Any] = {}
_clashes: list[EventType] = []


def register(*event_types: EventType) -> None:
    """Add event types to the catalogue; call it from AppConfig.ready().

    The first declaration of a name is in effect. System checks (webhooks/tracking/checks.py)
    report a different second one, and invalid schemas and examples.
    """
    for event_type in event_types:
        if _types.setdefault(event_type.name, event_type) != event_type:
            _clashes.append(event_type)


def clashes() -> list[EventType]:
    """Return the declarations whose names an earlier, different declaration has."""
    return list(_clashes)


def compile_schema(event_type: EventType) -> Any:
    """Return the validator of a type's data; raises ValueError if its schema is invalid."""
    return jsonschema_rs.Draft202012Validator(dict(event_type.schema), validate_formats=True)


def all_types() -> list[EventType]:
    """Return all event types, sorted by name."""
    return [_types[name] for name in sorted(_types)]


def groups() -> dict[str, list[EventType]]:
    """Return all event types by their group, such as `session`; both sorted by name."""
    found: dict[str, list[EventType]] = {}
    for event_type in all_types():
        found.setdefault(event_type.group, []).append(event_type)
    return found


def get_type(name: str) -> EventType:
    """Return one event type; raises EventTypeUnknownError."""
    try:
        return _types[name]
    except (KeyError, TypeError):  # a TypeError for an unhashable name
        raise EventTypeUnknownError(
            f"There is no event type {name!r}. Event types: {', '.join(sorted(_types))}."
        ) from None


def validate_data(name: str, data: Any) -> None:
    """Validate the data of an event; `data` is a value as json.loads() returns it.

    Raises EventTypeUnknownError, or EventDataInvalidError with all errors in the data.
    """
    try:
        validator = _validators[name]
    except (KeyError, TypeError):
        validator = _validators[name] = compile_schema(get_type(name))
    if validator.is_valid(data):
        return
    found = islice(validator.iter_errors(data), MAX_PROBLEMS + 1)
    problems = [(error.instance_path, error.message) for error in found]
    told = "; ".join(f"{'.'.join(map(str, path)) or 'data'}: {text}" for path, text in problems)
    raise EventDataInvalidError(
        f"The data does not fit {name}: {_shortened(told)}.", problems[:MAX_PROBLEMS]
    )


def _shortened(text: str) -> str:
    """Shorten a message that may quote all of the data."""
    return text if len(text) <= MAX_PROBLEM_CHARACTERS else f"{text[:MAX_PROBLEM_CHARACTERS]}…"


@lru_cache(maxsize=1000)
def patterns_matching(name: str) -> frozenset[str]:
    """Return the patterns of `Webhook.events` that select a type: its name, its group and `*`."""
    return frozenset((name, f"{name.split('.')[0]}.*", "*"))


def is_known_pattern(pattern: str) -> bool:
    """Return whether a pattern selects at least one type of the catalogue."""
    return any(pattern in patterns_matching(name) for name in _types)


class EventNames:
    """Event type names as constants, `WEBHOOK_EVENTS.PROJECT_CREATED == "project.created"`.

    Iterating yields all names, sorted.
    """

    def __getattr__(self, constant: str) -> str:
        for event_type in _types.values():
            if event_type.constant == constant:
                return event_type.name
        raise AttributeError(f"There is no event type {constant!r} in the catalogue.")

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(_types))


WEBHOOK_EVENTS = EventNames()

register(
    EventType(
        name="webhook.test",
        description="A test of this webhook was requested.",
        schema=object_schema({"webhookId": TEXT, "message": TEXT}),
        example={"webhookId": "whk_0193570e2c7a7bcd8f0a1b2c3d4e5f60", "message": "It works."},
    ),
    EventType(
        name="webhook.disabled",
        description="One of the owner's other webhooks was disabled automatically; `url` is its server.",
        schema=object_schema(
            {"webhookId": TEXT, "name": TEXT, "url": TEXT, "reason": TEXT, "disabledAt": TIME_TEXT}
        ),
        example={
            "webhookId": "whk_0193570e2c7a7bcd8f0a1b2c3d4e5f60",
            "name": "Orders",
            "url": "https://example.com",
            "reason": "No delivery succeeded for 5 days.",
            "disabledAt": "2026-11-23T10:30:00.000Z",
        },
    ),
)
