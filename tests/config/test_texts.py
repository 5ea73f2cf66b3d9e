"""The portal's translations are complete, and compiled from what the code says now."""

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
