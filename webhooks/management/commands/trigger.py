"""`manage.py trigger`: store an event by hand and see where it goes and what comes back."""

import json
import sys
from argparse import ArgumentTypeError
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser

from webhooks import catalog
from webhooks.ids import DELIVERY_PREFIX, WEBHOOK_PREFIX
from webhooks.management import arguments, terminal
from webhooks.management.arguments import public_id
from webhooks.management.terminal import PARTIAL, counted, printable, stopping, table
from webhooks.models import Event
from webhooks.workbench import trigger
from webhooks.workbench.trigger import Outcome

POLL_SECONDS = 0.1
MANY = 20
"""Deliveries that are listed one by one."""


class Command(terminal.Command):
    help = (
        "Trigger an event as the product would, with the catalogue's example as its data, and "
        "print where it goes. With --wait also what comes back."
    )
    epilog = """examples:
  manage.py trigger --list
  manage.py trigger session.ended --owner ada@example.com --wait
  manage.py trigger project.created --webhook whk_0193570e2c7a7bcd8f0a1b2c3d4e5f60 --data @body.json
  manage.py trigger project.deleted --example |
    manage.py trigger project.deleted --owner ada@example.com --data -

exit codes: 0 done, 1 refused, 2 wrong usage, 3 not everything succeeded (--wait)"""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("type", nargs="?", metavar="TYPE", help="The event type.")
        parser.add_argument(
            "--data", type=_data, metavar="JSON",
            help="The event's data: JSON, @FILE, or - for stdin (the catalogue's example).",
        )  # fmt: skip
        parser.add_argument(
            "--owner", metavar="USER", help="Whose event it is: e-mail address, user name or id."
        )
        parser.add_argument(
            "--webhook", type=public_id(WEBHOOK_PREFIX), metavar="ID",
            help="Send it to this webhook alone, whatever its filter; the owner is the webhook's.",
        )  # fmt: skip
        parser.add_argument(
            "--count", type=arguments.at_least(1), default=1, metavar="N", help="How many (1)."
        )
        parser.add_argument(
            "--example", action="store_true", help="Print the type's example and trigger nothing."
        )
        parser.add_argument("--list", action="store_true", help="Print all event types.")
        parser.add_argument(
            "--wait", action="store_true", help="Wait for the answers; a worker must be running."
        )
        arguments.add_format(parser)

    def run(self, **options: Any) -> None:
        if options["list"]:
            self._list(options["format"])
            return
        if not options["type"]:
            raise CommandError("Name an event type; --list shows them all.", returncode=2)
        event_type = catalog.get_type(options["type"])
        if options["example"]:
            self.show(json.dumps(event_type.example, ensure_ascii=False, indent=2))
            return
        events = self._trigger(event_type, options)
        ids = [event.id for event in events]
        outcomes = self._wait(ids) if options["wait"] else trigger.outcomes(ids)
        self._report(events, outcomes, options)
        if options["wait"] and any(one.status != "SUCCESS" for one in outcomes):
            raise SystemExit(PARTIAL)

    def _list(self, format: str) -> None:
        if format == "json":
            types = catalog.all_types()
            self.show_json([{"type": one.name, "description": one.description} for one in types])
            return
        rows = [[one.name, one.description] for one in catalog.all_types()]
        for line in table(["TYPE", "WHEN"], rows):
            self.show(line)

    def _trigger(self, event_type: catalog.EventType, options: dict[str, Any]) -> list[Event]:
        webhook_id, owner = options["webhook"], options["owner"]
        if not (webhook_id or owner):
            raise CommandError("Say whose event it is: --owner or --webhook.", returncode=2)
        webhook = arguments.find_webhook(webhook_id) if webhook_id else None
        return trigger.trigger_by_hand(
            event_type.name,
            arguments.find_owner(owner) if owner else webhook and webhook.owner_id,
            event_type.example if options["data"] is None else options["data"],
            only_to=webhook,
            count=options["count"],
        )

    def _wait(self, ids: Sequence[Any]) -> list[Outcome]:
        self.warn_if_nothing_is_sent()
        with stopping() as stop:
            while True:
                outcomes = trigger.outcomes(ids)
                done = sum(not one.is_awaited for one in outcomes)
                if done == len(outcomes):
                    self.end_progress()
                    return outcomes
                if stop.wait(POLL_SECONDS):
                    raise KeyboardInterrupt
                self.progress(terminal.bar(done, len(outcomes)))

    def interrupted(self) -> str:
        return "Interrupted; what was triggered is sent all the same."

    def _report(
        self, events: list[Event], outcomes: list[Outcome], options: dict[str, Any]
    ) -> None:
        if options["format"] == "json":
            self.show_json({"events": [_document(event, outcomes) for event in events]})
            return
        for event in events[:MANY]:
            own = [one for one in outcomes if one.event_id == event.id]
            self.show(f"{event.public_id} {event.type} → {counted(len(own), 'webhook')}")
            for one in own:
                self.show(f"  {_line(one, options['wait'])}")
        if len(events) > MANY:
            self.show(f"and {counted(len(events) - MANY, 'more event', 'more events')}")


def _line(one: Outcome, is_awaited: bool) -> str:
    words = [one.webhook_public_id, printable(one.webhook_name)]
    if one.held:
        words.append(f"waits: {one.held}")
    elif not is_awaited:
        words.append("is on its way")
    else:
        words.append("-" if one.response_code is None else str(one.response_code))
        words.append("-" if one.duration_ms is None else f"{one.duration_ms} ms")
        if one.status != "SUCCESS":
            words.append(f"{one.status}: {printable(one.error)}")
        if one.status == "RETRYING" and one.next_attempt_at:
            words.append(f"(retry at {one.next_attempt_at:%H:%M:%S} UTC)")
    return "  ".join(words)


def _document(event: Event, outcomes: list[Outcome]) -> dict[str, Any]:
    return {
        "id": event.public_id,
        "type": event.type,
        "deliveries": [
            {
                "id": DELIVERY_PREFIX + one.delivery_id.hex,
                "webhookId": one.webhook_public_id,
                "status": one.status,
                "responseCode": one.response_code,
                "durationMs": one.duration_ms,
                "error": one.error,
                "held": one.held,
            }
            for one in outcomes
            if one.event_id == event.id
        ],
    }


def _data(text: str) -> dict[str, Any]:
    try:
        if text == "-":
            text = sys.stdin.read()
        elif text.startswith("@"):
            text = Path(text[1:]).read_text()
        data = json.loads(text)
    except (OSError, UnicodeDecodeError) as problem:
        raise ArgumentTypeError(f"{text[1:]} cannot be read: {problem}") from None
    except (ValueError, RecursionError) as problem:
        raise ArgumentTypeError(f"this is not JSON: {problem}") from None
    if not isinstance(data, dict):
        raise ArgumentTypeError("the data of an event is a JSON object")
    return data
