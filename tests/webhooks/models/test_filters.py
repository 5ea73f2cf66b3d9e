"""Filters: what is refused, and that Postgres reads them as a plain reading of their form does."""

import json
import random
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection

from webhooks import catalog
from webhooks.errors import FilterInvalidError
from webhooks.models.filters import (
    MAX_COMPARISONS,
    check_filter,
    compile_filter,
    field_path,
    parts_of,
    types_left_out,
)

PAYMENT = catalog.get_type("payment.succeeded")
SUBSCRIPTION = catalog.get_type("subscription.updated")
PROJECT = catalog.get_type("project.updated")

# A plain reading of the form.

MISSING = object()
LESS: dict[str, Callable[[Any, Any], bool]] = {
    "gt": lambda value, operand: value > operand,
    "gte": lambda value, operand: value >= operand,
    "lt": lambda value, operand: value < operand,
    "lte": lambda value, operand: value <= operand,
}


def lets_through(filter_: dict[str, Any], data: Any) -> bool:
    return all(_entry(key, content, data) for key, content in filter_.items())


def _entry(key: str, content: Any, data: Any) -> bool:
    if key == "$or":
        return any(lets_through(one, data) for one in content)
    if key == "$and":
        return all(lets_through(one, data) for one in content)
    if key == "$not":
        return not lets_through(content, data)
    value = data
    for name in key.split("."):
        value = value.get(name, MISSING) if isinstance(value, dict) else MISSING
    wanted = content if isinstance(content, dict) else {"eq": content}
    return all(_compares(value, operator, operand) for operator, operand in wanted.items())


def _compares(value: Any, operator: str, operand: Any) -> bool:
    if operator == "exists":
        return (value is not MISSING) is operand
    if operator == "ne":
        return not _is_same(value, operand)
    if operator == "in":
        return any(_is_same(value, one) for one in operand)
    if operator == "eq":
        return _is_same(value, operand)
    if type(value) is not type(operand) or isinstance(value, bool):
        return False
    return value.startswith(operand) if operator == "startsWith" else LESS[operator](value, operand)


def _is_same(value: Any, operand: Any) -> bool:
    return type(value) is type(operand) and value == operand


# Random filters and data, from few names and values, so that they often meet.

KEYS = ("a", 'q"\\', "$x")
TEXTS = ("", "a", "ab", "b", "é", "🚀", "\uffff", 'q"\\\n', "%", "[1]", "null")
NUMBERS = (0, -1, 1, 2, 0.1, -0.5, 1.0, 1e21, 10**21, 2**53 + 1, 2.0**53, 1e-7, -1e300)
SCALARS = (*TEXTS, *NUMBERS, True, False, None)


def random_data(random: random.Random, depth: int = 2) -> Any:
    kind = random.random()
    if depth and (depth == 2 or kind < 0.3):
        names = random.sample(KEYS, random.randint(1, 3))
        return {name: random_data(random, depth - 1) for name in names}
    if depth and kind < 0.35:
        return [random_data(random, depth - 1) for _ in range(random.randint(0, 2))]
    return random.choice(SCALARS)


def random_filter(random: random.Random, depth: int = 4) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    for _ in range(random.choice((1, 1, 1, 2))):
        group = random.random() if depth else 1
        if group < 0.12:
            entries["$not"] = random_filter(random, depth - 1)
        elif group < 0.3:
            count = random.randint(1, 3)
            parts = [random_filter(random, depth - 1) for _ in range(count)]
            entries[random.choice(("$or", "$and"))] = parts
        else:
            key = ".".join(
                [random.choice(KEYS[:-1]), *random.choices(KEYS, k=random.choice((0, 0, 0, 1)))]
            )
            entries[key] = random_condition(random)
    return entries


def random_condition(random: random.Random) -> Any:
    if random.random() < 0.2:
        return random.choice(SCALARS)
    operators = random.sample(("eq", "ne", "in", *LESS, "startsWith", "exists"), 2)
    return {one: random_operand(random, one) for one in operators[: random.choice((1, 1, 2))]}


def random_operand(random: random.Random, operator: str) -> Any:
    if operator == "in":
        return random.choices(SCALARS, k=random.randint(2, 9))
    if operator == "exists":
        return random.random() < 0.5
    if operator == "startsWith":
        return random.choice(TEXTS)
    return random.choice((*TEXTS, *NUMBERS) if operator in LESS else SCALARS)


