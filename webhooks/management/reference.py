"""Generate docs/commands.md, the page about all commands, from their argument parsers."""

import argparse
from collections.abc import Iterator
from typing import Any

from django.apps import apps
from django.core.management import get_commands, load_command_class
from django.core.management.base import BaseCommand, CommandParser

INTRODUCTION = """\
# Commands

Run a command as `manage.py <command>`; `manage.py <command> --help` shows the text of this page. All
commands print data to stdout and everything else to stderr; they show progress only in a terminal.
`--verbosity 0` suppresses all output except data and errors; `--no-color` removes colours. Ids are
public ids (`whk_…`, `evt_…`, `del_…`, `red_…`) or UUIDs. Times without a time zone are in UTC. A
command ends with exit code 141 once nobody reads its output (`| head`).

`make docs` generates this page."""


def own_commands() -> list[str]:
    """Return the names of the commands of this project's own apps, sorted."""
    own_apps = {app.name for app in apps.get_app_configs() if "site-packages" not in app.path}
    return sorted(name for name, app in get_commands().items() if app in own_apps)


def render() -> str:
    """Return the page as Markdown; it leaves out the commands that generate pages."""
    names = [name for name in own_commands() if not name.endswith("_reference")]
    contents = "\n".join(f"- [{name}](#{name}): {_first_sentence(_load(name))}" for name in names)
    return "\n\n".join([INTRODUCTION, contents, *map(_render_command, names)]) + "\n"


def _load(name: str) -> BaseCommand:
    return load_command_class(get_commands()[name], name)


def _first_sentence(command: BaseCommand) -> str:
    return command.help.split(": ")[0].split(". ")[0].rstrip(".") + "."


def _render_command(name: str) -> str:
    command = _load(name)
    parser = command.create_parser("manage.py", name)
    parts = [f"## {name}", command.help, *_tables(parser)]
    if parser.epilog:
        parts.append(f"```text\n{parser.epilog}\n```")
    return "\n\n".join(parts)


def _tables(parser: CommandParser) -> Iterator[str]:
    # The page leaves out the options that all Django commands have.
    shared = {action.dest for action in BaseCommand().create_parser("manage.py", "x")._actions}
    actions = [action for action in parser._actions if action.dest not in shared]
    if actions:
        rows = [f"| {_spelling(action)} | {_cell(action)} |" for action in actions]
        yield "\n".join(["| option | meaning |", "| --- | --- |", *rows])


def _spelling(action: argparse.Action) -> str:
    value: Any = action.metavar or (
        "{" + ",".join(map(str, action.choices)) + "}" if action.choices else action.dest.upper()
    )
    if not action.option_strings:
        return f"`{value}{' …' if action.nargs == '*' else ''}`"
    name = action.option_strings[-1]
    return f"`{name}`" if action.nargs == 0 else f"`{name} {value}`"


def _cell(action: argparse.Action) -> str:
    return (action.help or "").replace("|", "\\|")
