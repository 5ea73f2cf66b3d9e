"""Latencies and error rates over time, by event type and by response, with tables."""

from datetime import timedelta

from django.http import HttpResponse
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from webhooks.figures import charts, history, overview
from webhooks.portal.deliveries import choices_of
from webhooks.portal.pages import show
from webhooks.portal.visit import Visit

RANGES = {
    "24h": (_("24 hours"), timedelta(hours=24)),
    "7d": (_("7 days"), timedelta(days=7)),
    "30d": (_("30 days"), timedelta(days=30)),
}


def figures(visit: Visit) -> HttpResponse:
    """Show the figures of one webhook, or of all."""
    query = visit.request.GET
    chosen = query.get("range", "24h")
    if chosen not in RANGES:
        chosen = "24h"
    webhook = visit.webhook(query["webhook"]) if query.get("webhook") else visit.only
    selection = history.Selection(
        since=timezone.now() - RANGES[chosen][1],
        owner_id=visit.owner_id if webhook is None else None,
        webhook_ids=None if webhook is None else (webhook.id,),
    )
    size: history.BucketSize = "day" if chosen == "30d" else "hour"
    hours = overview.hours(selection, size)
    context = {
        "webhook": webhook,
        "webhooks": choices_of(visit),
        "ranges": [(name, label) for name, (label, _) in RANGES.items()],
        "range": chosen,
        "size": size,
        "totals": history.totals(selection),
        "outcomes": charts.outcomes([hour.bucket for hour in hours], size),
        "outcomes_legend": charts.OUTCOMES_LEGEND,
        "latency": charts.latency(hours, size),
        "latency_legend": charts.LATENCY_LEGEND,
        "by_type": history.by_type(selection),
        "failures": history.failures(selection),
    }
    return show(visit, "figures", context)
