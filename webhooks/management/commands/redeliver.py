"""`manage.py redeliver`: send deliveries again, or events that a webhook missed."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from django.core.management.base import CommandError, CommandParser

from webhooks.errors import RedeliveryScopeError
from webhooks.ids import REDELIVERY_PREFIX
from webhooks.management import redelivery_options, redelivery_output, terminal
from webhooks.management.terminal import PARTIAL, counted, stopping
from webhooks.models import Redelivery
from webhooks.repair import redelivery, redelivery_scope
from webhooks.repair.redelivery_scope import Scope


class Command(terminal.Command):
    help = (
        "Send deliveries again: the given ids, or all deliveries that match the options (by default "
        "the failed ones). With --missing, create the deliveries that a webhook missed because it "
        "was new or disabled. Workers send the deliveries; with --wait, show their results."
    )
    epilog = """examples:
  manage.py redeliver del_0193570e2c7a7bcd8f0a1b2c3d4e5f60 --wait
  manage.py redeliver --webhook whk_0193570e2c7a7bcd8f0a1b2c3d4e5f60 --since 6h --dry-run
  manage.py redeliver --owner ada@example.com --status failed,cancelled --rate 50/s --no-input
  manage.py redeliver --missing --webhook whk_0193570e2c7a7bcd8f0a1b2c3d4e5f60 --since 2d
  manage.py redeliver --resume red_0193570e2c7a7bcd8f0a1b2c3d4e5f60 --wait

If the command is killed, the workers or --resume continue the redelivery; no delivery is queued
twice.

exit codes: 0 done, 1 refused, 2 wrong usage, 3 a given delivery was skipped, a redelivery failed or
(--wait) not all deliveries succeeded, 130 interrupted (the redelivery continues)"""

    def add_arguments(self, parser: CommandParser) -> None:
        redelivery_options.add_options(parser)

    def run(self, **options: Any) -> None:
        self._started: list[Redelivery] = []
        if options["resume"]:
            self.refuse_beside("--resume", options, "resume", "wait", "format", "is_interactive")
            resumed = self._find(options["resume"])
            self._warn([redelivery_scope.scope_of(started) for started in resumed])
            self._carry_out(resumed, options)
            return
        try:
            (self._run_missing if options["missing"] else self._run_scope)(options)
        except RedeliveryScopeError as problem:
            raise CommandError(str(problem), returncode=2) from None

    def _find(self, ids: Sequence[UUID]) -> list[Redelivery]:
        found = Redelivery.objects.in_bulk(ids)
        if unknown := [id_ for id_ in ids if id_ not in found]:
            raise CommandError(f"There is no redelivery {REDELIVERY_PREFIX}{unknown[0].hex}.")
        return [found[id_] for id_ in dict.fromkeys(ids)]

    # Count the deliveries, ask, and start.

    def _run_scope(self, options: dict[str, Any]) -> None:
        scope = redelivery_options.scope_of(options)
        count = redelivery_scope.matching(scope)[: scope.limit].count()
        skipped = redelivery_options.skipped(scope)
        for line in skipped:
            self.say(line)
        if count:
            self._warn([scope])
        if options["dry_run"] or not count:
            self._say_matched(count, options, "deliveries")
            if skipped:
                raise SystemExit(PARTIAL)
            return
        if not options["ids"]:
            self.confirm(
                f"Redeliver {counted(count, 'delivery', 'deliveries')}?",
                is_interactive=options["is_interactive"],
            )
        self._carry_out([redelivery.redeliver(scope, rate_limit=options["rate"])], options)
        if skipped:
            raise SystemExit(PARTIAL)

    def _run_missing(self, options: dict[str, Any]) -> None:
        replays, scopes, count = [], [], 0
        for webhook, limits in redelivery_options.replays_of(options):
            scope = redelivery_scope.replay_scope(webhook, **limits)
            if options["limit"]:
                # In all, not to each webhook.
                limits["limit"] = options["limit"] - count
            found = redelivery_scope.missing(webhook, scope)[: limits["limit"]].count()
            if found:
                replays.append((webhook, limits))
                scopes.append(scope)
                count += found
        if count:
            self._warn(scopes)
        if options["dry_run"] or not count:
            self._say_matched(count, options, "missing deliveries")
            return
        self.confirm(
            f"Create {counted(count, 'missing delivery', 'missing deliveries')}?",
            is_interactive=options["is_interactive"],
        )
        self._carry_out(
            [
                redelivery.replay(webhook, rate_limit=options["rate"], **limits)
                for webhook, limits in replays
            ],
            options,
        )

    def _warn(self, scopes: Sequence[Scope | None]) -> None:
        for scope in scopes:
            for warning in redelivery_scope.warnings_of(scope):
                self.say(warning)

    def _say_matched(self, count: int, options: dict[str, Any], noun: str) -> None:
        if options["format"] == "json":
            self.show_json({"matched": count, "dryRun": options["dry_run"]})
        elif count:
            verb = "Would create" if options["missing"] else "Would redeliver"
            noun = noun if count > 1 else noun.replace("deliveries", "delivery")
            self.show(f"{verb} {count:,} {noun}. Nothing was sent.")
        else:
            self.show("No delivery matches.")

    def _carry_out(self, started: list[Redelivery], options: dict[str, Any]) -> None:
        self._started = started
        with stopping() as stop:
            for each in started:
                redelivery_output.queue(self, each, stop.wait)
            self.end_progress()
            if options["wait"]:
                redelivery_output.wait(self, started, stop.wait)
        is_good = redelivery_output.report(
            self, started, as_json=options["format"] == "json", is_awaited=options["wait"]
        )
        if not is_good:
            raise SystemExit(PARTIAL)

    def interrupted(self) -> str:
        if not self._started:
            return "Interrupted; nothing was done."
        ids = " ".join(started.public_id for started in self._started)
        return f"Interrupted; workers continue it. See manage.py redeliver --resume {ids} --wait"
