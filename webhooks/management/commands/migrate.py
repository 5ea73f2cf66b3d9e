"""`manage.py migrate`: Django's command, which here waits for locks without blocking writers."""

import time
from typing import Any

from django.core.management.base import CommandError
from django.core.management.commands.migrate import Command as MigrateCommand
from django.db import OperationalError
from psycopg.errors import LockNotAvailable

from webhooks.management.terminal import plain
from webhooks.postgres.sql import sqlstate

PAUSE_SECONDS = 1.0
"""The pause between two attempts, in which sessions that queued behind the migration continue."""
PATIENCE_SECONDS = 600


class Command(MigrateCommand):
    help = (
        "Apply migrations to a database in use: wait for each lock only briefly, so that writers"
        " are not blocked, and try again for up to ten minutes."
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
                    f"A table was in use for {PATIENCE_SECONDS // 60} minutes. Earlier migrations"
                    " stay applied; end long transactions (pg_stat_activity) and migrate again."
                )
            # The line break ends Django's unfinished line about the migration.
            self.stderr.write(f"\nA table is in use; trying again in {PAUSE_SECONDS:g} s.", plain)
            time.sleep(PAUSE_SECONDS)
