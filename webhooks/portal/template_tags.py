"""What the portal's templates need of Python; loaded as `portal`."""

from datetime import datetime, timedelta
from typing import Any

from django import template
from django.conf import settings
from django.template.context import Context
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from webhooks.choices import DeliveryStatus, FailureKind
from webhooks.figures import display
from webhooks.models import Attempt

register = template.Library()


@register.simple_tag(takes_context=True)
def link(context: Context, name: str, *arguments: Any) -> str:
    """Return the URL of another page of this visit."""
    return context["visit"].url(name, *arguments)  # type: ignore[no-any-return]


@register.simple_tag
def brand() -> dict[str, str]:
    """Return how the portal is called and looks (docs/portal.md)."""
    return {
        "name": settings.WEBHOOKS_PORTAL_NAME,
        "logo": settings.WEBHOOKS_PORTAL_LOGO,
        "scheme": settings.WEBHOOKS_PORTAL_COLOR_SCHEME,
    }


@register.filter
def ago(moment: datetime | None) -> SafeString | str:
    """Show a time as people think of it, with the exact one in the title."""
    if moment is None:
        return "–"
    distance = timezone.now() - moment
    seconds = distance.total_seconds()
    length = display.span(abs(distance))
    text = _("%(length)s ago") if seconds >= 0 else _("in %(length)s")
    shown = _("just now") if 0 <= seconds < 5 else text % {"length": length}
    return format_html(
        '<time datetime="{}" title="{}">{}</time>', moment.isoformat(), exact(moment), shown
    )


@register.filter
def exact(moment: datetime | None) -> str:
    return "–" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S} UTC"


@register.filter
def waits(delivery: Any) -> SafeString | str:
    """Show what a delivery of with_waits() waits for."""
    return display.show_wait(delivery, ago)


@register.filter
def status_chip(status: str) -> SafeString:
    known = DeliveryStatus(status)
    return chip(str(known.label), display.TONES[known])


@register.filter
def failure_label(kind: str) -> str:
    return FailureKind.label_of(kind)


@register.simple_tag
def chip(label: str, tone: str = "muted") -> SafeString:
    return format_html('<span class="chip chip-{}">{}</span>', tone, label)


@register.simple_tag
def phases(attempt: Attempt) -> list[tuple[str, float]]:
    """Return the labels and milliseconds of an attempt's phases; empty if they were not recorded."""
    labels = {
        "dns": _("Name"),
        "connect": _("Connect"),
        "tls": _("TLS"),
        "send": _("Send"),
        "wait": _("Wait"),
        "receive": _("Receive"),
    }
    return [(labels[name], took) for name, took in (attempt.phases or {}).items()]


@register.filter
def seconds(value: float | None) -> str:
    return "–" if value is None else display.span(timedelta(seconds=value))


register.filter("percent", display.percent)
register.filter("ms", display.milliseconds)
register.filter("host", display.host_of)
register.filter("bounded", display.bounded)
register.filter("health_tone", display.health_tone)
