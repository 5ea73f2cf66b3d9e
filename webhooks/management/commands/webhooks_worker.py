"""`manage.py webhooks_worker`: a worker without RQ."""

import signal
from typing import Any

from django.conf import settings
from django.core.checks import Tags
from django.core.management.base import CommandError, CommandParser

from webhooks.management import terminal
from webhooks.postgres.sql import leave_pools
from webhooks.worker import plain_worker, process


class Command(terminal.Command):
    help = (
        "Run a worker that needs neither RQ nor Valkey: it sends due deliveries, and Postgres wakes "
        "it (WEBHOOKS_WAKEUP=listen), or it looks every second (poll)."
    )
    epilog = """examples:
  manage.py webhooks_worker
  manage.py webhooks_worker --burst"""
    # The checks of URLs and the admin would import the whole API.
    requires_system_checks = [Tags.models, "webhooks"]

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--burst", action="store_true", help="Send what is due, and end when nothing is."
        )

    def run(self, **options: Any) -> None:
        if settings.WEBHOOKS_WAKEUP == "rq":
            raise CommandError(
                "WEBHOOKS_WAKEUP=rq sends wake-ups to RQ, which this worker does not hear: run "
                "manage.py rqworker, or set WEBHOOKS_WAKEUP to listen or poll."
            )
        leave_pools()
        process.split_from_init()
        process.handle_signals(_exit)
        if options["burst"]:
            plain_worker.run_until_idle()
        else:
            plain_worker.run()


def _exit(number: int, frame: Any) -> None:
    """Exit on stop signals until the worker installs its own handlers."""
    raise SystemExit(128 + signal.Signals(number))
