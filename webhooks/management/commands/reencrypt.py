"""`manage.py reencrypt`: the second step of changing the encryption key."""

from collections import Counter
from typing import Any

from django.core.management.base import CommandError, CommandParser

from webhooks.management import terminal
from webhooks.repair import reencryption


class Command(terminal.Command):
    help = (
        "Encrypt all stored secrets and headers with the first key of WEBHOOKS_ENCRYPTION_KEYS. "
        "To change keys: put a new one in front, restart everything, run this, remove the old one."
    )
    epilog = (
        """exit codes: 0 done, 1 refused or something unreadable, 2 wrong usage, 130 interrupted"""
    )
    # The check that something is unreadable would keep this command from mending the rest.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--dry-run", action="store_true", help="Only say how many values would change."
        )

    def run(self, **options: Any) -> None:
        if options["dry_run"]:
            for noun, count in reencryption.count_outdated().items():
                self.show(f"{noun}: {count:,} to encrypt anew")
            return
        done: Counter[str] = Counter()
        unreadable = 0
        for noun, changed, failed in reencryption.reencrypt_all():
            done[noun] += changed
            unreadable += failed
        for column in reencryption.COLUMNS:
            self.show(f"{column.noun}: {done[column.noun]:,} encrypted anew")
        if unreadable:
            raise CommandError(
                f"{unreadable:,} values cannot be decrypted with any key in "
                "WEBHOOKS_ENCRYPTION_KEYS; put their key behind the first one and run this again."
            )

    def interrupted(self) -> str:
        return "Interrupted; run it again to go on."
