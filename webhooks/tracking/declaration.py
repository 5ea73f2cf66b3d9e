"""Declare a model's events in one place: `@tracked(owner="team", fields=["title"])`.

The event types, their schemas and examples come from the model's fields. What needs more than its
fields declares an EventType and a Tracking (webhooks/tracking/writes.py) itself.
"""

import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any, TypeVar

from django.apps import apps
from django.core.exceptions import FieldDoesNotExist
from django.db import models

from webhooks.catalog import (
    TEXT,
    TIME_TEXT,
    UUID_TEXT,
    EventType,
    object_schema,
    register,
    wire_text,
    wire_time,
)
from webhooks.models.owners import owner_model
from webhooks.tracking.adoption import adopt
from webhooks.tracking.tracked import TrackedModel
from webhooks.tracking.writes import Change, State, Tracking, track

EVENTS = ("created", "updated", "deleted")
WORDS = {"created": "was created", "updated": "has other values", "deleted": "was deleted"}

Kind = tuple[Any, Mapping[str, Any], Any, Callable[[Any], Any]]
KINDS: list[Kind] = [
    (models.BooleanField, {"type": "boolean"}, True, bool),
    (models.IntegerField, {"type": "integer"}, 1, int),
    # JSON has no NaN and no Infinity, which Postgres stores.
    (models.FloatField, {"type": ["number", "null"]}, 1.5, lambda v: v if isfinite(v) else None),
    (models.DecimalField, TEXT, "9.90", str),
    (models.DateTimeField, TIME_TEXT, "2026-11-23T10:30:00.123Z", wire_time),
    (models.DateField, {"type": "string", "format": "date"}, "2026-11-23", str),
    (models.UUIDField, UUID_TEXT, str(uuid.UUID(int=0)), str),
    # Fields of other packages may return a text of their own kind.
    (models.CharField, TEXT, "Text", lambda value: wire_text(str(value))),
    (models.TextField, TEXT, "Text", lambda value: wire_text(str(value))),
    (models.GenericIPAddressField, TEXT, "198.51.100.7", str),
    (models.JSONField, {}, {}, lambda value: value),
]
"""Fields that have a JSON form: their schema, an example, and the function of a value."""

M = TypeVar("M", bound=type[models.Model])


@dataclass(frozen=True)
class Declaration:
    """What one @tracked() says of a model."""

    model: type[models.Model]
    owner: str | None
    fields: Sequence[str]
    events: Sequence[str]
    transitions: Mapping[str, tuple[str, Any]]
    name: str
    problems: list[str] = field(default_factory=list)
    """Why its events are not announced; system check E016 shows them."""
    is_adopted: bool = False

    @property
    def types(self) -> list[str]:
        return [f"{self.name}.{what}" for what in [*self.events, *self.transitions]]


_pending: list[Declaration] = []
_declarations: list[Declaration] = []


def tracked(
    *,
    owner: str | None,
    fields: Sequence[str],
    events: Sequence[str] = EVENTS,
    transitions: Mapping[str, tuple[str, Any]] | None = None,
    name: str = "",
) -> Callable[[M], M]:
    """Return a decorator that announces a model's writes as `<name>.created`, `.updated`, `.deleted`.

    `owner` is the foreign key to the owner, `project__team` of a related row, `pk` where the rows are
    the owners, or None: platform webhooks receive the events. `fields` are sent beside the key, in
    camelCase. `transitions` maps further events to a field and the value that it gets:
    `{"closed": ("state", "CLOSED")}`. `name` is by default the model's.

    Call it as a function for a model of another app: `tracked(owner=None, fields=["name"])(Group)`,
    from AppConfig.ready(). See adopt() for which of its writes are seen. `manage.py check` says what is
    wrong with a declaration (E016); its events are then not announced.
    """

    def declare(model: M) -> M:
        wanted = name or str(model._meta.model_name)
        declaration = Declaration(model, owner, fields, events, transitions or {}, wanted)
        if apps.models_ready:
            _settle(declaration)
        else:
            _pending.append(declaration)
        return model

    return declare


def settle_pending() -> None:
    """Make the events of all models that were declared while models loaded."""
    while _pending:
        _settle(_pending.pop(0))


def declarations() -> list[Declaration]:
    """Return what @tracked() has declared, with the problems of each."""
    return list(_declarations)


def _settle(declaration: Declaration) -> None:
    is_foreign = not issubclass(declaration.model, TrackedModel)
    problems = list(_problems(declaration))
    if is_foreign and not problems:
        try:
            adopt(declaration.model)
        except TypeError as problem:
            problems.append(str(problem))
    found = replace(declaration, problems=problems, is_adopted=is_foreign)
    _declarations.append(found)
    if not problems:
        _announce(found)


def _problems(declaration: Declaration) -> Iterator[str]:
    model = declaration.model
    for unknown in sorted(set(declaration.events) - set(EVENTS)):
        yield f"there is no event {unknown!r}; there are {', '.join(EVENTS)}, and transitions"
    for name in declaration.fields:
        found = _field(model, name)
        if found is None:
            yield f"it has no column {name!r}"
        elif _kind(found) is None:
            yield (
                f"{name!r} is a {type(found).__name__}, which has no JSON form here: leave it out, or "
                "declare an EventType and a Tracking"
            )
    for name, count in Counter(map(_name, _chosen(declaration))).items():
        if count > 1:
            yield f"{count} of its columns would be sent as {name!r}: choose one of them"
    for event, (name, _) in declaration.transitions.items():
        if _field(model, name) is None:
            yield f"the transition {event!r} is of {name!r}, which is no column"
    if declaration.owner is not None:
        yield from _owner_problems(model, declaration.owner)


