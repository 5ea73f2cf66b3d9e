"""`manage.py enable`: send to a disabled webhook again, and what it missed."""

from typing import Any

from django.core.management.base import CommandParser
from django.utils import timezone

from webhooks import service
from webhooks.figures import display, present
from webhooks.ids import WEBHOOK_PREFIX
from webhooks.management import arguments, terminal
from webhooks.models import Webhook
from webhooks.repair import audit_log


class Command(terminal.Command):
    help = (
        "Enable a disabled webhook. Prints first how many deliveries wait, and how many events were "
        "triggered meanwhile: these have no delivery, and --missed sends them."
    )
    epilog = """examples:
  manage.py enable whk_0193570e2c7a7bcd8f0a1b2c3d4e5f60 --dry-run
  manage.py enable whk_0193570e2c7a7bcd8f0a1b2c3d4e5f60 --send all --missed --no-input"""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "webhook", type=arguments.public_id(WEBHOOK_PREFIX), metavar="ID", help="The webhook."
        )
        parser.add_argument(
            "--send", choices=["recent", "all", "none"], default="recent",
            help="Which pending deliveries to send, the others are cancelled: those younger than "
            "three days (recent, the default), all or none.",
        )  # fmt: skip
        parser.add_argument(
            "--missed", action="store_true", help="Also send the events that it missed."
        )
        parser.add_argument("--dry-run", action="store_true", help="Only print the numbers.")
        arguments.add_no_input(parser)

    def run(self, **options: Any) -> None:
        webhook = arguments.find_webhook(options["webhook"])
        name = terminal.printable(webhook.name)
        if webhook.active:
            self.show(f"{name} is not disabled.")
            return
        self._show_state(webhook, name)
        if options["dry_run"]:
            return
        self.confirm(f"Enable {name}?", is_interactive=options["is_interactive"])
        reason = webhook.disabled_reason
        enabled = service.enable(webhook, send=options["send"], send_missed=options["missed"])
        audit_log.record(
            "webhook.enable", webhook,
            changes={
                "active": [False, True],
                "disabled_reason": [reason, ""],
                "waiting": options["send"],
            },
        )  # fmt: skip
        told = f"{name} is enabled; {display.bounded(enabled.waiting)} deliveries go out."
        if (asked := enabled.replay) is not None:
            audit_log.record("redelivery.create", asked, changes=asked.scope)
            told += f" {asked.public_id} sends the {display.bounded(enabled.missed)} missed events."
        self.show(told)

    def _show_state(self, webhook: Webhook, name: str) -> None:
        since = ""
        if webhook.disabled_at is not None:
            since = f" for {display.span(timezone.now() - webhook.disabled_at)}"
        reason = terminal.printable(webhook.disabled_reason)
        self.show(f"{name} is disabled{since}{f' ({reason})' if reason else ''}.")
        self.show(f"Waiting deliveries: {display.bounded(present.waiting(webhook))}")
        self.show(f"Missed events: {display.bounded(service.count_missed(webhook))}")
