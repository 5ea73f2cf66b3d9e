"""The portal's translations are complete, and compiled from what the code says now."""

import ast
import re
from typing import Any

import pytest

from config import texts

PLACES = re.compile(r"%\(\w+\)s|%%|</?\w+>")


@pytest.mark.parametrize("language", texts.LANGUAGES)
def test_files_are_up_to_date(language: str) -> None:
    """`make texts` brings them there."""
    folder = texts.APP / "locale" / language / "LC_MESSAGES"

    assert (folder / "django.po").read_bytes() == texts.as_po(texts.renewed(language))
    assert (folder / "django.mo").read_bytes() == texts.as_mo(texts.read(language))


@pytest.mark.parametrize("language", texts.LANGUAGES)
def test_every_text_is_translated_with_its_places(language: str) -> None:
    catalog = texts.read(language)

    assert texts.untranslated(catalog) == []
    for message in catalog:
        if message.id:
            given: Any = message.id if message.pluralizable else [message.id]
            made: Any = message.string if message.pluralizable else [message.string]
            wanted = sorted(PLACES.findall(given[-1]))
            assert sorted(PLACES.findall(made[-1])) == wanted, message.id
    assert len(catalog) > 400


def test_no_text_stands_within_another() -> None:
    """Of an f-string, no Python before 3.12 gathers the texts."""
    found = [
        f"{path.relative_to(texts.APP)}:{inner.lineno}"
        for path in texts.APP.rglob("*.py")
        for outer in ast.walk(ast.parse(path.read_text()))
        if isinstance(outer, ast.JoinedStr)
        for inner in ast.walk(outer)
        if isinstance(inner, ast.Call)
        and isinstance(inner.func, ast.Name)
        and inner.func.id in texts.KEYWORDS
    ]

    assert found == []
