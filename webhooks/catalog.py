"""The catalogue of event types.

Validation, the API, the documentation and WEBHOOK_EVENTS derive from one declaration per type. An app
declares its types in an `events.py` that its AppConfig.ready() imports.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
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


FIRST_VERSION = date(2026, 1, 1)
"""The version of every type that declares no other one."""


Day = date
"""Within a class whose field is called date."""


@dataclass(frozen=True)
class OlderVersion:
    """How `data` of a type looks to webhooks that pin an older version.

    Once it is in use it never changes, nor does what its function returns: deliveries of before are
    sent so again.
    """

    date: Day
    """Since when data has had this shape."""
    schema: Mapping[str, Any] = field(hash=False)
    from_newer: Callable[[dict[str, Any]], dict[str, Any]] = field(hash=False)
    """Returns data of this version, of data of the next newer one; pure. It may keep what it gets."""
    deprecated: Day | None = None
    """Since when owners are asked to leave it."""


@dataclass(frozen=True)
class EventType:
    """The declaration of an event type, with the JSON Schema and a valid example of its `data`."""

    name: str
    description: str
    schema: Mapping[str, Any] = field(hash=False)
    example: Mapping[str, Any] = field(hash=False)
    since: str = "1.0"
    version: date = FIRST_VERSION
    """Since when data has had this shape."""
    older: tuple[OlderVersion, ...] = ()
    """The versions before, the newest first."""

    @property
    def group(self) -> str:
        return self.name.split(".")[0]

    @property
    def constant(self) -> str:
        """The attribute of WEBHOOK_EVENTS, such as `PROJECT_CREATED` for `project.created`."""
        return self.name.replace(".", "_").upper()

    @property
    def versions(self) -> list[date]:
        """The dates of its versions, the newest first."""
        return [self.version, *(one.date for one in self.older)]

    def version_at(self, pin: date) -> date:
        """Return the version that a webhook gets which pins this date."""
        return next((one for one in self.versions if one <= pin), self.versions[-1])

    def schema_at(self, pin: date) -> Mapping[str, Any]:
        """Return the schema of what such a webhook gets."""
        wanted = self.version_at(pin)
        return next((one.schema for one in self.older if one.date == wanted), self.schema)

    def is_deprecated_at(self, pin: date) -> bool:
        """Return whether such a webhook gets a version that its owner is asked to leave."""
        wanted = self.version_at(pin)
        return any(one.deprecated is not None for one in self.older if one.date == wanted)

    def example_at(self, pin: date) -> Any:
        """Return the example as such a webhook gets it."""
        return self.data_at(dict(self.example), self.version, pin)

    @property
    def older_examples(self) -> list[dict[str, Any]]:
        """The versions before with the example as each has it, the newest first."""
        return [
            {
                "date": one.date,
                "schema": one.schema,
                "example": self.example_at(one.date),
                "deprecated": one.deprecated,
            }
            for one in self.older
        ]

    def data_at(self, data: Any, stored: date, pin: date) -> Any:
        """Return data of the version `stored` as such a webhook gets it; there is no way to a newer one."""
        reached = stored
        for one in self.older:
            if reached <= pin:
                break
            if one.date < reached:
                data, reached = one.from_newer(data), one.date
        return data


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


def stored_version(name: str) -> date | None:
    """Return the version of data that is stored today; None of a type that has one version only."""
    found = _types.get(name)
    return found.version if found is not None and found.older else None


def all_versions() -> list[date]:
    """Return the dates that a webhook may pin, the newest first."""
    dates = {FIRST_VERSION, *(one for found in _types.values() for one in found.versions)}
    return sorted(dates, reverse=True)


def current_version() -> date:
    """Return the version that a new webhook pins."""
    return all_versions()[0]


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
