"""Words and colours that mean the same on every screen."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import pgettext

from webhooks.choices import BreakerState, DeliveryStatus
from webhooks.figures.history import Bucket, Figures
from webhooks.models import Delivery, Webhook
from webhooks.models.delivery import COUNTED_AT_MOST
from webhooks.models.owners import is_owner_active

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
        return State(_("breaker open"), "danger", *_next_probe(webhook, now))
    if webhook.breaker_state == BreakerState.HALF_OPEN:
        detail = _("one delivery is out to see whether it works again")
        return State(_("probing"), "warning", detail)
    if webhook.failing_since is not None:
        return State(_("failing"), "warning", _("failing since"), webhook.failing_since)
    if webhook.held_until is not None and webhook.held_until > now:
        detail = _("it asked for time until")
        return State(_("held back"), "warning", detail, webhook.held_until)
    return State(pgettext("a webhook", "active"), "success")


def _next_probe(webhook: Webhook, now: datetime) -> tuple[str, datetime | None]:
    if webhook.breaker_probe_at is None or webhook.breaker_probe_at <= now:
        return _("the next due delivery goes out as a probe"), None
    return _("next probe"), webhook.breaker_probe_at


@dataclass(frozen=True, slots=True)
class Wait:
    """What an unfinished delivery waits for."""

    reason: str
    """Empty if it only waits for its time."""
    until: datetime | None = None
    """When that ends; None if no time is known."""


def wait_of(delivery: Delivery, now: datetime, *, is_paused: bool) -> Wait | None:
    """Say what a delivery waits for, the gravest thing first; None if it is finished.

    Reads its webhook and its webhook's owner.
    """
    webhook = delivery.webhook
    if delivery.finished_at is not None:
        return None
    if delivery.status == DeliveryStatus.SENDING:
        return Wait(_("it is being sent"))
    if is_paused:
        return Wait(_("all sending is paused"))
    if not webhook.active:
        return Wait(_("the webhook is disabled"))
    if not is_owner_active(webhook.owner):
        return Wait(_("its owner's account is not active"))
    return _held(delivery, webhook, now)


def show_wait(delivery: Any, ago: Callable[[datetime], SafeString | str]) -> SafeString | str:
    """Return what a delivery of with_waits() waits for, as text; a dash if it is finished."""
    wait = wait_of(delivery, timezone.now(), is_paused=delivery.is_paused)
    if wait is None:
        return "–"
    if wait.until is None:
        return wait.reason
    return format_html("{} {}", wait.reason, ago(wait.until)) if wait.reason else ago(wait.until)


def _held(delivery: Delivery, webhook: Webhook, now: datetime) -> Wait:
    due_at = delivery.next_attempt_at or now
    if webhook.breaker_state == BreakerState.OPEN:
        probe, probe_at = _next_probe(webhook, now)
        # One that is not due yet waits for its own time, which comes after the probe.
        if due_at <= (probe_at or now):
            return Wait(_("breaker open: %(probe)s") % {"probe": probe}, probe_at)
    elif webhook.breaker_state == BreakerState.HALF_OPEN and due_at <= now:
        return Wait(_("breaker open: a probe is out"))
    if webhook.held_until is not None and webhook.held_until > max(now, due_at):
        return Wait(_("its receiver asked for time until"), webhook.held_until)
    if due_at > now:
        return Wait("", due_at)
    if delivery.order_key is not None:
        return Wait(_("due: older deliveries of this ordered webhook go first"))
    return Wait(_("due: a worker takes it next"))


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
