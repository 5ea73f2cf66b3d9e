"""`manage.py redeliver`: send deliveries again, or events that a webhook missed."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from django.core.management.base import CommandError, CommandParser

from webhooks.ids import (
    DELIVERY_PREFIX,
    EVENT_PREFIX,
    REDELIVERY_PREFIX,
    WEBHOOK_PREFIX,
)
from webhooks.management import arguments, terminal
from webhooks.management.arguments import public_id
from webhooks.management.terminal import PARTIAL, bar, counted, stopping, table
from webhooks.models import Delivery, Redelivery
from webhooks.repair import redelivery, redelivery_batches, redelivery_progress, redelivery_scope
from webhooks.repair.redelivery_progress import Progress
from webhooks.repair.redelivery_scope import REPEATABLE, Scope

POLL_SECONDS = 0.2
HEADER = ["WEBHOOK", "NAME", "QUEUED", "SUCCEEDED", "FAILED", "RETRYING", "HELD", "ERROR"]
NUMBERS = "QUEUED SUCCEEDED FAILED RETRYING HELD"
NAMED = ("CANCELLED", "FAILED", "PENDING", "RETRYING")
"""Statuses with which a delivery given by id is sent again; others need --force."""


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
        parser.add_argument(
            "ids", nargs="*", type=public_id(DELIVERY_PREFIX), metavar="ID",
            help="Deliveries to send again, unless they succeeded (see --force).",
        )  # fmt: skip
        parser.add_argument(
            "--webhook", type=public_id(WEBHOOK_PREFIX), metavar="ID", help="Only of this webhook."
        )
        parser.add_argument(
            "--event", type=public_id(EVENT_PREFIX), metavar="ID", help="Only of this event."
        )
        parser.add_argument("--owner", metavar="USER", help="Only of this user's webhooks.")
        parser.add_argument(
            "--type", type=arguments.event_type, metavar="TYPE", help="Only of this event type."
        )
        parser.add_argument(
            "--status", type=arguments.statuses, metavar="STATUS",
            help="Only with these statuses, comma-separated (failed).",
        )  # fmt: skip
        for name, boundary in (("--since", "at or after"), ("--until", "before")):
            parser.add_argument(
                name, type=arguments.moment, metavar="TIME",
                help=f"Only created {boundary} this time: 2h, 7d, 2026-11-23 or 2026-11-23T10:30:00Z.",
            )  # fmt: skip
        parser.add_argument(
            "--missing", action="store_true",
            help="Create missing deliveries of a --webhook with --since, or of an --event.",
        )  # fmt: skip
        parser.add_argument(
            "--limit", type=arguments.at_least(1), metavar="N",
            help="Send at most N deliveries, the oldest first.",
        )  # fmt: skip
        parser.add_argument(
            "--rate", type=arguments.rate, metavar="RATE",
            help="Spread the deliveries over time: 50/s or 30/m.",
        )  # fmt: skip
        parser.add_argument(
            "--force",
            action="store_true",
            help="Without --status, send deliveries of any status except those in flight.",
        )
        parser.add_argument(
            "--resume", type=public_id(REDELIVERY_PREFIX), nargs="+", metavar="ID",
            help="Continue these redeliveries, which were started before.",
        )  # fmt: skip
        parser.add_argument("--wait", action="store_true", help="Wait for the results.")
        parser.add_argument(
            "--dry-run", action="store_true", help="Only print the number of deliveries."
        )
        arguments.add_no_input(parser)
        arguments.add_format(parser)

    def run(self, **options: Any) -> None:
        self._started: list[Redelivery] = []
        if options["resume"]:
            resumed = self._find(options["resume"])
            self._warn([redelivery_scope.scope_of(started) for started in resumed])
            self._carry_out(resumed, options)
        elif options["missing"]:
            self._run_missing(options)
        else:
            self._run_scope(options)

    def _find(self, ids: Sequence[UUID]) -> list[Redelivery]:
        found = Redelivery.objects.in_bulk(ids)
        if unknown := [id_ for id_ in ids if id_ not in found]:
            raise CommandError(f"There is no redelivery {REDELIVERY_PREFIX}{unknown[0].hex}.")
        return [found[id_] for id_ in dict.fromkeys(ids)]

    # Select the deliveries.

    def _run_scope(self, options: dict[str, Any]) -> None:
        scope = self._scope(options)
        count = redelivery_scope.matching(scope)[: scope.limit].count()
        skipped = self._skipped(scope)
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

    def _scope(self, options: dict[str, Any]) -> Scope:
        if options["webhook"]:
            arguments.find_webhook(options["webhook"])
        if options["event"]:
            arguments.find_event(options["event"])
        statuses: Sequence[str] = options["status"] or ("FAILED",)
        if options["ids"] and not options["status"]:
            statuses = NAMED
        if options["force"] and not options["status"]:
            statuses = sorted(REPEATABLE)
        return Scope(
            delivery_ids=tuple(options["ids"]) or None,
            webhook_id=options["webhook"],
            event_id=options["event"],
            event_type=options["type"],
            owner_id=arguments.find_owner(options["owner"]).pk if options["owner"] else None,
            statuses=tuple(statuses),
            since=options["since"],
            until=options["until"],
            limit=options["limit"],
        )

    def _skipped(self, scope: Scope) -> list[str]:
        """Return a line with the reason for each given delivery that is not sent again."""
        if scope.delivery_ids is None:
            return []
        matched = set(redelivery_scope.matching(scope).values_list("id", flat=True))
        skipped = [id_ for id_ in scope.delivery_ids if id_ not in matched]
        statuses = dict(Delivery.objects.filter(id__in=skipped).values_list("id", "status"))
        return [
            f"{DELIVERY_PREFIX}{id_.hex} {REASONS.get(statuses.get(id_), OTHER_REASON)}"
            for id_ in skipped
        ]

    def _run_missing(self, options: dict[str, Any]) -> None:
        replays = self._replays(options)
        scopes = [
            (webhook, redelivery_scope.replay_scope(webhook, **limits))
            for webhook, limits in replays
        ]
        count = sum(
            redelivery_scope.missing(webhook, scope)[: scope.limit].count()
            for webhook, scope in scopes
        )
        if count:
            self._warn([scope for _, scope in scopes])
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

    def _replays(self, options: dict[str, Any]) -> list[tuple[Any, dict[str, Any]]]:
        """Return the webhooks to create missing deliveries for, each with its limits."""
        if options["ids"] or options["status"] or options["owner"] or options["force"]:
            raise CommandError(
                "--missing works only with --webhook, --event, --type, --since, --until, --limit.",
                returncode=2,
            )
        webhooks = []
        if options["webhook"]:
            webhooks = [arguments.find_webhook(options["webhook"])]
        elif options["event"]:
            webhooks = redelivery_scope.webhooks_missing(arguments.find_event(options["event"]))
        else:
            raise CommandError("--missing needs --webhook or --event.", returncode=2)
        limits = {
            "since": options["since"],
            "until": options["until"],
            "event_id": options["event"],
            "event_type": options["type"],
            "limit": options["limit"],
        }
        return [(webhook, limits) for webhook in webhooks]

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

    # Carry the redeliveries out.

    def _carry_out(self, started: list[Redelivery], options: dict[str, Any]) -> None:
        self._started = started
        with stopping() as stop:
            for each in started:
                self._queue(each, stop.wait)
            self.end_progress()
            if options["wait"]:
                self._wait(started, stop.wait)
        self._report(started, options)

    def _queue(self, started: Redelivery, pause: Callable[[float], bool]) -> None:
        while True:
            has_more = redelivery_batches.advance(started.id)
            started.refresh_from_db()
            if started.status != Redelivery.Status.RUNNING:
                return
            queued = bar(started.queued_count, started.matched_count)
            self.progress(f"{started.public_id} queued {queued}")
            # If it is running without more to advance, a worker is advancing it at the moment.
            if pause(0 if has_more else POLL_SECONDS):
                raise KeyboardInterrupt

    def _wait(self, started: list[Redelivery], pause: Callable[[float], bool]) -> None:
        self.warn_if_nothing_is_sent()
        for awaited in started:
            while not (now := redelivery_progress.progress(awaited)).is_answered:
                self.progress(_progress_line(awaited, now))
                if pause(POLL_SECONDS):
                    raise KeyboardInterrupt
                awaited.refresh_from_db()
        self.end_progress()

    def interrupted(self) -> str:
        if not self._started:
            return "Interrupted; nothing was done."
        ids = " ".join(started.public_id for started in self._started)
        return f"Interrupted; workers continue it. See manage.py redeliver --resume {ids} --wait"

    def _report(self, started: list[Redelivery], options: dict[str, Any]) -> None:
        now = [redelivery_progress.progress(each) for each in started]
        if options["format"] == "json":
            documents = [_document(each, p) for each, p in zip(started, now, strict=True)]
            self.show_json(documents[0] if len(documents) == 1 else documents)
        else:
            for each, progress in zip(started, now, strict=True):
                self._show(each, progress, options["wait"])
        if any(each.status == Redelivery.Status.FAILED for each in started):
            raise SystemExit(PARTIAL)
        if options["wait"] and any(p.succeeded < p.queued for p in now):
            raise SystemExit(PARTIAL)

    def _show(self, started: Redelivery, now: Progress, is_awaited: bool) -> None:
        if started.error:
            self.say(f"{started.public_id} {started.get_status_display().lower()}: {started.error}")
        if not is_awaited:
            self.show(
                f"{started.public_id}: {counted(now.queued, 'delivery', 'deliveries')} queued. "
                f"See manage.py redeliver --resume {started.public_id} --wait"
            )
            return
        rows = [
            [
                WEBHOOK_PREFIX + part.webhook_id.hex, part.name, f"{part.queued:,}",
                f"{part.succeeded:,}", f"{part.failed:,}", f"{part.retrying:,}", f"{part.held:,}",
                part.last_error,
            ]
            for part in redelivery_progress.outcomes(started)
        ]  # fmt: skip
        for line in table(HEADER, rows, right=NUMBERS):
            self.show(line)
        held = f", {now.held:,} held back" if now.held else ""
        self.show(
            f"{started.public_id}: {now.queued:,} queued, {now.succeeded:,} succeeded, "
            f"{now.failed:,} failed, {now.retrying:,} to be retried{held}."
        )
        if now.held:
            self.say(
                "Deliveries are held back while their webhook is disabled, keeps failing or sent "
                "Retry-After, or while all sending is paused."
            )


REASONS: dict[str | None, str] = {
    None: "does not exist.",
    "SUCCESS": "has succeeded; use --force to send it again.",
    "SENDING": "is in flight.",
}
OTHER_REASON = "does not match, or its webhook was deleted or its payload erased."


def _progress_line(started: Redelivery, now: Progress) -> str:
    done = now.succeeded + now.failed + now.retrying + now.held
    seconds = max((datetime.now(UTC) - started.created_at).total_seconds(), 0.001)
    return (
        f"{started.public_id} {bar(done, now.queued)}  ok {now.succeeded:,}  "
        f"failed {now.failed + now.retrying:,}  {done / seconds:,.1f}/s"
    )


def _document(started: Redelivery, now: Progress) -> dict[str, Any]:
    document: dict[str, Any] = {
        "id": started.public_id,
        "status": started.status,
        "matched": now.matched,
        "queued": now.queued,
        "succeeded": now.succeeded,
        "failed": now.failed,
        "retrying": now.retrying,
        "held": now.held,
    }
    if warnings := redelivery_scope.warnings_of(redelivery_scope.scope_of(started)):
        document["warnings"] = warnings
    if started.error:
        document["error"] = started.error
    return document