VERDICTS_SQL = """
SELECT coalesce(payload @@ path, false)
  FROM ROWS FROM (jsonb_to_recordset(%s) AS (payload jsonb, path jsonpath)) WITH ORDINALITY AS c
 ORDER BY ordinality
"""


def verdicts(cases: list[tuple[dict[str, Any], Any]]) -> list[bool]:
    rows = [{"payload": {"data": data}, "path": compile_filter(filter_)} for filter_, data in cases]
    with connection.cursor() as cursor:
        cursor.execute(VERDICTS_SQL, [json.dumps(rows)])
        return [verdict for (verdict,) in cursor.fetchall()]


def exactly(value: Any) -> Any:
    """Read numbers as JSON has them: by their digits, whole or not."""
    return json.loads(json.dumps(value), parse_float=Decimal, parse_int=Decimal)


def agree(count: int, seed: int) -> None:
    rng = random.Random(seed)
    cases: list[tuple[dict[str, Any], Any]] = []
    while len(cases) < count:
        filter_ = random_filter(rng)
        try:
            compile_filter(filter_)
        except FilterInvalidError as problem:
            assert "comparisons" in str(problem) or "bytes" in str(problem)  # noqa: PT017
            continue
        cases.append((filter_, random_data(rng)))

    found = verdicts(cases)

    wrong = [
        (filter_, data, verdict)
        for (filter_, data), verdict in zip(cases, found, strict=True)
        if lets_through(exactly(filter_), exactly(data)) is not verdict
    ]
    assert wrong == []
    assert count * 0.15 < sum(found) < count * 0.6


@pytest.mark.django_db
def test_postgres_reads_a_filter_as_a_plain_reading_does() -> None:
    agree(400, seed=1)


@pytest.mark.full
@pytest.mark.django_db
@pytest.mark.parametrize("seed", range(2, 7))
def test_postgres_reads_thousands_of_filters_as_a_plain_reading_does(seed: int) -> None:
    agree(1000, seed)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("filter_", "data", "verdict"),
    [
        ({"amount": {"gte": 100, "lt": 200}}, {"amount": 100}, True),
        ({"amount": {"gte": 100, "lt": 200}}, {"amount": 200}, False),
        ({"amount": {"gte": 100}}, {"amount": "100"}, False),
        ({"amount": {"gte": 100}}, {}, False),
        ({"$not": {"amount": {"gte": 100}}}, {}, True),
        ({"amount": {"ne": 100}}, {}, True),
        ({"amount": 1}, {"amount": True}, False),
        ({"amount": 1}, {"amount": 1.0}, True),
        ({"amount": 1}, {"amount": [1]}, False),
        ({"reason": None}, {"reason": None}, True),
        ({"reason": None}, {}, False),
        ({"reason": {"exists": True}}, {"reason": None}, True),
        ({"session.title": {"startsWith": "Re"}}, {"session": {"title": "Review"}}, True),
        ({"session.title": {"startsWith": "Re"}}, {"session": [{"title": "Review"}]}, False),
        ({"$or": [{"a": 1}, {"b": 2}], "c": 3}, {"b": 2, "c": 3}, True),
        ({"$or": [{"a": 1}, {"b": 2}], "c": 3}, {"b": 2, "c": 4}, False),
        ({"currency": {"in": ["EUR", "USD"]}}, {"currency": "USD"}, True),
    ],
)
def test_what_a_filter_means(filter_: dict[str, Any], data: Any, verdict: bool) -> None:
    assert lets_through(filter_, data) is verdict or (filter_, data) == (
        {"amount": 1},
        {"amount": 1.0},
    )
    assert verdicts([(filter_, data)]) == [verdict]


