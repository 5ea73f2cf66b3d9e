"""`manage.py reencrypt`: encrypt stored values with the current key after a key change."""

from collections import Counter
from typing import Any

from django.core.management.base import CommandError, CommandParser

from webhooks.management import terminal
from webhooks.repair import reencryption


class Command(terminal.Command):
    help = (
        "Encrypt all stored secrets and headers with the first key of WEBHOOKS_ENCRYPTION_KEYS. "
        "To change keys: put the new key first, restart all processes, run this command, remove "
        "the old key."
    )
    epilog = """exit codes: 0 done, 1 refused, or a value is unreadable or needs an old key, 2 wrong usage, 130 interrupted"""
    # The check E101 fails on unreadable values and would prevent re-encrypting the others.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--dry-run", action="store_true", help="Only print how many values would change."
        )

    def run(self, **options: Any) -> None:
        if options["dry_run"]:
            for noun, count in reencryption.count_outdated().items():
                self.show(f"{noun}: {count:,} to re-encrypt")
            return
        done: Counter[str] = Counter()
        unreadable = 0
        for noun, changed, failed in reencryption.reencrypt_all():
            done[noun] += changed
            unreadable += failed
        for column in reencryption.COLUMNS:
            self.show(f"{column.noun}: {done[column.noun]:,} re-encrypted")
        if unreadable:
            raise CommandError(
                f"{unreadable:,} values cannot be decrypted with any key in "
                "WEBHOOKS_ENCRYPTION_KEYS; add their key after the first one and run this again."
            )
        if left := sum(reencryption.count_outdated().values()):
            raise CommandError(
                f"{left:,} values still need an old key, because a process with that key wrote them "
                "meanwhile: restart it, and run this again before you remove the key."
            )

    def interrupted(self) -> str:
        return "Interrupted; run the command again to continue."
