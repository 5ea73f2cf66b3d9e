"""No body within the size limit costs much, whichever field of the API holds it (invariant 16).

The fields are those of the OpenAPI description, and one that is in none of them.
"""

import gc
import json
import time
import tracemalloc
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from django.conf import settings
from django.urls import resolve
from rest_framework.test import APIClient

from tests.webhooks.api.matrix import ROUTES, ROWS, World, undone, url_of

MEGABYTE = 1024 * 1024
MAX_SECONDS = 0.3
MAX_ANSWER_BYTES = 64 * 1024
MAX_GROWTH_BYTES = 20 * MEGABYTE
PATIENCE = 3
"""A machine that does other things too may take so many times as long as the rule says."""


def filled(unit: str, start: str, end: str) -> str:
    """Return JSON that repeats something until a megabyte, with the rest of a body, is full."""
    room = MEGABYTE - 2000 - len(start) - len(end)
    return start + ",".join([unit] * (room // (len(unit) + 1))) + end


def members(value: str) -> str:
    room = MEGABYTE - 2000
    count = room // (len(value) + 10)
    return "{" + ",".join(f'"{number:06x}":{value}' for number in range(count)) + "}"


WORST: dict[str, Callable[[], str]] = {
    "zeros": lambda: filled("0", "[", "]"),
    "members": lambda: members("0"),
    "text": lambda: json.dumps("x" * (MEGABYTE - 2000)),
}
MORE: dict[str, Callable[[], str]] = {
    "texts": lambda: filled('""', "[", "]"),
    "nulls": lambda: filled("null", "[", "]"),
    "fractions": lambda: filled("1.5", "[", "]"),
    "arrays": lambda: "[" + ",".join(["[]"] * 49_000) + "]",
    "objects of one": lambda: "[" + ",".join(['{"a":0}'] * 24_000) + "]",
    "wrong texts as members": lambda: members('""'),
    "lists as members": lambda: "{" + ",".join(f'"{n:05x}":[]' for n in range(49_000)) + "}",
    "one long name": lambda: '{"' + "n" * (MEGABYTE - 2000) + '":0}',
    "other letters": lambda: json.dumps("é" * 170_000),
    "digits": lambda: "9" * 4300,
}


class Place(NamedTuple):
    """A field of a body; `field` is None for the whole body, and may be none of those there are."""

    row: str
    field: str | None

    def __str__(self) -> str:
        return f"{self.row}:{self.field}"


def places() -> Iterator[Place]:
    description = yaml.safe_load((Path(settings.BASE_DIR) / "docs" / "openapi.yaml").read_text())
    schemas = description["components"]["schemas"]
    for path, item in description["paths"].items():
        for method, operation in item.items():
            if method not in ("post", "patch"):
                continue
            match = resolve(path.replace("{id}", "x"))
            row = f"{match.url_name}.{method}"
            yield from (Place(row, None), Place(row, "nonsense"))
            body = operation.get("requestBody")
            if body:
                schema = body["content"]["application/json"]["schema"]
                schema = schemas[schema["$ref"].rsplit("/", 1)[1]] if "$ref" in schema else schema
                yield from (Place(row, field) for field in schema.get("properties", {}))


PLACES = [place for place in places() if place.row != "token-list.post"]
"""Tokens are made with a password; its hashing takes a third of a second by itself."""


@cache
def hostile(name: str) -> str:
    return (WORST | MORE)[name]()


def body_with(place: Place, world: World, value: str) -> str:
    if place.field is None:
        return value
    usual = ROWS[place.row].body
    fields = {**(usual(world) if usual else {})}
    fields.pop(place.field, None)
    rest = json.dumps(fields)[1:-1]
    return f'{{"{place.field}":{value}{", " if rest else ""}{rest}}}'


@pytest.fixture
def ask(client: APIClient, staff: Any, make_client: Any, world: World) -> Callable[..., Any]:
    world.owner.is_staff = world.owner.is_superuser = True
    world.owner.save()

    def ask(place: Place, value: str) -> tuple[Any, float]:
        body = body_with(place, world, value)
        assert len(body.encode()) <= MEGABYTE
        route = ROUTES[place.row]
        method = getattr(client, route.method)
        gc.collect()
        with undone():
            started_at = time.thread_time()
            answer = method(url_of(route, world), body, content_type="application/json")
            return answer, time.thread_time() - started_at

    return ask


def check(place: Place, name: str, answer: Any, seconds: float) -> list[str]:
    what = f"{place} with {name}: {answer.status_code}"
    wrong = []
    if answer.status_code >= 500:
        wrong.append(what)
    if len(answer.content) > MAX_ANSWER_BYTES:
        wrong.append(f"{what}, {len(answer.content):,} bytes")
    if seconds > MAX_SECONDS * PATIENCE:
        wrong.append(f"{what}, {seconds:.2f} s")
    return wrong


@pytest.mark.parametrize("row", sorted({place.row for place in PLACES}))
def test_no_field_is_dear(ask: Callable[..., Any], row: str) -> None:
    wrong = []
    for place in PLACES:
        for name in WORST if place.row == row else ():
            wrong += check(place, name, *ask(place, hostile(name)))
    assert wrong == []


@pytest.mark.full
@pytest.mark.parametrize("row", sorted({place.row for place in PLACES}))
def test_no_field_is_dear_whatever_it_holds(ask: Callable[..., Any], row: str) -> None:
    wrong = []
    for place in PLACES:
        for name in MORE if place.row == row else ():
            wrong += check(place, name, *ask(place, hostile(name)))
    assert wrong == []


@pytest.mark.parametrize("name", WORST | MORE)
@pytest.mark.parametrize(
    "place",
    [Place("webhook-list.post", "events"), Place("webhook-list.post", "nonsense"),
     Place("event-list.post", "data"), Place("event-batch.post", "events")],
    ids=str,
)  # fmt: skip
def test_no_field_takes_much_memory(ask: Callable[..., Any], place: Place, name: str) -> None:
    hostile(name)
    ask(place, "0")
    tracemalloc.start()
    try:
        ask(place, hostile(name))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= MAX_GROWTH_BYTES


def test_counts_what_is_tried() -> None:
    assert len(PLACES) * len(WORST | MORE) >= 1000
