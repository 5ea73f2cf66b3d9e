"""`manage.py purge`: delete old finished deliveries, or erase payloads."""

from datetime import UTC, datetime, timedelta
from typing import Any

from django.core.management.base import CommandError, CommandParser

from webhooks import catalog
from webhooks.management import arguments, terminal
from webhooks.management.terminal import counted, document, stopping
from webhooks.repair import retention
from webhooks.repair.retention import LARGEST_BATCH, TERMINAL, Policy, Purged


class Command(terminal.Command):
    help = (
        "Delete deliveries that finished long ago, with their attempts and events, and deleted "
        "webhooks without deliveries. With --payloads-only, keep the rows and erase payloads and "
        "responses; with --owner, erase those of all events of one user. The command never touches "
        "unfinished deliveries."
    )
    epilog = """examples:
  manage.py purge --older-than 90d --dry-run
  manage.py purge --older-than 30d --keep-failed --no-input
  manage.py purge --payloads-only --older-than 7d --no-input
  manage.py purge --owner ada@example.com --no-input

The age is the time since a delivery finished. Ctrl-C stops between two batches; the next run
continues. With WEBHOOKS_RETENTION_DAYS, the workers purge once a day.

exit codes: 0 done, 1 refused, 2 wrong usage, 130 interrupted"""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--older-than", type=arguments.duration, metavar="AGE",
            help="Minimum age, such as 90d or 4w. Required without --owner.",
        )  # fmt: skip
        parser.add_argument(
            "--status", type=arguments.statuses, metavar="STATUS",
            help="Only these statuses, comma-separated: success, failed, cancelled (all three).",
        )  # fmt: skip
        parser.add_argument("--keep-failed", action="store_true", help="Keep failed deliveries.")
        parser.add_argument(
            "--payloads-only",
            action="store_true",
            help="Erase payloads and responses, keep the rows.",
        )
        parser.add_argument(
            "--owner", type=arguments.text, metavar="USER",
            help="Erase the payloads of this user's events of any age; for a deleted user, the id.",
        )  # fmt: skip
        parser.add_argument(
            "--batch-size", type=arguments.at_least(1), default=LARGEST_BATCH, metavar="N",
            help=f"Maximum rows per transaction ({LARGEST_BATCH}); slow batches shrink.",
        )  # fmt: skip
        parser.add_argument(
            "--dry-run", action="store_true", help="Only print the numbers of rows."
        )
        arguments.add_no_input(parser)
        arguments.add_format(parser)

    def run(self, **options: Any) -> None:
        policy = self._policy(options)
        counts = retention.count(policy)
        if options["dry_run"]:
            self._report(counts, policy, options, is_done=False)
            return
        self.confirm(
            f"{self._summary(counts, policy, options)} permanently?",
            is_interactive=options["is_interactive"],
        )
        purged, is_interrupted = self._purge(policy, counts, options["batch_size"])
        retention.record(purged)
        self._report(purged, policy, options, is_done=True)
        if is_interrupted:
            raise KeyboardInterrupt

    def _policy(self, options: dict[str, Any]) -> Policy:
        age, owner = options["older_than"], options["owner"]
        if age is None and owner is None:
            raise CommandError("Give the minimum age: --older-than 90d.", returncode=2)
        statuses = options["status"] or list(TERMINAL)
        if pending := sorted(set(statuses) - set(TERMINAL)):
            raise CommandError(
                f"Deliveries with the status {pending[0].lower()} are unfinished and cannot be purged.",
                returncode=2,
            )
        if options["keep_failed"] and options["status"]:
            raise CommandError("Give either --status or --keep-failed.", returncode=2)
        if options["keep_failed"]:
            statuses = [status for status in statuses if status != "FAILED"]
        return Policy(
            before=datetime.now(UTC) - (age or timedelta(0)),
            statuses=tuple(map(str, statuses)),
            payloads_only=options["payloads_only"],
            owner_id=None if owner is None else arguments.find_owner_id(owner),
        )

    def _purge(self, policy: Policy, counts: Purged, batch_size: int) -> tuple[Purged, bool]:
        purged = Purged()
        goal = counts.events + counts.deliveries
        with stopping() as stop:
            for step in retention.purge(policy, batch_size=batch_size):
                purged += step
                self.progress(terminal.bar(purged.events + purged.deliveries, goal))
                if stop.is_set():
                    break
            self.end_progress()
            return purged, stop.is_set()

    def interrupted(self) -> str:
        return "Interrupted; run the command again to continue."

    def _report(
        self, purged: Purged, policy: Policy, options: dict[str, Any], *, is_done: bool
    ) -> None:
        kept = 0 if policy.owner_id is None else retention.kept_pending(policy.owner_id)
        if options["format"] == "json":
            self.show_json(
                document(purged)
                | {
                    "before": catalog.wire_time(policy.before),
                    "keptPending": kept,
                    "dryRun": not is_done,
                }
            )
            return
        summary = self._summary(purged, policy, options)
        self.show(
            f"{summary}." if is_done else f"Would {summary[0].lower()}{summary[1:]}. (--dry-run)"
        )
        if kept:
            self.show(f"Kept {counted(kept, 'payload')} with unfinished deliveries.")

    def _summary(self, counts: Purged, policy: Policy, options: dict[str, Any]) -> str:
        before = f"before {policy.before:%Y-%m-%d %H:%M} UTC"
        if policy.payloads_only or policy.owner_id is not None:
            whose = "" if policy.owner_id is None else f" of {options['owner']}"
            return (
                f"Erase the payloads of {counted(counts.events, 'event')}{whose} and of "
                f"{counted(counts.attempts, 'attempt')}, finished {before}"
            )
        return (
            f"Delete {counted(counts.deliveries, 'delivery', 'deliveries')}, "
            f"{counted(counts.attempts, 'attempt')} and {counted(counts.events, 'event')}, "
            f"finished {before}, {counted(counts.webhooks, 'deleted webhook')} and "
            f"{counted(counts.redeliveries, 'old redelivery', 'old redeliveries')}"
        )
