"""The limits of the house: no class over 200 lines, no module over 400, 25 rooms in webhooks/."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from config.services import BASE_DIR

PACKAGES = ("webhooks", "cells", "config", "projects", "sessions_app")
MAX_CLASS_LINES = 200
MAX_MODULE_LINES = 400
MAX_ROOMS = 25

NO_ROOMS = {"__init__.py", "__pycache__", "apps.py", "locale", "migrations", "static", "templates"}
"""Entries of webhooks/ that Django prescribes and nobody reads for their code."""


def modules() -> Iterator[Path]:
    for package in PACKAGES:
        for path in (BASE_DIR / package).rglob("*.py"):
            if "migrations" not in path.parts:
                yield path


def long_parts(name: str, source: str) -> Iterator[str]:
    """Yield the module if it is too long, and its classes that are."""
    if len(source.splitlines()) > MAX_MODULE_LINES:
        yield name
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef):
            first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            if (node.end_lineno or 0) - first + 1 > MAX_CLASS_LINES:
                yield f"{name}:{node.name}"


def test_classes_and_modules_stay_short() -> None:
    found = [
        part
        for path in modules()
        for part in long_parts(str(path.relative_to(BASE_DIR)), path.read_text())
    ]

    assert not found, "cut along a heading"


def test_the_top_of_the_app_is_one_look() -> None:
    rooms = {path.name for path in (BASE_DIR / "webhooks").iterdir()} - NO_ROOMS

    assert len(rooms) <= MAX_ROOMS, f"{len(rooms)} rooms: {', '.join(sorted(rooms))}"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("class A:\n" + "    x = 1\n" * 199, []),
        ("class A:\n" + "    x = 1\n" * 200, ["m:A"]),
        ("@f\nclass A:\n" + "    x = 1\n" * 199, ["m:A"]),
        ("x = 1\n" * 400, []),
        ("x = 1\n" * 401, ["m"]),
    ],
)
def test_long_parts_are_found(source: str, expected: list[str]) -> None:
    assert list(long_parts("m", source)) == expected
