"""`manage.py pause`: pause all sending, and resume it."""

from typing import Any

from django.core.management.base import CommandParser

from webhooks import service
from webhooks.management import arguments, terminal
from webhooks.models import Pause
from webhooks.repair import audit_log

MAX_REASON_CHARACTERS = 500
"""The length of the column."""


class Command(terminal.Command):
    help = (
        "Stop all sending, of all owners' webhooks, within a second, until --end resumes it. New "
        "events are stored meanwhile."
    )
    epilog = """examples:
  manage.py pause --reason "Receivers complain of duplicates"
  manage.py pause --end

No process needs a restart."""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--reason", type=arguments.text, metavar="TEXT",
            help="The reason, which the admin, the API and the doctor show.",
        )  # fmt: skip
        parser.add_argument("--end", action="store_true", help="Resume sending.")

    def run(self, **options: Any) -> None:
        if options["end"]:
            self.refuse_beside("--end", options, "end")
            self._end()
        else:
            self._pause((options["reason"] or "")[:MAX_REASON_CHARACTERS])

    def _pause(self, reason: str) -> None:
        pause = service.pause_sending(reason)
        if not pause.is_new:
            since = f"{pause.created_at:%Y-%m-%d %H:%M} UTC"
            self.show(f"All sending is already paused, since {since}{_because(pause)}.")
            return
        audit_log.record(
            "sending.pause", "sending", changes={"paused": [False, True], "reason": reason}
        )
        self.show(f"All sending is paused{_because(pause)}. manage.py pause --end resumes it.")

    def _end(self) -> None:
        if not service.resume_sending():
            self.show("Sending is not paused.")
            return
        audit_log.record("sending.resume", "sending", changes={"paused": [True, False]})
        self.show("Sending is resumed.")


def _because(pause: Pause) -> str:
    return f" ({terminal.printable(pause.reason)})" if pause.reason else ""
