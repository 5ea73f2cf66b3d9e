"""The list of webhooks: its rows, with their health strips, and its columns."""

from datetime import timedelta
from typing import Any

from django.contrib.admin import display
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from webhooks.admin.look import ChangeList
from webhooks.admin.template_tags import ago, chip
from webhooks.figures import history
from webhooks.figures.display import (
    health_strip,
    health_tone,
    host_of,
    milliseconds,
    percent,
    state_of,
)
from webhooks.models import Webhook

DAY = timedelta(hours=24)


class WebhookList(ChangeList):
    """The page of webhooks, each with the figures of its deliveries of the last 24 hours."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        now = timezone.now()
        page: list[Any] = list(self.result_list)  # type: ignore[has-type]
        selection = history.Selection(
            since=now - DAY, webhook_ids=tuple(webhook.pk for webhook in page)
        )
        figures = {one.id: one.figures for one in history.by_webhook(selection)}
        strips = history.series_by_webhook(selection)
        for webhook in page:
            webhook.figures = figures.get(webhook.pk, history.Figures())
            webhook.strip = health_strip(strips.get(webhook.pk, []), now)
            webhook.seen_at = now
        self.result_list = page


class WebhookColumns:
    """The columns of the list, for the model admin that shows it."""

    @display(description="Webhook")
    def named(self, webhook: Webhook) -> SafeString:
        return format_html(
            '<span class="op-two"><b>{}</b><small>{}</small></span>',
            webhook.name,
            host_of(webhook.url),
        )

    @display(description="State")
    def state(self, webhook: Any) -> SafeString:
        state = state_of(webhook, webhook.seen_at)
        detail = (
            format_html("{} {}", state.detail, ago(state.moment)) if state.moment else state.detail
        )
        return format_html(
            '<span class="op-two">{}<small class="op-clip" title="{}">{}</small></span>',
            chip(state.label, state.tone),
            state.detail,
            detail,
        )

    @display(description="Last 24 h")
    def health(self, webhook: Any) -> str:
        return render_to_string("admin/webhooks/strip.html", {"strip": webhook.strip})

    @display(description="Success")
    def success(self, webhook: Any) -> SafeString:
        figures = webhook.figures
        return format_html(
            '<span class="op-two"><b class="op-text-{}">{}</b><small>{} sent{}</small></span>',
            health_tone(figures),
            percent(figures.delivered_rate),
            f"{figures.deliveries:,}",
            f", {figures.retrying:,} retrying" if figures.retrying else "",
        )

    @display(description="p95")
    def p95(self, webhook: Any) -> str:
        return milliseconds(webhook.figures.duration_p95_ms)

    @display(description="Events")
    def selected_events(self, webhook: Webhook) -> SafeString:
        more = f" + {len(webhook.events) - 2} more" if len(webhook.events) > 2 else ""
        return format_html(
            '<span title="{}">{}{}</span>',
            ", ".join(webhook.events),
            ", ".join(webhook.events[:2]),
            more,
        )
