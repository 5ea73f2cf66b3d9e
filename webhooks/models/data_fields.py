"""The fields of data that a webhook with the form `fields` asks for: checked when they are saved. Pure."""

from collections.abc import Iterable, Sequence
from datetime import date

from webhooks.catalog import EventType
from webhooks.models.filters import UNSTORABLE, field_schema
from webhooks.pace.bounds import length_problem, named

MAX_FIELDS = 50
MAX_PATH_CHARACTERS = 200
MAX_PATH_DEPTH = 5
"""Keys of one path: each level below the first is read once more when a request is built."""


def fields_problem(
    fields: Sequence[str], event_types: Iterable[EventType], pin: date
) -> str | None:
    """Return what is wrong with a list of dotted paths: each is a field of at least one type, in the
    version that the webhook pins."""
    if not fields:
        return "The form fields needs at least one field of data, such as id."
    if too_many := length_problem(fields, MAX_FIELDS):
        return too_many
    if any(UNSTORABLE.search(path) for path in fields):
        return "A field holds a NUL character or half of a surrogate pair."
    deep = [path for path in fields if path.count(".") >= MAX_PATH_DEPTH]
    if deep:
        return f"{named(deep)}: a path has at most {MAX_PATH_DEPTH} keys."
    types = list(event_types)
    known = {path for one in types for path in known_fields(fields, one, pin)}
    if unknown := [path for path in dict.fromkeys(fields) if path not in known]:
        return f"{named(unknown)}: {named([one.name for one in types])} has no such field."
    return None


def known_fields(fields: Sequence[str], event_type: EventType, pin: date) -> list[str]:
    """Return those of these dotted paths that data of a type may have in a pinned version."""
    return [
        path
        for path in fields
        if field_schema(event_type.schema_at(pin), tuple(path.split("."))) is not None
    ]
