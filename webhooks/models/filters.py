"""The condition that a webhook may set on an event's data: read, checked and compiled. Pure.

A filter is a JSON object of dotted paths and what has to hold there, all of it:

    {"amount": {"gte": 10000}, "currency": {"in": ["EUR", "USD"]}, "$not": {"plan": "free"}}

compile_filter() makes a JSON path of it, which Postgres evaluates where events are stored
(webhooks/outbox/store.py). A comparison is true or false, never unknown: of a field that is missing,
or of a value of another type, it is false. `ne`, `exists: false` and `$not` are the opposites of
`eq`, `exists: true` and of what they hold, so they are true there.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jsonschema_rs

from webhooks.catalog import EventType
from webhooks.errors import FilterInvalidError
from webhooks.pace.bounds import MAX_PROBLEMS, named, shortened

MAX_BYTES = 4096
"""Of a filter as JSON."""
MAX_DEPTH = 5
"""Of conditions: each `$or`, `$and` and `$not` goes one level down."""
MAX_COMPARISONS = 100
"""Of one filter; each value of `in` is one."""

COMPARISONS = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
OPERATORS = ("eq", "ne", "in", *COMPARISONS, "startsWith", "exists")
GROUPS = ("$or", "$and", "$not")

UNSTORABLE = re.compile("[\0\ud800-\udfff]")
WIRE_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
OPEN_SCHEMA_KEYS = ("$ref", "$dynamicRef", "allOf", "anyOf", "oneOf", "patternProperties", "if")
"""With one of them, a schema does not say plainly what it allows; nothing is refused then."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One operator at one path; its opposite where `is_negated`."""

    path: tuple[str, ...]
    operator: str
    operand: Any
    is_negated: bool = False

    @property
    def name(self) -> str:
        return ".".join(self.path)


@dataclass(frozen=True, slots=True)
class Group:
    """Conditions of which all have to hold, or any."""

    is_any: bool
    parts: tuple["Condition", ...]


Condition = Comparison | Group


class Part(NamedTuple):
    """One of the conditions that all have to hold, to say which of them does not."""

    fields: tuple[str, ...]
    """The dotted paths it looks at."""
    json_path: str


# From JSON to conditions.


def read_filter(value: Any) -> Group:
    """Return the conditions of a filter; raises FilterInvalidError, with what is wrong with its form."""
    if not isinstance(value, dict):
        raise FilterInvalidError('A filter is an object, such as {"amount": {"gte": 10000}}.')
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise FilterInvalidError("The filter cannot be written as JSON.") from None
    if UNSTORABLE.search(text) or "\\u0000" in text:
        raise FilterInvalidError("The filter holds a NUL character or half of a surrogate pair.")
    if (size := len(text.encode())) > MAX_BYTES:
        raise FilterInvalidError(f"The filter takes {size:,} bytes; {MAX_BYTES:,} are allowed.")
    group = _read_object(value, 1)
    count = sum(len(one.operand) if one.operator == "in" else 1 for one in comparisons_of(group))
    if count > MAX_COMPARISONS:
        raise FilterInvalidError(
            f"The filter makes {count:,} comparisons; {MAX_COMPARISONS} are allowed."
        )
    return group


def _read_object(value: Any, depth: int) -> Group:
    if not isinstance(value, dict) or not value:
        raise FilterInvalidError(
            "A filter, and each part of $or, $and and $not, is an object with at least one condition."
        )
    if depth > MAX_DEPTH:
        raise FilterInvalidError(f"The filter is nested deeper than {MAX_DEPTH} levels.")
    parts: list[Condition] = []
    for key, content in value.items():
        parts += _read_entry(key, content, depth)
    return Group(False, tuple(parts))


def _read_entry(key: Any, content: Any, depth: int) -> list[Condition]:
    if key == "$not":
        return [_opposite(_read_object(content, depth + 1))]
    if key in GROUPS:
        if not isinstance(content, list) or not content:
            raise FilterInvalidError(f"{key} takes a list of filters.")
        parts = tuple(_read_object(one, depth + 1) for one in content)
        return [Group(key == "$or", parts)]
    if not isinstance(key, str) or key.startswith("$"):
        raise FilterInvalidError(f"There is no {named([str(key)])}; there are {', '.join(GROUPS)}.")
    path = tuple(key.split("."))
    if not isinstance(content, dict):
        return [_read_comparison(path, "eq", content)]
    if not content:
        raise FilterInvalidError(f"{named([key])}: give a value or at least one operator.")
    return [_read_comparison(path, operator, operand) for operator, operand in content.items()]


