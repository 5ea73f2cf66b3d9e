"""Django's command, for a database in use: it waits for its locks without making others wait."""

import time
from typing import Any

from django.core.management.base import CommandError
from django.core.management.commands.migrate import Command as MigrateCommand
from django.db import OperationalError
from psycopg.errors import LockNotAvailable

from webhooks.management.terminal import plain
from webhooks.postgres.sql import sqlstate

PAUSE_SECONDS = 1.0
"""Between two attempts, in which whoever waited behind us goes on."""
PATIENCE_SECONDS = 600


class Command(MigrateCommand):
    help = (
        "Apply migrations beside traffic: a table that others use is locked only when that needs"
        " no waiting to speak of; otherwise it is tried again for ten minutes."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                super().handle(*args, **options)
                return
            except OperationalError as problem:
                if sqlstate(problem) != LockNotAvailable.sqlstate:
                    raise
            if time.monotonic() > give_up_at:
                raise CommandError(
                    f"A table was in use for {PATIENCE_SECONDS // 60} minutes. What was applied"
                    " before stays; end long transactions (pg_stat_activity) and migrate again."
                )
            # Django has begun a line about the migration.
            self.stderr.write(f"\nA table is in use; trying again in {PAUSE_SECONDS:g} s.", plain)
            time.sleep(PAUSE_SECONDS)
