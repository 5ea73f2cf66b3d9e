"""Words and colours that mean the same on every screen."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import urlsplit

from django.utils.translation import gettext as _
from django.utils.translation import pgettext

from webhooks.choices import BreakerState, DeliveryStatus
from webhooks.figures.history import Bucket, Figures
from webhooks.models import Webhook
from webhooks.models.delivery import COUNTED_AT_MOST

TONES = {
    DeliveryStatus.PENDING: "info",
    DeliveryStatus.SENDING: "info",
    DeliveryStatus.RETRYING: "warning",
    DeliveryStatus.SUCCESS: "success",
    DeliveryStatus.FAILED: "danger",
    DeliveryStatus.CANCELLED: "muted",
}


@dataclass(frozen=True, slots=True)
class State:
    """A state in one word, its colour, and the sentence behind it."""

    label: str
    tone: str
    detail: str = ""
    moment: datetime | None = None
    """Since or until when, as `detail` says."""


def state_of(webhook: Webhook, now: datetime) -> State:
    """Say how a webhook is, the gravest thing first."""
    if webhook.deleted_at is not None:
        return State(_("deleted"), "muted", _("deleted"), webhook.deleted_at)
    if not webhook.active:
        reason = webhook.disabled_reason or _("switched off by hand")
        if webhook.notice_error:
            reason += _(" (the mail to its owner could not be sent: %(error)s)") % {
                "error": webhook.notice_error
            }
        return State(_("disabled"), "danger", reason, webhook.disabled_at)
    if webhook.breaker_state == BreakerState.OPEN:
        return State(_("breaker open"), "danger", _("next probe"), webhook.breaker_probe_at)
    if webhook.breaker_state == BreakerState.HALF_OPEN:
        detail = _("one delivery is out to see whether it works again")
        return State(_("probing"), "warning", detail)
    if webhook.failing_since is not None:
        return State(_("failing"), "warning", _("failing since"), webhook.failing_since)
    if webhook.held_until is not None and webhook.held_until > now:
        detail = _("it asked for time until")
        return State(_("held back"), "warning", detail, webhook.held_until)
    return State(pgettext("a webhook", "active"), "success")


def host_of(url: str) -> str:
    try:
        return urlsplit(url).netloc.rpartition("@")[2]
    except ValueError:
        return url


def percent(rate: float | None) -> str:
    """Return a share as people read it; only what is whole is 100 %."""
    if rate is None:
        return "–"
    if 0.999 <= rate < 1:
        return "99.9 %"
    return f"{rate * 100:.1f} %".replace(".0 %", " %")


def milliseconds(value: int | float | None) -> str:
    if value is None:
        return "–"
    if value < 1000:
        return f"{value:.0f} ms"
    return span(timedelta(milliseconds=value))


def span(value: timedelta) -> str:
    """Return a length of time with one unit: `45 s`, `3 min`, `2 h`, `5 d`."""
    seconds = value.total_seconds()
    if seconds < 10:
        return f"{seconds:.1f} s"
    for size, unit in ((86_400 * 2, "d"), (3600 * 2, "h"), (120, "min")):
        if seconds >= size:
            return f"{seconds // {'d': 86_400, 'h': 3600, 'min': 60}[unit]:.0f} {unit}"
    return f"{seconds:.0f} s"


def bounded(count: int) -> str:
    """Show a count that stopped at COUNTED_AT_MOST + 1."""
    return (
        _("more than %(count)s") % {"count": f"{COUNTED_AT_MOST:,}"}
        if count > COUNTED_AT_MOST
        else f"{count:,}"
    )


def health_tone(figures: Figures) -> str:
    """Return the colour of the share delivered."""
    rate = figures.delivered_rate
    if rate is None:
        return "muted"
    return "success" if rate >= 0.99 else "warning" if rate >= 0.9 else "danger"


@dataclass(frozen=True, slots=True)
class Cell:
    """One hour of a health strip."""

    tone: str
    title: str


def health_strip(buckets: list[Bucket], now: datetime, hours: int = 24) -> list[Cell]:
    """Return the last hours of a webhook, oldest first; hours without deliveries are empty."""
    by_hour = {bucket.starts_at: bucket for bucket in buckets}
    last = now.replace(minute=0, second=0, microsecond=0)
    moments = [last - timedelta(hours=back) for back in range(hours - 1, -1, -1)]
    return [_cell(moment, by_hour.get(moment)) for moment in moments]


def _cell(moment: datetime, bucket: Bucket | None) -> Cell:
    when = f"{moment:%H:%M}"
    if bucket is None or not bucket.deliveries:
        return Cell("none", _("%(when)s: nothing sent") % {"when": when})
    numbers = {"succeeded": f"{bucket.succeeded:,}", "all": f"{bucket.deliveries:,}"}
    said = _("%(succeeded)s of %(all)s delivered") % numbers
    if bucket.failed:
        said += ", " + _("%(count)s failed") % {"count": f"{bucket.failed:,}"}
    if bucket.open:
        said += ", " + _("%(count)s open") % {"count": f"{bucket.open:,}"}
    return Cell(_cell_tone(bucket), f"{when}: {said}")


def _cell_tone(bucket: Bucket) -> str:
    wanted = bucket.deliveries - bucket.cancelled
    if not wanted:
        return "none"
    if bucket.succeeded >= 0.99 * wanted:
        return "good"
    if bucket.open > bucket.failed:
        return "open"
    return "mixed" if bucket.succeeded >= 0.5 * wanted else "bad"
