"""The start page: every webhook, the one in trouble first."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.http import HttpResponse
from django.utils import timezone

from webhooks.figures import history, overview
from webhooks.figures.display import Cell, State, health_strip, state_of
from webhooks.models import Redelivery, Webhook
from webhooks.portal.pages import show
from webhooks.portal.visit import Visit

DAY = timedelta(hours=24)
TONES = ("danger", "warning", "success", "muted")
"""The gravest first."""


@dataclass(frozen=True, slots=True)
class Row:
    """A webhook, and how its last 24 hours were."""

    webhook: Webhook
    state: State
    figures: history.Figures
    strip: list[Cell]
    last_error: overview.LastError | None


def start(visit: Visit) -> HttpResponse:
    """Show all webhooks."""
    now = timezone.now()
    rows = rows_of(list(visit.webhooks()), now)
    running = visit.redeliveries().filter(status=Redelivery.Status.RUNNING).order_by("-id").first()
    context = {
        "rows": rows,
        "ill": [row for row in rows if row.state.tone in ("danger", "warning")],
        "running": running,
    }
    return show(visit, "start", context)


def rows_of(webhooks: list[Webhook], now: datetime) -> list[Row]:
    """Return webhooks with their figures, the gravest state first. Three statements."""
    ids = tuple(webhook.id for webhook in webhooks)
    day = history.Selection(since=now - DAY, webhook_ids=ids)
    buckets = history.series_by_webhook(day) if ids else {}
    errors = overview.last_errors(day.since, ids) if ids else {}
    rows = [
        Row(
            webhook,
            state_of(webhook, now),
            sum_up(buckets.get(webhook.id, [])),
            health_strip(buckets.get(webhook.id, []), now),
            errors.get(webhook.id),
        )
        for webhook in webhooks
    ]
    return sorted(rows, key=lambda row: (TONES.index(row.state.tone), -row.figures.failed))


def sum_up(buckets: list[history.Bucket]) -> history.Figures:
    """Return the counts of some hours together; deliveries that are open count as pending."""
    return history.Figures(
        deliveries=sum(bucket.deliveries for bucket in buckets),
        succeeded=sum(bucket.succeeded for bucket in buckets),
        failed=sum(bucket.failed for bucket in buckets),
        cancelled=sum(bucket.cancelled for bucket in buckets),
        pending=sum(bucket.open for bucket in buckets),
    )
