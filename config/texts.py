"""The translated texts of the portal: `python -m config.texts` after a text was changed.

Gathers the texts from code and templates, keeps the translations there are in `webhooks/locale`, and
compiles them. It needs no gettext on the machine: Babel reads and writes the files. Both the .po and
the .mo files are in the repository, so that nothing is compiled where the site is installed.
"""

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

from babel.messages.catalog import Catalog
from babel.messages.extract import extract_python
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po

APP = Path(__file__).resolve().parent.parent / "webhooks"
LANGUAGES = ("de",)
MADE_AT = datetime(2026, 11, 28, tzinfo=UTC)
KEYWORDS: dict[str, Any] = {
    "_": None, "gettext": None, "gettext_lazy": None, "gettext_noop": None,
    "ngettext": (1, 2), "ngettext_lazy": (1, 2), "pgettext": ((1, "c"), 2),
    "npgettext": ((1, "c"), 2, 3),
}  # fmt: skip


def gather() -> Catalog:
    """Return all texts of the app, without translations."""
    catalog = Catalog(charset="utf-8")
    for path in sorted([*APP.rglob("*.py"), *APP.rglob("*.html")]):
        for messages, context in _texts_of(path):
            catalog.add(messages, context=context)
    return catalog


def _texts_of(path: Path) -> Iterator[tuple[Any, str | None]]:
    source = path.read_text()
    if path.suffix == ".html":
        # After the settings: Django's own reader of templates.
        from django.utils.translation.template import templatize

        # What is no text becomes a row of X; in Python an indent would mean something.
        source = "\n".join(line.strip() for line in templatize(source).splitlines())
    for _, function, messages, _ in extract_python(BytesIO(source.encode()), KEYWORDS, [], {}):
        name = str(function)
        texts = list(messages) if isinstance(messages, tuple) else [messages]
        if not texts or texts[0] is None:
            continue
        context = str(texts.pop(0)) if "pgettext" in name else None
        yield (tuple(texts[:2]) if "ngettext" in name or "npgettext" in name else texts[0]), context


def read(language: str) -> Catalog:
    """Return the stored translations of a language."""
    path = _folder(language) / "django.po"
    if not path.exists():
        return Catalog(locale=language, charset="utf-8")
    with path.open("rb") as file:
        return read_po(file, locale=language, charset="utf-8")


def renewed(language: str) -> Catalog:
    """Return a language's translations of the texts there are now."""
    catalog = read(language)
    catalog.update(gather(), no_fuzzy_matching=True)
    catalog.obsolete.clear()
    return catalog


def untranslated(catalog: Catalog) -> list[Any]:
    """Return the texts without a translation."""
    return [message.id for message in catalog if message.id and not all(_strings_of(message))]


def _strings_of(message: Any) -> list[str]:
    return list(message.string) if message.pluralizable else [message.string]


def as_po(catalog: Catalog) -> bytes:
    """Return the file that translators edit."""
    file = BytesIO()
    write_po(file, _with_header(catalog), width=100, sort_output=True, no_location=True)
    return file.getvalue()


def as_mo(catalog: Catalog) -> bytes:
    """Return the file that Django reads."""
    file = BytesIO()
    write_mo(file, _with_header(catalog))
    return file.getvalue()


def _with_header(catalog: Catalog) -> Catalog:
    """Give a catalogue a header that is the same each time."""
    catalog.header_comment = "# Texts of the portal. After a change: python -m config.texts"
    catalog.project, catalog.version = "webhooks", "1"
    catalog.msgid_bugs_address = catalog.last_translator = catalog.language_team = ""
    catalog.creation_date = catalog.revision_date = MADE_AT
    catalog.fuzzy = False
    return catalog


def _folder(language: str) -> Path:
    return APP / "locale" / language / "LC_MESSAGES"


def main() -> None:
    """Bring the files up to date, and name what is not translated."""
    missing = 0
    for language in LANGUAGES:
        catalog = renewed(language)
        folder = _folder(language)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "django.po").write_bytes(as_po(catalog))
        (folder / "django.mo").write_bytes(as_mo(read(language)))
        for text in untranslated(catalog):
            missing += 1
            sys.stdout.write(f"{language}: {text!r}\n")
    sys.exit(f"{missing} texts are not translated." if missing else 0)


if __name__ == "__main__":
    main()
