"""`manage.py reencrypt`: the second step of changing the encryption key."""

from collections import Counter
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from webhooks import reencryption


class Command(BaseCommand):
    help = (
        "Encrypt all stored secrets and headers with the first key of WEBHOOKS_ENCRYPTION_KEYS. "
        "To change keys: put a new one in front, restart everything, run this, remove the old one."
    )
    # The check that something is unreadable would keep this command from mending the rest.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--dry-run", action="store_true", help="Only say how many values would change."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if options["dry_run"]:
            for noun, count in reencryption.count_outdated().items():
                self.stdout.write(f"{noun}: {count:,} to encrypt anew")
            return
        done: Counter[str] = Counter()
        unreadable = 0
        for noun, changed, failed in reencryption.reencrypt_all():
            done[noun] += changed
            unreadable += failed
        for column in reencryption.COLUMNS:
            self.stdout.write(f"{column.noun}: {done[column.noun]:,} encrypted anew")
        if unreadable:
            raise CommandError(
                f"{unreadable:,} values cannot be decrypted with any key in "
                "WEBHOOKS_ENCRYPTION_KEYS; put their key behind the first one and run this again."
            )
