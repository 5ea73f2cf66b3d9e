"""`manage.py webhooks_alive`: the liveness check of a worker's container or host."""

import socket
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import DatabaseError, InterfaceError

from webhooks.figures import present
from webhooks.management import arguments, terminal


class Command(terminal.Command):
    help = (
        "Check that a worker on this host is alive: exit code 0 if one has sent a heartbeat within "
        "ten seconds, 1 if none has. If Postgres is unavailable, the exit code is 0, because a "
        "restart would not help."
    )
    epilog = """examples:
  manage.py webhooks_alive
  manage.py webhooks_alive --host worker-7"""
    # They would ask Postgres first, and fail while it is away.
    requires_system_checks: list[str] = []
    requires_migrations_checks = False

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--host", type=arguments.text, default=socket.gethostname(),
            help="The worker's host name (this host).",
        )  # fmt: skip

    def run(self, **options: Any) -> None:
        host = options["host"]
        try:
            alive = [w for w in present.workers() if w.host == host and w.is_alive]
        except (DatabaseError, InterfaceError):
            self.say("Postgres is unavailable; workers wait for it and need no restart.")
            return
        if not alive:
            raise CommandError(f"No worker on {host} has sent a heartbeat within ten seconds.")
        self.show(f"Workers alive on {host}: {len(alive)}.")
