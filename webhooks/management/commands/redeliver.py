"""`manage.py redeliver`: send deliveries once more, or events that a webhook never got."""

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
"""What goes again when it is named by its id; the rest only with --force."""


class Command(terminal.Command):
    help = (
        "Send deliveries once more: those named, or all that fit the scope (by default the failed "
        "ones). With --missing create the deliveries that a webhook never got because it was new "
        "or disabled. Workers send them; with --wait see what comes back."
    )
    epilog = """examples:
  manage.py redeliver del_0193570e2c7a7bcd8f0a1b2c3d4e5f60 --wait
  manage.py redeliver --webhook whk_0193570e2c7a7bcd8f0a1b2c3d4e5f60 --since 6h --dry-run
  manage.py redeliver --owner ada@example.com --status failed,cancelled --rate 50/s --no-input
  manage.py redeliver --missing --webhook whk_0193570e2c7a7bcd8f0a1b2c3d4e5f60 --since 2d
  manage.py redeliver --resume red_0193570e2c7a7bcd8f0a1b2c3d4e5f60 --wait

Killed half-way, workers go on with it, and so does --resume: each delivery goes once.

exit codes: 0 done, 1 refused, 2 wrong usage, 3 a named delivery was left alone, a redelivery could
not be carried out or (--wait) not everything succeeded, 130 interrupted (the redelivery goes on)"""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "ids", nargs="*", type=public_id(DELIVERY_PREFIX), metavar="ID",
            help="Deliveries, whatever became of them except success (see --force).",
        )  # fmt: skip
        parser.add_argument(
            "--webhook", type=public_id(WEBHOOK_PREFIX), metavar="ID", help="Those of a webhook."
        )
        parser.add_argument(
            "--event", type=public_id(EVENT_PREFIX), metavar="ID", help="Those of an event."
        )
        parser.add_argument("--owner", metavar="USER", help="Those of a user's webhooks.")
        parser.add_argument(
            "--type", type=arguments.event_type, metavar="TYPE", help="Only of this event type."
        )
        parser.add_argument(
            "--status", type=arguments.statuses, metavar="STATUS",
            help="Only with these statuses, comma-separated (failed).",
        )  # fmt: skip
        for name, what in (("--since", "Created from"), ("--until", "Created before")):
            parser.add_argument(
                name, type=arguments.moment, metavar="TIME",
                help=f"{what} then: 2h, 7d, 2026-11-23 or 2026-11-23T10:30:00Z.",
            )  # fmt: skip
        parser.add_argument(
            "--missing", action="store_true",
            help="Create deliveries that never existed, of a --webhook --since, or of an --event.",
        )  # fmt: skip
        parser.add_argument(
            "--limit", type=arguments.at_least(1), metavar="N", help="At most N, the oldest first."
        )
        parser.add_argument(
            "--rate", type=arguments.rate, metavar="RATE", help="Spread them: 50/s or 30/m."
        )
        parser.add_argument(
            "--force",
            action="store_true",
            help="Also what succeeded, unless --status says otherwise; only in flight stays.",
        )
        parser.add_argument(
            "--resume", type=public_id(REDELIVERY_PREFIX), nargs="+", metavar="ID",
            help="Go on with redeliveries that were started before.",
        )  # fmt: skip
        parser.add_argument("--wait", action="store_true", help="Wait for the answers.")
        parser.add_argument("--dry-run", action="store_true", help="Only say how many.")
        arguments.add_no_input(parser)
        arguments.add_format(parser)

    def run(self, **options: Any) -> None:
        self._started: list[Redelivery] = []
        if options["resume"]:
            found = self._find(options["resume"])
            self._warn([redelivery_scope.scope_of(one) for one in found])
            self._carry_out(found, options)
        elif options["missing"]:
            self._run_missing(options)
        else:
            self._run_scope(options)

    def _find(self, ids: Sequence[UUID]) -> list[Redelivery]:
        found = Redelivery.objects.in_bulk(ids)
        if unknown := [id_ for id_ in ids if id_ not in found]:
            raise CommandError(f"There is no redelivery {REDELIVERY_PREFIX}{unknown[0].hex}.")
        return [found[id_] for id_ in dict.fromkeys(ids)]

    # What.

    def _run_scope(self, options: dict[str, Any]) -> None:
        scope = self._scope(options)
        found = redelivery_scope.matching(scope)
        count = found[: scope.limit].count()
        left_alone = self._left_alone(scope)
        for line in left_alone:
            self.say(line)
        if count:
            self._warn([scope])
        if options["dry_run"] or not count:
            self._say_matched(count, options, "deliveries")
            if left_alone:
                raise SystemExit(PARTIAL)
            return
        if not options["ids"]:
            self.confirm(
                f"Redeliver {counted(count, 'delivery', 'deliveries')}?",
                is_interactive=options["is_interactive"],
            )
        self._carry_out([redelivery.redeliver(scope, rate_limit=options["rate"])], options)
        if left_alone:
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

    def _left_alone(self, scope: Scope) -> list[str]:
        """Return a line for each named delivery that stays where it is: why it does."""
        if scope.delivery_ids is None:
            return []
        matched = set(redelivery_scope.matching(scope).values_list("id", flat=True))
        stays = [id_ for id_ in scope.delivery_ids if id_ not in matched]
        found = dict(Delivery.objects.filter(id__in=stays).values_list("id", "status"))
        return [
            f"{DELIVERY_PREFIX}{id_.hex} {REASONS.get(found.get(id_), OTHER_REASON)}"
            for id_ in stays
        ]

    def _run_missing(self, options: dict[str, Any]) -> None:
        wanted = self._replays(options)
        scopes = [
            (webhook, redelivery_scope.replay_scope(webhook, **limits))
            for webhook, limits in wanted
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
                for webhook, limits in wanted
            ],
            options,
        )

    def _replays(self, options: dict[str, Any]) -> list[tuple[Any, dict[str, Any]]]:
        """Return the webhooks that shall get what they miss, and what that is."""
        if options["ids"] or options["status"] or options["owner"] or options["force"]:
            raise CommandError(
                "--missing goes with --webhook, --event, --type, --since, --until, --limit.",
                returncode=2,
            )
        webhooks = []
        if options["webhook"]:
            webhooks = [arguments.find_webhook(options["webhook"])]
        elif options["event"]:
            webhooks = redelivery_scope.webhooks_missing(arguments.find_event(options["event"]))
        else:
            raise CommandError("Say which: --missing --webhook or --event.", returncode=2)
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

    def _say_matched(self, count: int, options: dict[str, Any], what: str) -> None:
        if options["format"] == "json":
            self.show_json({"matched": count, "dryRun": options["dry_run"]})
        elif count:
            verb = "Would create" if options["missing"] else "Would redeliver"
            what = what if count > 1 else what.replace("deliveries", "delivery")
            self.show(f"{verb} {count:,} {what}. Nothing was sent.")
        else:
            self.show("Nothing matches.")

    # How.

    def _carry_out(self, started: list[Redelivery], options: dict[str, Any]) -> None:
        self._started = started
        with stopping() as stop:
            for one in started:
                self._queue(one, stop.wait)
            self.end_progress()
            if options["wait"]:
                self._wait(started, stop.wait)
        self._report(started, options)

    def _queue(self, one: Redelivery, pause: Callable[[float], bool]) -> None:
        while True:
            has_more = redelivery_batches.advance(one.id)
            one.refresh_from_db()
            if one.status != Redelivery.Status.RUNNING:
                return
            self.progress(f"{one.public_id} queued {bar(one.queued_count, one.matched_count)}")
            # Without more a worker is just at it.
            if pause(0 if has_more else POLL_SECONDS):
                raise KeyboardInterrupt

    def _wait(self, started: list[Redelivery], pause: Callable[[float], bool]) -> None:
        self.warn_if_nothing_is_sent()
        for one in started:
            while not (now := redelivery_progress.progress(one)).is_answered:
                self.progress(_progress_line(one, now))
                if pause(POLL_SECONDS):
                    raise KeyboardInterrupt
                one.refresh_from_db()
        self.end_progress()

    def interrupted(self) -> str:
        if not self._started:
            return "Interrupted; nothing was done."
        ids = " ".join(one.public_id for one in self._started)
        return f"Interrupted; workers go on with it. See manage.py redeliver --resume {ids} --wait"

    def _report(self, started: list[Redelivery], options: dict[str, Any]) -> None:
        now = [redelivery_progress.progress(one) for one in started]
        if options["format"] == "json":
            documents = [_document(one, p) for one, p in zip(started, now, strict=True)]
            self.show_json(documents[0] if len(documents) == 1 else documents)
        else:
            for one, progress in zip(started, now, strict=True):
                self._show(one, progress, options["wait"])
        if any(one.status == Redelivery.Status.FAILED for one in started):
            raise SystemExit(PARTIAL)
        if options["wait"] and any(p.succeeded < p.queued for p in now):
            raise SystemExit(PARTIAL)

    def _show(self, one: Redelivery, now: Progress, is_awaited: bool) -> None:
        if one.error:
            self.say(f"{one.public_id} {one.get_status_display().lower()}: {one.error}")
        if not is_awaited:
            self.show(
                f"{one.public_id}: {counted(now.queued, 'delivery', 'deliveries')} queued. "
                f"See manage.py redeliver --resume {one.public_id} --wait"
            )
            return
        rows = [
            [
                WEBHOOK_PREFIX + part.webhook_id.hex, part.name, f"{part.queued:,}",
                f"{part.succeeded:,}", f"{part.failed:,}", f"{part.retrying:,}", f"{part.held:,}",
                part.last_error,
            ]
            for part in redelivery_progress.outcomes(one)
        ]  # fmt: skip
        for line in table(HEADER, rows, right=NUMBERS):
            self.show(line)
        held = f", {now.held:,} held back" if now.held else ""
        self.show(
            f"{one.public_id}: {now.queued:,} queued, {now.succeeded:,} succeeded, "
            f"{now.failed:,} failed, {now.retrying:,} to be retried{held}."
        )
        if now.held:
            self.say(
                "Held back means: the webhook is switched off, keeps failing or asked for time, or "
                "all sending is paused."
            )


REASONS: dict[str | None, str] = {
    None: "does not exist.",
    "SUCCESS": "has succeeded; --force sends it again all the same.",
    "SENDING": "is in flight.",
}
OTHER_REASON = "does not fit, or its webhook was deleted or its payload erased."


def _progress_line(one: Redelivery, now: Progress) -> str:
    done = now.succeeded + now.failed + now.retrying + now.held
    seconds = max((datetime.now(UTC) - one.created_at).total_seconds(), 0.001)
    return (
        f"{one.public_id} {bar(done, now.queued)}  ok {now.succeeded:,}  "
        f"failed {now.failed + now.retrying:,}  {done / seconds:,.1f}/s"
    )


def _document(one: Redelivery, now: Progress) -> dict[str, Any]:
    document: dict[str, Any] = {
        "id": one.public_id,
        "status": one.status,
        "matched": now.matched,
        "queued": now.queued,
        "succeeded": now.succeeded,
        "failed": now.failed,
        "retrying": now.retrying,
        "held": now.held,
    }
    if warnings := redelivery_scope.warnings_of(redelivery_scope.scope_of(one)):
        document["warnings"] = warnings
    if one.error:
        document["error"] = one.error
    return document