def _read_comparison(path: tuple[str, ...], operator: Any, operand: Any) -> Condition:
    name = named([".".join(path)])
    if operator not in OPERATORS:
        raise FilterInvalidError(
            f"{name}: there is no operator {named([str(operator)])}; there are {', '.join(OPERATORS)}."
        )
    if problem := OPERAND_PROBLEMS[operator](operand):
        raise FilterInvalidError(f"{name}: {operator} takes {problem}.")
    if operator == "ne":
        return Comparison(path, "eq", operand, is_negated=True)
    if operator == "exists":
        return Comparison(path, "exists", True, is_negated=not operand)
    return Comparison(path, operator, operand)


def _is_number(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, (bool, str)) or _is_number(value)


def _takes(is_right: Callable[[Any], bool], words: str) -> Callable[[Any], str]:
    return lambda operand: "" if is_right(operand) else words


ONE_VALUE = _takes(_is_scalar, "a text, a number, true, false or null")
ORDERED = _takes(lambda value: isinstance(value, str) or _is_number(value), "a number or a text")
OPERAND_PROBLEMS: dict[str, Callable[[Any], str]] = {
    "eq": ONE_VALUE,
    "ne": ONE_VALUE,
    "in": _takes(
        lambda value: isinstance(value, list) and bool(value) and all(map(_is_scalar, value)),
        "a list of texts, numbers, true, false or null",
    ),
    **dict.fromkeys(COMPARISONS, ORDERED),
    "startsWith": _takes(lambda value: isinstance(value, str), "a text"),
    "exists": _takes(lambda value: isinstance(value, bool), "true or false"),
}
"""What is wrong with an operand, by operator; empty where nothing is."""


def _opposite(condition: Condition) -> Condition:
    if isinstance(condition, Comparison):
        return Comparison(
            condition.path, condition.operator, condition.operand, not condition.is_negated
        )
    return Group(not condition.is_any, tuple(map(_opposite, condition.parts)))


def comparisons_of(condition: Condition) -> Iterator[Comparison]:
    """Yield all comparisons of a condition, from left to right."""
    if isinstance(condition, Comparison):
        yield condition
    else:
        for part in condition.parts:
            yield from comparisons_of(part)


# From conditions to a JSON path.


def compile_filter(value: Any) -> str:
    """Return the JSON path of a filter, true of the payloads that it lets through.

    Evaluate it with `payload::jsonb @@ path`. Raises FilterInvalidError.
    """
    return f"strict {_expression(read_filter(value))}"


def parts_of(value: Any) -> list[Part]:
    """Return the conditions that all have to hold, one by one. Raises FilterInvalidError."""
    return [
        Part(
            tuple(dict.fromkeys(one.name for one in comparisons_of(condition))),
            f"strict {_expression(condition)}",
        )
        for condition in _conjuncts(read_filter(value))
    ]


def field_path(name: str) -> str:
    """Return the JSON path of the value at a dotted path."""
    return f"strict {_location(tuple(name.split('.')))}"


def _conjuncts(condition: Condition) -> Iterator[Condition]:
    if isinstance(condition, Group) and (not condition.is_any or len(condition.parts) == 1):
        for part in condition.parts:
            yield from _conjuncts(part)
    else:
        yield condition


def _expression(condition: Condition) -> str:
    if isinstance(condition, Group):
        joint = " || " if condition.is_any else " && "
        return joint.join(f"({_expression(part)})" for part in condition.parts)
    text = _comparison(condition)
    # A missing field makes a strict path unknown, which counts as false, and its opposite as true.
    return f"!({text}) || ({text}) is unknown" if condition.is_negated else text


def _comparison(one: Comparison) -> str:
    place = _location(one.path)
    if one.operator == "exists":
        return f"exists({place})"
    if one.operator == "in":
        alternatives = " || ".join(f"@ == {_literal(value)}" for value in one.operand)
        return f"exists({place} ? ({alternatives}))"
    if one.operator == "startsWith":
        return f"{place} starts with {_literal(one.operand)}"
    return f"{place} {COMPARISONS.get(one.operator, '==')} {_literal(one.operand)}"


def _location(path: tuple[str, ...]) -> str:
    return "".join(["$.data", *(f".{_literal(key)}" for key in path)])


def _literal(value: Any) -> str:
    # JSON's escapes are a part of those of a JSON path.
    return json.dumps(value, ensure_ascii=False)


# Against the schemas of the catalogue.


