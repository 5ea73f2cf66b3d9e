"""Tags and filters of the screens' templates; loaded as `operator`."""

import json
from datetime import datetime, timedelta
from typing import Any

from django import template
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from webhooks.choices import DeliveryStatus, FailureKind
from webhooks.doors.owners import name_of
from webhooks.figures import display
from webhooks.models import Webhook

register = template.Library()


@register.filter
def ago(moment: datetime | None) -> SafeString | str:
    """Show a time relative to now, with the exact time in the title."""
    if moment is None:
        return "–"
    distance = timezone.now() - moment
    is_past = distance.total_seconds() >= 0
    is_now = 0 <= distance.total_seconds() < 5
    length = display.span(abs(distance))
    exact = f"{moment:%Y-%m-%d %H:%M:%S} UTC"
    return format_html(
        '<time datetime="{}" title="{}">{}</time>',
        moment.isoformat(),
        exact,
        "just now" if is_now else f"{length} ago" if is_past else f"in {length}",
    )


@register.filter
def exact(moment: datetime | None) -> SafeString | str:
    """Show a time in UTC; a script adds the reader's own time to it."""
    if moment is None:
        return "–"
    text = f"{moment:%Y-%m-%d %H:%M:%S}.{moment.microsecond // 1000:03} UTC"
    return format_html('<time class="op-exact" datetime="{}">{}</time>', moment.isoformat(), text)


@register.simple_tag
def chip(label: str, tone: str = "muted", title: str = "") -> SafeString:
    return format_html('<span class="op-chip op-{}" title="{}">{}</span>', tone, title, label)


@register.filter
def status_chip(status: str) -> SafeString:
    return chip(str(DeliveryStatus(status).label), display.TONES[DeliveryStatus(status)])


@register.filter
def waits(delivery: Any) -> SafeString | str:
    """Show what a delivery of with_waits() waits for."""
    return display.show_wait(delivery, ago)


@register.simple_tag
def webhook_state(webhook: Webhook) -> display.State:
    return display.state_of(webhook, timezone.now())


register.filter("owner_name", name_of)
register.filter("percent", display.percent)
register.filter("ms", display.milliseconds)
register.filter("host", display.host_of)
register.filter("bounded", display.bounded)
register.filter("health_tone", display.health_tone)


@register.filter
def seconds(value: float | None) -> str:
    return "–" if value is None else display.span(timedelta(seconds=value))


@register.filter
def plain_json(value: Any) -> str:
    """Show a value of an audit entry."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


@register.filter
def failure_label(kind: str) -> str:
    return FailureKind.label_of(kind)
