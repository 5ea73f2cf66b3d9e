"""`manage.py trigger`: trigger an event and show its deliveries and their responses."""

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
"""How many events the output lists one by one."""


class Command(terminal.Command):
    help = (
        "Trigger an event as the product would, by default with the catalogue's example as its "
        "data, and print the webhooks that receive it. With --wait, also print their responses."
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
            "--owner", type=arguments.text, metavar="USER",
            help="The event's owner: e-mail address, user name or id.",
        )  # fmt: skip
        parser.add_argument(
            "--webhook", type=public_id(WEBHOOK_PREFIX), metavar="ID",
            help="Send the event to this webhook only, ignoring its filter; it sets the owner.",
        )  # fmt: skip
        parser.add_argument(
            "--object", type=arguments.text, metavar="REFERENCE",
            help="What the event is about, as webhooks with order per object understand it: at most "
            "100 characters (nothing).",
        )  # fmt: skip
        parser.add_argument(
            "--count",
            type=arguments.at_least(1),
            default=1,
            metavar="N",
            help="Number of events (1).",
        )
        parser.add_argument(
            "--example",
            action="store_true",
            help="Print the event type's example and trigger nothing.",
        )
        parser.add_argument("--list", action="store_true", help="Print all event types.")
        parser.add_argument(
            "--wait", action="store_true", help="Wait for the responses; needs a running worker."
        )
        arguments.add_format(parser)

    def run(self, **options: Any) -> None:
        if options["list"]:
            self.refuse_beside("--list", options, "list", "format")
            self._list(options["format"])
            return
        if not options["type"]:
            raise CommandError("Give an event type; --list shows all of them.", returncode=2)
        event_type = catalog.get_type(options["type"])
        if options["example"]:
            self.refuse_beside("--example", options, "example", "type", "format")
            self.show(json.dumps(event_type.example, ensure_ascii=False, indent=2))
            return
        events = self._trigger(event_type, options)
        ids = [event.id for event in events]
        outcomes = self._wait(ids) if options["wait"] else trigger.outcomes(ids)
        self._report(events, outcomes, options)
        if options["wait"] and any(outcome.status != "SUCCESS" for outcome in outcomes):
            raise SystemExit(PARTIAL)

    def _list(self, format: str) -> None:
        if format == "json":
            types = catalog.all_types()
            self.show_json([{"type": t.name, "description": t.description} for t in types])
            return
        rows = [[t.name, t.description] for t in catalog.all_types()]
        for line in table(["TYPE", "WHEN"], rows):
            self.show(line)

    def _trigger(self, event_type: catalog.EventType, options: dict[str, Any]) -> list[Event]:
        webhook_id, owner = options["webhook"], options["owner"]
        if webhook_id is None and owner is None:
            raise CommandError("Give the event's owner: --owner or --webhook.", returncode=2)
        webhook = arguments.find_webhook(webhook_id) if webhook_id else None
        return trigger.trigger_by_hand(
            event_type.name,
            webhook and webhook.owner_id if owner is None else arguments.find_owner(owner),
            event_type.example if options["data"] is None else options["data"],
            only_to=webhook,
            count=options["count"],
            object_reference=options["object"] or "",
        )

    def _wait(self, ids: Sequence[Any]) -> list[Outcome]:
        self.warn_if_nothing_is_sent()
        with stopping() as stop:
            while True:
                outcomes = trigger.outcomes(ids)
                done = sum(not outcome.is_awaited for outcome in outcomes)
                if done == len(outcomes):
                    self.end_progress()
                    return outcomes
                if stop.wait(POLL_SECONDS):
                    raise KeyboardInterrupt
                self.progress(terminal.bar(done, len(outcomes)))

    def interrupted(self) -> str:
        return "Interrupted; the triggered events are still sent."

    def _report(
        self, events: list[Event], outcomes: list[Outcome], options: dict[str, Any]
    ) -> None:
        if options["format"] == "json":
            self.show_json({"events": [_document(event, outcomes) for event in events]})
            return
        for event in events[:MANY]:
            own = [outcome for outcome in outcomes if outcome.event_id == event.id]
            self.show(f"{event.public_id} {event.type} → {counted(len(own), 'webhook')}")
            for outcome in own:
                self.show(f"  {_line(outcome, options['wait'])}")
        if len(events) > MANY:
            self.show(f"and {counted(len(events) - MANY, 'more event', 'more events')}")


def _line(outcome: Outcome, is_awaited: bool) -> str:
    words = [outcome.webhook_public_id, printable(outcome.webhook_name)]
    if outcome.held:
        words.append(f"held: {outcome.held}")
    elif not is_awaited:
        words.append("queued")
    else:
        words.append("-" if outcome.response_code is None else str(outcome.response_code))
        words.append("-" if outcome.duration_ms is None else f"{outcome.duration_ms} ms")
        if outcome.status != "SUCCESS":
            words.append(f"{outcome.status}: {printable(outcome.error)}")
        if outcome.status == "RETRYING" and outcome.next_attempt_at:
            words.append(f"(retry at {outcome.next_attempt_at:%H:%M:%S} UTC)")
    return "  ".join(words)


def _document(event: Event, outcomes: list[Outcome]) -> dict[str, Any]:
    return {
        "id": event.public_id,
        "type": event.type,
        "deliveries": [
            {
                "id": DELIVERY_PREFIX + outcome.delivery_id.hex,
                "webhookId": outcome.webhook_public_id,
                "status": outcome.status,
                "responseCode": outcome.response_code,
                "durationMs": outcome.duration_ms,
                "error": outcome.error,
                "held": outcome.held,
            }
            for outcome in outcomes
            if outcome.event_id == event.id
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
        raise ArgumentTypeError("the data of an event must be a JSON object")
    return data
