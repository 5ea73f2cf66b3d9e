"""The home page: current problems, and links to their pages.

It takes a bounded number of statements, whose results all users share for a few seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.core.cache import cache
from django.db.models import Count, Q
from django.http import HttpRequest
from django.utils import timezone

from webhooks.admin.access import VIEW_DELIVERY, may_view, permissions_of
from webhooks.admin.redelivery_display import describe, progress_context, webhook_names
from webhooks.choices import BreakerState
from webhooks.figures import charts, history, overview, present
from webhooks.figures.display import Cell, State, health_strip, state_of
from webhooks.models import Pause, Redelivery, Webhook

CACHE_KEY = "webhooks.admin.home"
CACHE_SECONDS = 5
DAY = timedelta(hours=24)
HOUR = timedelta(hours=1)
RATE_WINDOW = timedelta(minutes=5)
SHOWN_WEBHOOKS = 8
SHOWN_REDELIVERIES = 3


@dataclass(frozen=True, slots=True)
class Troubled:
    """A webhook that needs an operator."""

    webhook: Webhook
    state: State
    figures: history.Figures
    strip: list[Cell]
    last_error: overview.LastError | None


def dashboard(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """Add the figures to the admin's index for users who may view deliveries."""
    context |= permissions_of(request.user) | {"title": "Home"}
    if not may_view(request.user, VIEW_DELIVERY):
        return context
    figures: dict[str, Any] | None = cache.get(CACHE_KEY)
    if figures is None:
        figures = collect(timezone.now())
        cache.set(CACHE_KEY, figures, CACHE_SECONDS)
    return context | figures | {"redeliveries": _running()}


def collect(now: datetime) -> dict[str, Any]:
    """Return all figures of the page."""
    day = history.Selection(since=now - DAY)
    hours = overview.hours(day)
    return {
        "now": now,
        "day": _sum_up(hours),
        "hour": history.totals(history.Selection(since=now - HOUR)),
        "events_per_minute": overview.events_since(now - RATE_WINDOW)
        / (RATE_WINDOW.total_seconds() / 60),
        "backlog": present.backlog(),
        "workers": present.workers(),
        "failures": history.failures(day)[:8],
        "outcomes_chart": charts.outcomes([hour.bucket for hour in hours]),
        "outcomes_legend": charts.OUTCOMES_LEGEND,
        "latency_legend": charts.LATENCY_LEGEND,
        "latency_chart": charts.latency(hours),
        "states": _count_states(),
        "troubled": _troubled(day, now),
        "pause": Pause.objects.select_related("paused_by").first(),
    }


def _sum_up(hours: Sequence[overview.Hour]) -> history.Figures:
    return history.Figures(
        deliveries=sum(hour.bucket.deliveries for hour in hours),
        succeeded=sum(hour.bucket.succeeded for hour in hours),
        failed=sum(hour.bucket.failed for hour in hours),
        retrying=sum(hour.retrying for hour in hours),
    )


def _count_states() -> dict[str, int]:
    alive = Q(deleted_at=None, active=True)
    counts: dict[str, int] = Webhook.objects.aggregate(
        sending=Count("pk", filter=alive),
        failing=Count("pk", filter=alive & Q(failing_since__isnull=False)),
        open=Count("pk", filter=alive & ~Q(breaker_state=BreakerState.CLOSED)),
        disabled=Count("pk", filter=Q(deleted_at=None, active=False)),
    )
    return counts


def _troubled(day: history.Selection, now: datetime) -> list[Troubled]:
    """Return the webhooks with the most failures of the day, and those failing at the moment."""
    worst = overview.worst(day, limit=SHOWN_WEBHOOKS)
    failing = Webhook.objects.filter(failing_since__isnull=False, deleted_at=None, active=True)
    found = {
        webhook.pk: webhook
        for webhook in Webhook.objects.filter(
            Q(pk__in=list(worst))
            | Q(pk__in=failing.order_by("failing_since").values("pk")[:SHOWN_WEBHOOKS])
        ).select_related("owner")
    }
    ids = [pk for pk in worst if pk in found] + [pk for pk in found if pk not in worst]
    ids = ids[:SHOWN_WEBHOOKS]
    errors = overview.last_errors(day.since, tuple(ids))
    strips = history.series_by_webhook(history.Selection(since=day.since, webhook_ids=tuple(ids)))
    return [
        Troubled(
            found[pk],
            state_of(found[pk], now),
            worst.get(pk, history.Figures()),
            health_strip(strips.get(pk, []), now),
            errors.get(pk),
        )
        for pk in ids
    ]


def _running() -> list[dict[str, Any]]:
    """Return the redeliveries that are not dismissed, each with its progress."""
    rows = Redelivery.objects.filter(
        dismissed_at=None, created_at__gte=timezone.now() - DAY
    ).order_by("-id")[:SHOWN_REDELIVERIES]
    names = webhook_names(rows)
    return [
        {"redelivery": row, "what": describe(row, names)} | progress_context(row) for row in rows
    ]
