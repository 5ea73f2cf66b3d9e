"""`manage.py purge`: remove what ended long ago, or erase payloads."""

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
        "Remove deliveries that ended long ago, with their attempts and events, and deleted "
        "webhooks that nothing points at. With --payloads-only keep the rows and erase what was "
        "sent and answered; with --owner do so for everything of one user. What is still to be "
        "sent is never touched."
    )
    epilog = """examples:
  manage.py purge --older-than 90d --dry-run
  manage.py purge --older-than 30d --keep-failed --no-input
  manage.py purge --payloads-only --older-than 7d --no-input
  manage.py purge --owner ada@example.com --no-input

Age counts from the end of a delivery. Ctrl-C stops between two batches; the next run goes
on. WEBHOOKS_RETENTION_DAYS makes the workers purge once a day.

exit codes: 0 done, 1 refused, 2 wrong usage, 130 interrupted"""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--older-than", type=arguments.duration, metavar="AGE",
            help="How long ago it must have ended: 90d, 4w. Needed without --owner.",
        )  # fmt: skip
        parser.add_argument(
            "--status", type=arguments.statuses, metavar="STATUS",
            help="Only with these statuses: success, failed, cancelled (all three).",
        )  # fmt: skip
        parser.add_argument("--keep-failed", action="store_true", help="All but the failed ones.")
        parser.add_argument(
            "--payloads-only", action="store_true", help="Erase payloads and answers, keep rows."
        )
        parser.add_argument(
            "--owner", metavar="USER",
            help="Erase the payloads of this user's events, however young; of a deleted user: the id.",
        )  # fmt: skip
        parser.add_argument(
            "--batch-size", type=arguments.at_least(1), default=LARGEST_BATCH, metavar="N",
            help=f"Rows in one transaction at most ({LARGEST_BATCH}); slow batches shrink.",
        )  # fmt: skip
        parser.add_argument("--dry-run", action="store_true", help="Only say how many.")
        arguments.add_no_input(parser)
        arguments.add_format(parser)

    def run(self, **options: Any) -> None:
        policy = self._policy(options)
        counts = retention.count(policy)
        if options["dry_run"]:
            self._report(counts, policy, options, is_done=False)
            return
        self.confirm(
            f"{self._what(counts, policy, options)} for good?",
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
            raise CommandError("Say from what age on: --older-than 90d.", returncode=2)
        statuses = options["status"] or list(TERMINAL)
        if pending := sorted(set(statuses) - set(TERMINAL)):
            raise CommandError(
                f"What is {pending[0].lower()} is still to be sent and is never purged.",
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
            owner_id=arguments.find_owner_id(owner) if owner else None,
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
        return "Interrupted; run it again to go on."

    def _report(
        self, purged: Purged, policy: Policy, options: dict[str, Any], *, is_done: bool
    ) -> None:
        kept = retention.kept_pending(policy.owner_id) if policy.owner_id else 0
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
        what = self._what(purged, policy, options)
        self.show(f"{what}." if is_done else f"Would {what[0].lower()}{what[1:]}. (--dry-run)")
        if kept:
            self.show(f"{counted(kept, 'payload')} kept: still to be sent.")

    def _what(self, counts: Purged, policy: Policy, options: dict[str, Any]) -> str:
        before = f"before {policy.before:%Y-%m-%d %H:%M} UTC"
        if policy.payloads_only or policy.owner_id:
            whose = f" of {options['owner']}" if policy.owner_id else ""
            return (
                f"Erase the payloads of {counted(counts.events, 'event')}{whose} and of "
                f"{counted(counts.attempts, 'attempt')}, ended {before}"
            )
        return (
            f"Delete {counted(counts.deliveries, 'delivery', 'deliveries')}, "
            f"{counted(counts.attempts, 'attempt')} and {counted(counts.events, 'event')}, "
            f"ended {before}, {counted(counts.webhooks, 'deleted webhook')} and "
            f"{counted(counts.redeliveries, 'old redelivery', 'old redeliveries')}"
        )