def _owner_problems(model: type[models.Model], path: str) -> Iterator[str]:
    wanted = owner_model()
    parts = path.split("__")
    if len(parts) > 2:
        yield f"the owner {path!r} is more than one relation away"
        return
    target: Any = model
    for part in parts:
        if part == "pk":
            continue
        found = _field(target, part)
        if found is None or not found.is_relation:
            yield f"the owner {path!r} is no foreign key of {target._meta.label}"
            return
        target = found.related_model
        is_by_key = part != parts[-1] or found.target_field is target._meta.pk
        if not is_by_key:
            yield f"the owner {path!r} is named by {found.target_field.name!r}, not by its key"
    if target is not wanted:
        yield f"the owner {path!r} leads to {target._meta.label}, and owners are {wanted._meta.label}"


def _chosen(declaration: Declaration) -> list[Any]:
    """Return the columns that are sent: the key, and those that are named and exist."""
    named = (_field(declaration.model, name) for name in declaration.fields)
    return list(dict.fromkeys([declaration.model._meta.pk, *filter(None, named)]))


def _field(model: Any, name: str) -> Any:
    try:
        found = model._meta.get_field(name)
    except FieldDoesNotExist:
        return None
    return found if getattr(found, "column", None) else None


def _kind(found: Any) -> Kind | None:
    plain = found.target_field if found.is_relation else found
    return next((kind for kind in KINDS if isinstance(plain, kind[0])), None)


def _wire_name(attname: str) -> str:
    first, *others = attname.split("_")
    return first + "".join(part.capitalize() for part in others)


def _announce(declaration: Declaration) -> None:
    model = declaration.model
    chosen = _chosen(declaration)
    schema, example = object_schema(dict(map(_property, chosen))), dict(map(_example, chosen))
    register(
        *(
            EventType(
                type_,
                f"A {model._meta.verbose_name} {WORDS.get(what, f'is {what}')}.",
                schema,
                example,
            )
            for type_ in declaration.types
            for what in [type_.split(".")[1]]
        )
    )
    owner, related = _owner_column(declaration)
    columns = [one.attname for one in chosen]
    values = [(_name(one), one.attname, _converter(one)) for one in chosen]
    # Of a transition only its own event is told, unless the column is sent, too.
    moves = [
        (what, _field(model, name).attname, value)
        for what, (name, value) in declaration.transitions.items()
    ]

    def change(what: str, row: Any) -> Change:
        data = {name: convert(getattr(row, column)) for name, column, convert in values}
        return Change(f"{declaration.name}.{what}", owner(row), data)

    def updated(row: Any, before: State) -> Iterator[Change]:
        if any(getattr(row, column) != before[column] for column in columns):
            yield change("updated", row)

    def moved(row: Any, before: State | None) -> Iterator[Change]:
        for what, column, value in moves:
            was = before is not None and before[column] == value
            if getattr(row, column) == value and not was:
                yield change(what, row)

    def once(what: str) -> Callable[[Any], list[Change]]:
        return lambda row: [change(what, row)]

    wanted: dict[str, Any] = {
        what: once(what) for what in ("created", "deleted") if what in declaration.events
    }
    if "updated" in declaration.events:
        wanted["updated"] = updated
    if declaration.transitions:
        wanted["transitions"] = moved
    owners = [] if declaration.owner in (None, "pk") or related else [_owner_attname(declaration)]
    fields = tuple(
        dict.fromkeys(
            [*columns, *(column for _, column, _ in moves), *owners, *(one for one, _ in related)]
        )
    )
    paths = tuple(path for _, path in related)
    track(model, Tracking(declaration.name, fields=fields, related=paths, **wanted))


def _owner_attname(declaration: Declaration) -> str:
    return str(declaration.model._meta.get_field(str(declaration.owner)).attname)  # type: ignore[union-attr]


def _owner_column(declaration: Declaration) -> tuple[Callable[[Any], Any], list[tuple[str, str]]]:
    """Return the function of a row's owner, and the related column that it needs with its link."""
    if declaration.owner is None:
        return lambda row: None, []
    if declaration.owner == "pk":
        return lambda row: row.pk, []
    link, _, last = declaration.owner.partition("__")
    if not last:
        attname = _owner_attname(declaration)
        return lambda row: getattr(row, attname), []
    found: Any = declaration.model._meta.get_field(link)
    target = found.related_model._meta
    column = target.pk.attname if last == "pk" else target.get_field(last).attname

    def owner_of_related(row: Any) -> Any:
        related = getattr(row, link)
        return None if related is None else getattr(related, column)

    return owner_of_related, [(found.attname, f"{link}__{column}")]


def _name(one: Any) -> str:
    return "id" if one.primary_key else _wire_name(one.attname)


def _property(one: Any) -> tuple[str, Mapping[str, Any]]:
    kind = _kind(one)
    schema = dict(kind[1]) if kind else {}
    if one.null and isinstance(schema.get("type"), str):
        schema["type"] = [schema["type"], "null"]
    return _name(one), schema


def _example(one: Any) -> tuple[str, Any]:
    kind = _kind(one)
    if one.choices:
        return _name(one), one.flatchoices[0][0]
    return _name(one), kind[2] if kind else None


def _converter(one: Any) -> Callable[[Any], Any]:
    """Return the function from a value of a field to its JSON form."""
    kind = _kind(one)
    if kind is None:
        return lambda value: value
    return lambda value: None if value is None else kind[3](value)