@pytest.mark.parametrize(
    ("filter_", "message"),
    [
        ({"amuont": 5}, "amuont: payment.succeeded has no such field."),
        ({"amount.cents": 5}, "amount.cents: payment.succeeded has no such field."),
        ({"amount": "much"}, 'amount: "much" is not of type "integer".'),
        ({"amount": {"ne": None}}, 'amount: null is not of type "integer".'),
        ({"amount": {"gt": "5"}}, 'amount: gt "5" compares with a string, and the field is a number.'),
        ({"amount": {"lt": 0}}, "amount: lt 0 is never true, as the field is at least 0."),
        ({"amount": {"startsWith": "5"}}, "amount: startsWith"),
        ({"currency": {"in": ["EUR", "euro"]}}, 'currency: "euro" does not match'),
        ({"paidAt": {"gte": "2026-11-23"}}, 'paidAt: "2026-11-23" is not a time as events have it'),
        ({"$or": [{"amount": 5}, {"status": 5}]}, "status: payment.succeeded has no such field."),
        ({"amuont": 5, "$not": {"curency": "EUR"}}, "amuont: .* curency: "),
        ({"amount": {"like_regex": ".*"}}, "amount: there is no operator like_regex; there are eq, "),
        ({"amount": {}}, "amount: give a value or at least one operator."),
        ({"amount": {"gt": True}}, "amount: gt takes a number or a text."),
        ({"amount": {"in": 5}}, "amount: in takes a list"),
        ({"amount": {"in": []}}, "amount: in takes a list"),
        ({"amount": [5]}, "amount: eq takes a text, a number, true, false or null."),
        ({"amount": {"eq": float("nan")}}, "cannot be written as JSON"),
        ({"amount": {"exists": 1}}, "amount: exists takes true or false."),
        ({"$where": "sleep(9)"}, "There is no \\$where; there are \\$or, \\$and, \\$not."),
        ({"$or": {}}, "\\$or takes a list of filters."),
        ({"$or": []}, "\\$or takes a list of filters."),
        ({"$or": [5]}, "object with at least one condition"),
        ({"$not": {}}, "object with at least one condition"),
        ({}, "object with at least one condition"),
        ([], "A filter is an object"),
        ({"id": "\ud800"}, "half of a surrogate pair"),
        ({"id": "a\0"}, "NUL"),
        ({"id": "x" * 5000}, "The filter takes 5,010 bytes; 4,096 are allowed."),
        ({"amount": {"in": list(range(101))}}, "makes 101 comparisons; 100 are allowed."),
        ({"amount": {"in": list(range(10_000))}}, "bytes; 4,096 are allowed"),
        ({"$not": {"$not": {"$not": {"$not": {"$not": {"amount": 5}}}}}}, "deeper than 5 levels"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_by_name(filter_: Any, message: str) -> None:
    with pytest.raises(FilterInvalidError, match=message):
        check_filter(filter_, [PAYMENT])


def test_endless_nesting_is_refused() -> None:
    filter_: Any = {"amount": 5}
    for _ in range(100_000):
        filter_ = {"$not": filter_}

    with pytest.raises(FilterInvalidError):
        compile_filter(filter_)


def test_a_field_of_one_of_the_types_is_enough() -> None:
    types = [PAYMENT, SUBSCRIPTION, PROJECT]

    check_filter({"status": "active"}, types)
    check_filter({"archived": True, "amount": {"gt": 10**400}}, types)

    assert types_left_out({"status": "active"}, types) == [PAYMENT.name, PROJECT.name]
    assert types_left_out({"amount": {"gte": 5}}, types) == [PROJECT.name]
    assert types_left_out({"$not": {"amount": {"gte": 5}}}, types) == []
    assert types_left_out({"$or": [{"status": "active"}, {"archived": True}]}, types) == [
        PAYMENT.name
    ]


def test_a_filter_falls_into_what_all_has_to_hold() -> None:
    filter_ = {"a": {"gt": 1, "lt": 5}, "$and": [{"b": 2}], "$or": [{"c": 3}, {"d.e": 4, "c": 5}]}

    assert [part.fields for part in parts_of(filter_)] == [("a",), ("a",), ("b",), ("c", "d.e")]
    assert field_path("d.e") == 'strict $.data."d"."e"'


HOSTILE: dict[str, dict[str, Any]] = {
    "alternatives": {"name": {"in": [f"{'x' * 20}{number}" for number in range(MAX_COMPARISONS)]}},
    "prefixes": {"$or": [{"name": {"startsWith": "x" * 25 + str(n)}} for n in range(70)]},
    "negations": {"$not": {"$or": [{"$not": {"name": {"ne": f"x{n}"}}} for n in range(80)]}},
    "a long text": {"name": {"startsWith": "x" * 4000}},
    "a huge number": {"name": {"lt": 10**4000}},
}


@pytest.mark.django_db
@pytest.mark.parametrize("kind", HOSTILE)
def test_the_dearest_filters_take_little_time_in_postgres(kind: str) -> None:
    path = compile_filter(HOSTILE[kind])
    payload = json.dumps({"data": {"name": "x" * 40_000}})
    best = 9.0
    with connection.cursor() as cursor:
        for _ in range(5):
            started_at = time.perf_counter()
            cursor.execute("SELECT %s::jsonb @@ %s::jsonpath", [payload, path])
            best = min(best, time.perf_counter() - started_at)

    assert best < 0.01