def check_filter(value: Any, event_types: Iterable[EventType]) -> None:
    """Raise FilterInvalidError, with all problems, where no event of these types can be meant.

    That is a field that none of them has, or a comparison that is true of none of its values.
    """
    group = read_filter(value)
    types = list(event_types)
    problems = dict.fromkeys(filter(None, (_problem(one, types) for one in comparisons_of(group))))
    if problems:
        raise FilterInvalidError(" ".join(list(problems)[:MAX_PROBLEMS]))


def types_left_out(value: Any, event_types: Iterable[EventType]) -> list[str]:
    """Return the names of the types of which the filter lets no event through."""
    group = read_filter(value)
    return [one.name for one in event_types if not _can_hold(group, one)]


def _can_hold(condition: Condition, event_type: EventType) -> bool:
    if isinstance(condition, Group):
        holds = [_can_hold(part, event_type) for part in condition.parts]
        return any(holds) if condition.is_any else all(holds)
    return condition.is_negated or field_schema(event_type.schema, condition.path) is not None


def _problem(one: Comparison, types: list[EventType]) -> str | None:
    schemas = [
        schema
        for event_type in types
        if (schema := field_schema(event_type.schema, one.path)) is not None
    ]
    name = named([one.name])
    if not schemas:
        return f"{name}: {named([each.name for each in types])} has no such field."
    problems = [_misfit(one, schema) for schema in schemas]
    return f"{name}: {shortened(problems[0])}." if all(problems) else None


def field_schema(schema: Any, path: tuple[str, ...]) -> Any:
    """Return the schema of a field, None where there is no such field."""
    for key in path:
        if _is_open(schema):
            return {}
        if "object" not in _types(schema):
            return None
        properties = schema.get("properties", {})
        schema = properties[key] if key in properties else schema.get("additionalProperties", {})
        if schema is False:
            return None
    return {} if _is_open(schema) else schema


def _is_open(schema: Any) -> bool:
    return not isinstance(schema, Mapping) or any(word in schema for word in OPEN_SCHEMA_KEYS)


ALL_TYPES = frozenset({"null", "boolean", "number", "string", "object", "array"})


def _types(schema: Mapping[str, Any]) -> frozenset[str]:
    given = schema.get("type")
    if given is None:
        values = schema.get("enum", [schema["const"]] if "const" in schema else None)
        return ALL_TYPES if values is None else frozenset(map(_type_of, values))
    names = [given] if isinstance(given, str) else given
    return frozenset("number" if one == "integer" else one for one in names)


def _type_of(value: Any) -> str:
    if value is None:
        return "null"
    kinds = {bool: "boolean", str: "string", dict: "object", list: "array"}
    return kinds.get(type(value), "number")


def _misfit(one: Comparison, schema: Mapping[str, Any]) -> str:
    """Return why no value of the schema compares so; empty where one may."""
    if one.operator == "exists":
        return ""
    if one.operator in ("eq", "in"):
        values = one.operand if one.operator == "in" else [one.operand]
        return next(filter(None, (_unfit_value(value, schema) for value in values)), "")
    if _type_of(one.operand) not in _types(schema):
        types = " or ".join(sorted(_types(schema)))
        return f"{one.operator} {_literal(one.operand)} compares with a {_type_of(one.operand)}, and the field is a {types}"
    if one.operator == "startsWith":
        return ""
    return _unfit_time(one.operand, schema) or _out_of_range(one, schema)


def _unfit_value(value: Any, schema: Mapping[str, Any]) -> str:
    validator = jsonschema_rs.Draft202012Validator(dict(schema), validate_formats=True)
    errors = [error.message for error in validator.iter_errors(value)]
    return errors[0] if errors else _unfit_time(value, schema)


def _unfit_time(value: Any, schema: Mapping[str, Any]) -> str:
    is_time = schema.get("format") == "date-time" and isinstance(value, str)
    if not is_time or WIRE_TIME.fullmatch(value):
        return ""
    return f"{_literal(value)} is not a time as events have it, such as 2026-11-23T10:30:00.123Z"


def _out_of_range(one: Comparison, schema: Mapping[str, Any]) -> str:
    if isinstance(one.operand, str):
        return ""
    least, most = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
    is_possible = {
        "gt": one.operand < most,
        "gte": one.operand <= most,
        "lt": one.operand > least,
        "lte": one.operand >= least,
    }
    if is_possible[one.operator]:
        return ""
    limit = f"at most {most}" if one.operator in ("gt", "gte") else f"at least {least}"
    return f"{one.operator} {_literal(one.operand)} is never true, as the field is {limit}"
