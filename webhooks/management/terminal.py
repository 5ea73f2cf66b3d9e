"""The base class and the output of our commands.

Commands print data to stdout and everything else to stderr, and progress only to a terminal. Exit
codes: 0 done, 1 refused or failed, 2 wrong usage, 3 partly done, 130 interrupted, 141 whoever reads
the output has left.
"""

import json
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from django.core.management.base import (
    BaseCommand,
    CommandError,
    CommandParser,
    DjangoHelpFormatter,
)
from django.db import InterfaceError, OperationalError

from webhooks import catalog
from webhooks.conf import worker_command
from webhooks.errors import WebhooksError
from webhooks.models import Pause, WorkerHeartbeat

PARTIAL = 3
INTERRUPTED = 130
CLOSED_PIPE = 141


def plain(text: str) -> str:
    """Style stderr messages that are not errors: plain, where Django's default is red."""
    return text


class HelpFormatter(DjangoHelpFormatter):
    """Django's help formatter, except that it keeps the line breaks of our examples."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text else super()._fill_text(text, width, indent)


class Command(BaseCommand):
    """The base class of our commands; subclasses implement run()."""

    epilog = ""
    """Text that --help shows below the options."""
    requires_migrations_checks = True

    def create_parser(self, prog_name: str, subcommand: str, **options: Any) -> CommandParser:
        options.setdefault("formatter_class", HelpFormatter)
        return super().create_parser(prog_name, subcommand, epilog=self.epilog, **options)

    def execute(self, *args: Any, **options: Any) -> str | None:
        try:
            output = super().execute(*args, **options)
            self.stdout.flush()
            return output
        except BrokenPipeError:
            # Python flushes both at its end, and would fail once more.
            with Path(os.devnull).open("wb") as nowhere:
                for stream in (sys.stdout, sys.stderr):
                    os.dup2(nowhere.fileno(), stream.fileno())
            raise SystemExit(CLOSED_PIPE) from None
        except (OperationalError, InterfaceError) as problem:
            raise CommandError(
                f"Postgres is unavailable; see manage.py doctor. {str(problem).strip()}"
            ) from None

    def handle(self, *args: Any, **options: Any) -> str | None:
        self.verbosity = options["verbosity"]
        try:
            return self.run(**options)
        except WebhooksError as problem:
            raise CommandError(harmless(str(problem))) from None
        except KeyboardInterrupt:
            self.say("")
            raise CommandError(self.interrupted(), returncode=INTERRUPTED) from None

    def run(self, **options: Any) -> str | None:
        raise NotImplementedError

    def interrupted(self) -> str:
        """Return the message to print after Ctrl-C."""
        return "Interrupted."

    def say(self, line: str) -> None:
        """Print a message to stderr; --verbosity 0 suppresses it."""
        if self.verbosity > 0:
            self.stderr.write(harmless(line), plain)
            self.stderr.flush()

    def show(self, line: str = "") -> None:
        """Print a line of data to stdout and flush it, so that a pipe gets it at once."""
        self.stdout.write(harmless(line))
        self.stdout.flush()

    def show_json(self, document: Any) -> None:
        self.show(json.dumps(document, ensure_ascii=False))

    def progress(self, line: str) -> None:
        """Replace the progress line on stderr; does nothing without a terminal."""
        if self.verbosity > 0 and self.stderr.isatty():
            self.stderr.write(f"\r{line}\x1b[K", plain, ending="")
            self.stderr.flush()

    def end_progress(self) -> None:
        self.progress("")

    def refuse_beside(self, chosen: str, options: Mapping[str, Any], *used: str) -> None:
        """Refuse the options that were given beside a chosen one, but for the names it uses.

        Raises CommandError: who asks for a --dry-run must not learn afterwards that it was ignored.
        """
        parser = CommandParser(add_help=False)
        self.add_arguments(parser)
        ignored = [
            action.option_strings[0] if action.option_strings else str(action.metavar)
            for action in parser._actions
            if action.dest not in used and options[action.dest] not in (action.default, [])
        ]
        if ignored:
            raise CommandError(
                f"{chosen} ignores {', '.join(ignored)}: leave one of them out.", returncode=2
            )

    def confirm(self, question: str, *, is_interactive: bool) -> None:
        """Ask a question on the terminal; does nothing with --no-input.

        Raises CommandError if the answer is not yes, and without a terminal.
        """
        if not is_interactive:
            return
        if not sys.stdin.isatty():
            raise CommandError(f"{question} To confirm without a terminal, add --no-input.")
        self.stderr.write(f"{question} [y/N] ", plain, ending="")
        self.stderr.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise CommandError("Nothing was done.")

    def warn_if_nothing_is_sent(self) -> None:
        """Warn if no worker is running or all sending is paused."""
        if not WorkerHeartbeat.objects.exists():
            self.say(f"No worker is running; start one: {worker_command()}")
        if Pause.objects.exists():
            self.say("All sending is paused; resume it: manage.py pause --end")


@contextmanager
def stopping() -> Iterator[threading.Event]:
    """Yield an event that the first Ctrl-C or SIGTERM sets; the second raises KeyboardInterrupt."""
    stop = threading.Event()

    def on_signal(*_: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, on_signal) for number in STOP_SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


# Output.


def table(header: Sequence[str], rows: Sequence[Sequence[Any]], right: str = "") -> list[str]:
    """Return the lines of a table; `right` names the right-aligned columns, space-separated."""
    cells = [[printable(str(cell)) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    aligned = [
        [
            cell.rjust(width) if name in right.split() else cell.ljust(width)
            for cell, width, name in zip(row, widths, header, strict=True)
        ]
        for row in cells
    ]
    return ["  ".join(row).rstrip() for row in aligned]


CONTROLS = re.compile(
    "[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
"""What steers a terminal or turns the direction of text, but for line feeds and tabs."""


def harmless(text: str) -> str:
    """Return text, whoever wrote it, as a terminal may show it: controls as `\\u001b`.

    JSON stays the same JSON.
    """
    return CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def printable(text: str) -> str:
    """Escape text that holds control characters: names and errors come from untrusted users."""
    return text if text.isprintable() else ascii(text)[1:-1]


def document(value: Any) -> dict[str, Any]:
    """Return a dataclass as a JSON object: camelCase names, times in wire format, UUIDs as text."""
    return {_camel(name): _plain(part) for name, part in asdict(value).items()}


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.title() for part in rest)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return catalog.wire_time(value)
    return str(value) if isinstance(value, UUID) else value


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return `1 delivery`, `1,204 deliveries`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def bar(done: int, of: int, width: int = 20) -> str:
    filled = width * done // of if of else width
    return f"[{'#' * filled}{'-' * (width - filled)}] {done:,}/{of:,}"
