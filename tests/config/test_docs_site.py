"""The pages of the documentation: one site holds all of them, and their commands exist."""

import re
from argparse import ArgumentParser, _SubParsersAction
from functools import cache
from pathlib import Path

import pytest
from django.core.management import get_commands, load_command_class

from config.services import BASE_DIR

DOCS = BASE_DIR / "docs"
PAGES = sorted([*DOCS.glob("*.md"), *(BASE_DIR / name for name in ("README.md", "SECURITY.md"))])
COMMAND = re.compile(r"manage\.py ([a-z][\w-]*)((?: +[^`#|\n]*)?)")


def test_the_site_lists_every_page() -> None:
    nav = set(re.findall(r": ([\w-]+\.md)$", (BASE_DIR / "mkdocs.yml").read_text(), re.MULTILINE))

    assert nav == {page.name for page in DOCS.glob("*.md")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([\w./-]+\.\w+)(#[\w-]+)?\)", page.read_text()):
        linked = page.parent / target
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(), re.MULTILINE)
            assert anchor[1:] in {slug(one) for one in headings}, (target, anchor)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tests_and_modules_that_the_pages_name_exist(page: Path) -> None:
    text = page.read_text()

    assert set(re.findall(r"\btest_\w+\b(?!\.py)", text)) <= defined_tests()
    paths = re.findall(r"\b(?:tests|webhooks)/[\w/]+\.py\b", text)
    assert [path for path in paths if not (BASE_DIR / path).exists()] == []


@cache
def defined_tests() -> set[str]:
    modules = (BASE_DIR / "tests").rglob("*.py")
    return set(re.findall(r"def (test_\w+)", "".join(module.read_text() for module in modules)))


def slug(heading: str) -> str:
    text = re.sub(r"[^\w\s-]", "", heading.lower())
    return re.sub(r"\s", "-", text.strip())


def commands_of(page: Path) -> list[tuple[str, str]]:
    """Every `manage.py` command of a page, as it is written there."""
    return COMMAND.findall(page.read_text())


def options_of(parser: ArgumentParser) -> set[str]:
    """Return the options of a command and of its actions."""
    found = {option for action in parser._actions for option in action.option_strings}
    for action in parser._actions:
        if isinstance(action, _SubParsersAction):
            found = found.union(*map(options_of, action.choices.values()))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_pages_exist_with_their_options(page: Path) -> None:
    # Of an app that is installed only where it is asked for.
    known = get_commands() | {"cells": "cells"}
    for name, rest in commands_of(page):
        if name.startswith("command"):
            continue
        assert name in known, name
        parser = load_command_class(known[name], name).create_parser("manage.py", name)
        options = options_of(parser)
        used = re.findall(r"(?<![\w-])--[a-z][\w-]*", rest)
        assert set(used) <= options, (name, rest)
