"""`manage.py stats`: figures of deliveries, the same as in the dashboard and the API."""

from datetime import UTC, datetime, timedelta
from typing import Any

from django.core.management.base import CommandParser

from webhooks import catalog
from webhooks.choices import FailureKind
from webhooks.figures import history, present
from webhooks.figures.history import Figures, Selection
from webhooks.ids import WEBHOOK_PREFIX
from webhooks.management import arguments, terminal
from webhooks.management.arguments import public_id
from webhooks.management.terminal import counted, document, table

FIGURES = ["SENT", "OK%", "P50", "P95", "RETRYING", "FAILED", "LAST"]
NUMBERS = "SENT OK% P50 P95 RETRYING FAILED DELIVERIES SHARE% ATTEMPTS WEBHOOKS CODE"


class Command(terminal.Command):
    help = (
        "Show figures of the deliveries created in a time range: how many were sent, how many "
        "succeeded and how fast, by webhook, event type, status or failure kind; and the current "
        "backlog. The dashboard and the API show the same figures."
    )
    epilog = """examples:
  manage.py stats
  manage.py stats --since 7d --by kind
  manage.py stats --webhook whk_0193570e2c7a7bcd8f0a1b2c3d4e5f60 --format json
  manage.py stats --watch 2

columns: SENT deliveries with an attempt; OK% share of successes among succeeded and failed
deliveries; P50 and P95 duration of an attempt; LAST success (UTC)."""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--since", type=arguments.moment, metavar="TIME",
            help="Start of the range: 2h, 7d, 2026-11-23 or 2026-11-23T10:30:00Z (24h).",
        )  # fmt: skip
        parser.add_argument(
            "--webhook", type=public_id(WEBHOOK_PREFIX), metavar="ID", help="Only this webhook."
        )
        parser.add_argument(
            "--owner", type=arguments.text, metavar="USER", help="Only the webhooks of this user."
        )
        parser.add_argument(
            "--by", choices=["webhook", "type", "status", "kind"], default="webhook",
            help="Grouping (webhook).",
        )  # fmt: skip
        parser.add_argument(
            "--limit", type=arguments.at_least(1), default=100, metavar="N",
            help="Show at most N webhooks, the busiest first (100).",
        )  # fmt: skip
        parser.add_argument(
            "--watch", type=arguments.at_least(1), metavar="SECONDS",
            help="Repeat the output at this interval until Ctrl-C.",
        )  # fmt: skip
        arguments.add_format(parser)

    def run(self, **options: Any) -> None:
        if (by := options["by"]) != "webhook":
            self.refuse_beside(
                f"--by {by}", options, "by", "since", "webhook", "owner", "watch", "format"
            )
        show = self._show_json if options["format"] == "json" else self._show_table
        if options["watch"] is None:
            show(options)
            return
        with terminal.stopping() as stop:
            while not stop.is_set():
                if options["format"] == "table" and self.stdout.isatty():
                    self.stdout.write("\x1b[H\x1b[2J", ending="")
                show(options)
                stop.wait(options["watch"])

    def _selection(self, options: dict[str, Any]) -> Selection:
        owner, webhook_id = options["owner"], options["webhook"]
        if webhook_id:
            arguments.find_webhook(webhook_id, even_deleted=True)
        return Selection(
            since=options["since"] or datetime.now(UTC) - timedelta(days=1),
            owner_id=None if owner is None else arguments.find_owner(owner).pk,
            webhook_ids=(webhook_id,) if webhook_id else None,
        )

    def _show_table(self, options: dict[str, Any]) -> None:
        selection = self._selection(options)
        totals = history.totals(selection)
        backlog = present.backlog(selection.owner_id, selection.webhook_ids)
        workers = sum(worker.is_alive for worker in present.workers())
        lines = GROUPS[options["by"]](selection, totals, options["limit"])
        for line in lines:
            self.show(line)
        since = selection.since.astimezone(UTC)
        self.show(
            f"\nSince {since:%Y-%m-%d %H:%M} UTC: {counted(totals.deliveries, 'delivery', 'deliveries')}, "
            f"{totals.succeeded:,} succeeded, {totals.failed:,} failed, "
            f"{totals.cancelled:,} cancelled; {counted(totals.attempts, 'attempt')}; "
            f"time to delivery p50 {_ms(totals.delivery_p50_ms)}, p95 {_ms(totals.delivery_p95_ms)}."
        )
        oldest = (
            ""
            if backlog.oldest_due_seconds is None
            else f" (oldest {backlog.oldest_due_seconds:.0f} s)"
        )
        self.show(
            f"Now: {backlog.due:,} due{oldest}, {backlog.held:,} held, "
            f"{backlog.scheduled:,} scheduled, {backlog.sending:,} in flight; "
            f"{counted(workers, 'worker')} alive{'; all sending is paused' if backlog.is_paused else ''}."
        )

    def _show_json(self, options: dict[str, Any]) -> None:
        selection = self._selection(options)
        totals = history.totals(selection)
        self.show_json(
            {
                "since": catalog.wire_time(selection.since),
                "by": options["by"],
                "groups": _groups(options["by"], selection, totals, options["limit"]),
                "totals": _figures(totals),
                "backlog": document(present.backlog(selection.owner_id, selection.webhook_ids)),
                "workersAlive": sum(worker.is_alive for worker in present.workers()),
            }
        )


