"""`manage.py cells`: the processes of cells, and what operators see and do."""

import signal
import time
from argparse import ArgumentTypeError
from typing import Any

import psycopg
from django.conf import settings
from django.core.management.base import CommandError, CommandParser

from cells import relay, status
from cells.cellmap import CellMap, MapMissingError, read_map
from cells.consumer import Consumer
from cells.jetstream import JetStream
from cells.log import Log, LogError, MapChangedError
from cells.moving import Move
from cells.slots import SLOTS
from config.environment import CELL_NAME
from webhooks.management import terminal

REFUSALS_SHOWN = 10
MOST_SECONDS = 60


class Command(terminal.Command):
    help = "Cells: several deployments that share the owners, fed by one log."
    epilog = """examples:
  manage.py cells init --cell a=https://a.example.com --cell b=https://b.example.com --streams 16
  manage.py cells
  manage.py cells relay
  manage.py cells consume
  manage.py cells move 17 --to b

relay and consume run until SIGTERM, and wait out what Postgres and the log do not answer.

exit codes: 0 done, 1 refused or failed, 2 wrong usage"""
    # relay and consume wait for Postgres at their start, too.
    requires_migrations_checks = False

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--seconds", type=_seconds, default=1.0, help="How long to count for the rates (1)."
        )
        actions = parser.add_subparsers(dest="action")
        init = actions.add_parser("init", help="Create the log's streams and the first map.")
        init.add_argument(
            "--cell", action="append", required=True, type=_cell, metavar="NAME=URL",
            help="A cell's name and base URL; each gets an equal share of the slots.",
        )  # fmt: skip
        init.add_argument(
            "--streams", type=_streams, default=16,
            help="How many streams carry the slots, 1 to 256, for ever (16).",
        )  # fmt: skip
        actions.add_parser("routes", help="Print the map for nginx (deploy/nginx-cells.conf).")
        publish = actions.add_parser("relay", help="Publish the events of this database.")
        publish.add_argument(
            "--from-now", action="store_true",
            help="At its first start, leave out the events stored so far.",
        )  # fmt: skip
        move = actions.add_parser("move", help="Move a slot to another cell, or go on with it.")
        move.add_argument("slot", type=int, choices=range(SLOTS), metavar="SLOT")
        goal = move.add_mutually_exclusive_group(required=True)
        goal.add_argument("--to", metavar="CELL")
        goal.add_argument(
            "--cancel", action="store_true", help="Take a move back that was interrupted."
        )
        actions.add_parser("consume", help="Store the events of the slots of CELL_NAME.")

    def run(self, **options: Any) -> None:
        action = options["action"] or "status"
        if options["action"]:
            self.refuse_beside(action, options, "action")
        if action == "init" and len(dict(options["cell"])) < len(options["cell"]):
            raise CommandError("Two cells have the same name.", returncode=2)
        try:
            log = JetStream(settings.CELLS_NATS_URL)
            try:
                getattr(self, f"_{action}")(log, options)
            finally:
                log.close()
        except LogError as problem:
            raise CommandError(str(problem)) from None

    def _status(self, log: Log, options: dict[str, Any]) -> None:
        current = read_map(log)
        streams = status.streams_of(log, current, settings.CELL_NAME)
        time.sleep(options["seconds"])
        later = [log.bounds(one.stream).last for one in streams]
        refused, refusals = log.refusals(REFUSALS_SHOWN)
        rates = [
            (last - one.bounds.last) / options["seconds"]
            for one, last in zip(streams, later, strict=True)
        ]
        self.show(f"map of revision {current.revision}: {SLOTS} slots in {len(streams)} streams")
        for cell, url in current.cells.items():
            mine = " (this one)" if cell == settings.CELL_NAME else ""
            self.show(f"  {cell:<12} {len(current.of_cell(cell)):>4} slots  {url}{mine}")
        for slot, (from_, to, *_) in sorted(current.moves.items()):
            self.show(f"  slot {slot} is being moved from {from_} to {to}")
        for one, rate in zip(streams, rates, strict=True):
            behind = "" if one.behind is None else f"  {one.behind:,} behind"
            self.show(f"stream {one.stream:<3} at {one.bounds.last:,}  {rate:,.0f}/s{behind}")
        if (waiting := relay.unpublished()) is not None:
            self.show(f"to be published from here: {waiting:,}")
        self.show(f"refused messages: {refused:,}")
        for refusal in refusals:
            self.show(f"  {refusal.message_id}  {refusal.reason}")

    def _routes(self, log: Log, options: dict[str, Any]) -> None:
        for slot, cell in enumerate(read_map(log).slots):
            self.show(f'"{slot:02x}" {cell};')

    def _init(self, log: Log, options: dict[str, Any]) -> None:
        try:
            streams = read_map(log).streams
        except MapMissingError:
            streams = options["streams"]
        log.create(streams)
        first = CellMap.of(streams, dict(options["cell"]))
        try:
            log.write_map(first.to_json(), 0)
        except MapChangedError:
            raise CommandError("There is a map already; manage.py cells shows it.") from None

    def _relay(self, log: Log, options: dict[str, Any]) -> None:
        if options["from_now"]:
            relay.begin_now()
        relay.Relay(log).run(_stopping())

    def _consume(self, log: Log, options: dict[str, Any]) -> None:
        if not settings.CELL_NAME:
            raise CommandError("CELL_NAME is not set: the name of this cell in the map.")
        Consumer(log, settings.CELL_NAME).run(_stopping())

    def _move(self, log: Log, options: dict[str, Any]) -> None:
        move = Move(log, options["slot"], settings.CELLS_DATABASES, self.say)
        try:
            if options["cancel"]:
                move.cancel()
            else:
                move.run(options["to"])
        except psycopg.Error as problem:
            raise CommandError(
                f"The move stopped: {str(problem).strip()} Run the command again to go on, or with"
                " --cancel."
            ) from None


def _stopping() -> Any:
    """Return a function that says whether the process was told to stop."""
    told: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: told.append(number))
    return lambda: bool(told)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds <= MOST_SECONDS:
        raise ArgumentTypeError(f"more than 0, and at most {MOST_SECONDS}")
    return seconds


def _cell(text: str) -> tuple[str, str]:
    name, separator, url = text.partition("=")
    is_url = url.startswith(("http://", "https://")) and url.isprintable() and " " not in url
    if not (CELL_NAME.fullmatch(name) and separator and is_url):
        raise ArgumentTypeError(
            f"{text!r} is not of the form name=https://example.com, with a name as CELL_NAME takes it."
        )
    return name, url.rstrip("/")


def _streams(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 256:
        raise ArgumentTypeError("It is a number from 1 to 256.")
    return int(text)
