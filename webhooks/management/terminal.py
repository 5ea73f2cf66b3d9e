"""What our commands share: the habits of DESIGN.md and how they read arguments and print.

Data goes to stdout, everything else to stderr; progress only to a terminal. Exit codes: 0 done,
1 refused or failed, 2 wrong usage, 3 done in part, 130 interrupted.
"""

import json
import signal
import sys
import threading
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from django.contrib.auth import get_user_model
from django.core.management.base import (
    BaseCommand,
    CommandError,
    CommandParser,
    DjangoHelpFormatter,
)
from django.db import InterfaceError, OperationalError
from django.db.models import Q
from django.utils.dateparse import parse_date, parse_datetime

from webhooks import catalog
from webhooks.choices import DeliveryStatus
from webhooks.errors import PublicIdInvalidError, WebhooksError
from webhooks.ids import WEBHOOK_PREFIX, parse_public_id
from webhooks.models import Webhook, WorkerHeartbeat

PARTIAL = 3
INTERRUPTED = 130
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


class HelpFormatter(DjangoHelpFormatter):
    """Django's order of options, and our examples line by line."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text else super()._fill_text(text, width, indent)


class Command(BaseCommand):
    """The base of our commands: `epilog` is shown below the options."""

    epilog = ""
    requires_migrations_checks = True

    def create_parser(self, prog_name: str, subcommand: str, **options: Any) -> CommandParser:
        options.setdefault("formatter_class", HelpFormatter)
        return super().create_parser(prog_name, subcommand, epilog=self.epilog, **options)

    def execute(self, *args: Any, **options: Any) -> str | None:
        try:
            return super().execute(*args, **options)
        except (OperationalError, InterfaceError) as problem:
            raise CommandError(
                f"Postgres does not answer; see manage.py doctor. {str(problem).strip()}"
            ) from None

    def handle(self, *args: Any, **options: Any) -> str | None:
        self.verbosity = options["verbosity"]
        try:
            return self.run(**options)
        except WebhooksError as problem:
            raise CommandError(str(problem)) from None
        except KeyboardInterrupt:
            self.say("")
            raise CommandError(self.interrupted(), returncode=INTERRUPTED) from None

    def run(self, **options: Any) -> str | None:
        raise NotImplementedError

    def interrupted(self) -> str:
        """Return what to say after Ctrl-C."""
        return "Interrupted."

    def say(self, line: str) -> None:
        """Tell the person something that is not data."""
        if self.verbosity > 0:
            self.stderr.write(line, self.style.NOTICE)
            self.stderr.flush()

    def show(self, line: str = "") -> None:
        """Print a line of data at once, so that a pipe gets it too."""
        self.stdout.write(line)
        self.stdout.flush()

    def show_json(self, document: Any) -> None:
        self.show(json.dumps(document, ensure_ascii=False))

    def progress(self, line: str) -> None:
        """Replace the line of progress; nothing where nobody watches."""
        if self.verbosity > 0 and self.stderr.isatty():
            self.stderr.write(f"\r{line}\x1b[K", ending="")
            self.stderr.flush()

    def end_progress(self) -> None:
        self.progress("")

    def confirm(self, question: str, *, is_interactive: bool) -> None:
        """Go on only after a yes; without a terminal only with --no-input."""
        if not is_interactive:
            return
        if not sys.stdin.isatty():
            raise CommandError(f"{question} Nobody is there to ask: add --no-input.")
        self.stderr.write(f"{question} [y/N] ", ending="")
        self.stderr.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise CommandError("Nothing was done.")

    def warn_without_worker(self) -> None:
        if not WorkerHeartbeat.objects.exists():
            self.say("No worker runs; start one: manage.py rqworker")


@contextmanager
def stopping() -> Iterator[threading.Event]:
    """Yield an event that the first Ctrl-C or SIGTERM sets; a second one interrupts."""
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


# Arguments.


def add_format(parser: CommandParser) -> None:
    parser.add_argument(
        "--format", choices=["table", "json"], default="table", help="How to print (table)."
    )


def add_no_input(parser: CommandParser) -> None:
    parser.add_argument(
        "--no-input", action="store_false", dest="is_interactive", help="Do not ask."
    )


def public_id(prefix: str) -> Callable[[str], UUID]:
    """Return an argument type for ids such as `whk_…`; a bare UUID will do, too."""

    def read(text: str) -> UUID:
        try:
            return UUID(text) if "-" in text else parse_public_id(text, prefix)
        except (PublicIdInvalidError, ValueError):
            raise ArgumentTypeError(
                f"{text!r} is not an id of the form {prefix}<32 hex digits>"
            ) from None

    return read


def duration(text: str) -> timedelta:
    """Read `90s`, `15m`, `2h`, `7d` or `4w`."""
    number, unit = text[:-1], text[-1:]
    if not (number.isascii() and number.isdecimal() and unit in UNITS and len(number) <= 6):
        raise ArgumentTypeError(f"{text!r} is not a duration such as 90s, 15m, 2h, 7d or 4w")
    return timedelta(seconds=int(number) * UNITS[unit])


def moment(text: str) -> datetime:
    """Read a duration before now, an ISO date or an ISO time; UTC where no zone is given."""
    if text[-1:] in UNITS and text[:-1].isdecimal():
        return datetime.now(UTC) - duration(text)
    try:
        found = parse_datetime(text)
        if found is None and (date := parse_date(text)) is not None:
            found = datetime(date.year, date.month, date.day)  # noqa: DTZ001 (a zone follows)
    except ValueError:
        found = None
    if found is None:
        raise ArgumentTypeError(
            f"{text!r} is not a time such as 2h, 7d, 2026-11-23 or 2026-11-23T10:30:00Z"
        )
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def pattern(text: str) -> str:
    if not catalog.is_known_pattern(text):
        raise ArgumentTypeError(
            f"{text!r} selects no event type; manage.py trigger --list shows them all"
        )
    return text


def patterns(text: str) -> list[str]:
    return [pattern(part.strip()) for part in text.split(",")]


def statuses(text: str) -> list[str]:
    """Read statuses, comma-separated, in any case."""
    found = [part.strip().upper() for part in text.split(",")]
    if unknown := [part for part in found if part not in DeliveryStatus.values]:
        raise ArgumentTypeError(
            f"{unknown[0].lower()!r} is not a status; choose from "
            f"{', '.join(DeliveryStatus.values).lower()}"
        )
    return found


def at_least(low: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and len(text) <= 9 and int(text) >= low):
            raise ArgumentTypeError(f"{text!r} is not a whole number from {low} on")
        return int(text)

    return read


def rate(text: str) -> float:
    """Read `50`, `50/s` or `30/m` as a number per second."""
    number, _, unit = text.partition("/")
    try:
        per_second = float(number) / UNITS[unit or "s"]
    except (ValueError, KeyError):
        per_second = 0.0
    if not 0 < per_second <= 100_000:
        raise ArgumentTypeError(f"{text!r} is not a rate such as 50/s or 30/m")
    return per_second


def find_owner(text: str) -> Any:
    """Return the user with this e-mail address, user name or id; raises CommandError."""
    users = get_user_model()._default_manager
    wanted = Q(email__iexact=text) | Q(username=text)
    with suppress(ValueError):
        wanted |= Q(pk=UUID(text))
    found = list(users.filter(wanted)[:2])
    if len(found) != 1:
        problem = "is not known" if not found else "is not unique"
        raise CommandError(f"The owner {text!r} {problem}: give an e-mail address or an id.")
    return found[0]


def find_owner_id(text: str) -> UUID:
    """Return the id of a user, also of one who was deleted and whose id is given."""
    try:
        return UUID(text)
    except ValueError:
        return UUID(str(find_owner(text).pk))


def find_webhook(webhook_id: UUID, *, even_deleted: bool = False) -> Webhook:
    """Return a webhook; raises CommandError when there is none, or it was deleted."""
    webhook = Webhook.objects.filter(id=webhook_id).first()
    if webhook is None or (webhook.deleted_at and not even_deleted):
        raise CommandError(f"There is no webhook {WEBHOOK_PREFIX}{webhook_id.hex}.")
    return webhook


# Output.


def table(header: Sequence[str], rows: Sequence[Sequence[Any]], right: str = "") -> list[str]:
    """Return the lines of a table; `right` names the columns that hold numbers."""
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


def printable(text: str) -> str:
    """Return text that cannot control the terminal; names and errors come from strangers."""
    return text if text.isprintable() else ascii(text)[1:-1]


def document(value: Any) -> dict[str, Any]:
    """Return a dataclass as what goes into JSON: camelCase names, times as on the wire."""
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