def _groups(by: str, selection: Selection, totals: Figures, limit: int) -> list[dict[str, Any]]:
    if by == "webhook":
        return [
            {"id": row.public_id, "name": row.name, "url": row.url, "state": row.state}
            | _figures(row.figures)
            for row in history.by_webhook(selection, limit=limit)
        ]
    if by == "type":
        by_type = history.by_type(selection).items()
        return [{"type": name} | _figures(figures) for name, figures in by_type]
    if by == "status":
        return [
            {"status": status, "deliveries": count} for status, count in totals.by_status.items()
        ]
    return [document(failure) for failure in history.failures(selection)]


def _webhook_lines(selection: Selection, totals: Figures, limit: int) -> list[str]:
    rows = [
        [webhook.public_id, webhook.name, webhook.state, *_row(webhook.figures)]
        for webhook in history.by_webhook(selection, limit=limit)
    ]
    rows.append(["all", "", "", *_row(totals)])
    return table(["WEBHOOK", "NAME", "STATE", *FIGURES], rows, right=NUMBERS)


def _type_lines(selection: Selection, totals: Figures, limit: int) -> list[str]:
    rows = [[name, *_row(figures)] for name, figures in history.by_type(selection).items()]
    rows.append(["all", *_row(totals)])
    return table(["TYPE", *FIGURES], rows, right=NUMBERS)


def _status_lines(selection: Selection, totals: Figures, limit: int) -> list[str]:
    rows = [
        [status, f"{count:,}", _percent(count / totals.deliveries if totals.deliveries else None)]
        for status, count in totals.by_status.items()
    ]
    return table(["STATUS", "DELIVERIES", "SHARE%"], rows, right=NUMBERS)


def _kind_lines(selection: Selection, totals: Figures, limit: int) -> list[str]:
    rows = [
        [
            failure.kind,
            failure.response_code or "-",
            FailureKind.label_of(failure.kind),
            f"{failure.attempts:,}",
            f"{failure.deliveries:,}",
            f"{failure.webhooks:,}",
            _time(failure.last_at),
        ]
        for failure in history.failures(selection)
    ]
    header = ["KIND", "CODE", "MEANING", "ATTEMPTS", "DELIVERIES", "WEBHOOKS", "LAST"]
    return table(header, rows, right=NUMBERS)


GROUPS = {
    "webhook": _webhook_lines,
    "type": _type_lines,
    "status": _status_lines,
    "kind": _kind_lines,
}


def _row(figures: Figures) -> list[str]:
    return [
        f"{figures.sent:,}",
        _percent(figures.success_rate),
        _ms(figures.duration_p50_ms),
        _ms(figures.duration_p95_ms),
        f"{figures.retrying:,}",
        f"{figures.failed:,}",
        _time(figures.last_success_at),
    ]


def _figures(figures: Figures) -> dict[str, Any]:
    return document(figures) | {"successRate": figures.success_rate}


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _ms(milliseconds: int | None) -> str:
    return "-" if milliseconds is None else f"{milliseconds:,} ms"


def _time(moment: datetime | None) -> str:
    return "-" if moment is None else f"{moment.astimezone(UTC):%m-%d %H:%M:%S}"
