"""Charts as numbers for inline SVG: no script, so that the policy on scripts can stay narrow."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from webhooks.figures.display import milliseconds
from webhooks.figures.history import Bucket, BucketSize
from webhooks.figures.overview import Hour

HEIGHT = 100.0
SERIES = ("succeeded", "failed", "cancelled", "open")
OUTCOMES_LEGEND = [
    ("succeeded", gettext_lazy("delivered")),
    ("failed", gettext_lazy("failed")),
    ("open", gettext_lazy("open")),
    ("cancelled", gettext_lazy("cancelled")),
]
LATENCY_LEGEND = [("p50", "p50"), ("p95", "p95")]
LABELS = dict(OUTCOMES_LEGEND)


@dataclass(frozen=True, slots=True)
class Part:
    """One piece of a stacked bar, in units of the drawing."""

    kind: str
    y: float
    height: float


@dataclass(frozen=True, slots=True)
class Bar:
    x: float
    label: str
    title: str
    parts: list[Part]


@dataclass(frozen=True, slots=True)
class Chart:
    width: int
    top: str
    """What the upper edge stands for."""
    bars: list[Bar]
    lines: dict[str, str]
    """Points of polylines by their name."""
    first: str
    last: str


def outcomes(buckets: Sequence[Bucket], size: BucketSize = "hour") -> Chart:
    """Return a stacked chart of what became of the deliveries of each hour or day."""
    most = max((bucket.deliveries for bucket in buckets), default=0)
    top = _round_up(most)
    bars = [_outcome_bar(index, bucket, top, size) for index, bucket in enumerate(buckets)]
    return Chart(len(buckets), f"{top:,}", bars, {}, *_ends([bar.label for bar in bars]))


def _outcome_bar(index: int, bucket: Bucket, top: int, size: BucketSize) -> Bar:
    parts, y = [], HEIGHT
    for kind in SERIES:
        count = getattr(bucket, kind)
        # Even one failure among thousands has to be seen.
        height = max(count / top * HEIGHT, 1.0) if count else 0.0
        y -= height
        if height:
            parts.append(Part(kind, round(max(y, 0.0), 2), round(height, 2)))
    counts = ", ".join(
        f"{getattr(bucket, kind):,} {LABELS[kind]}" for kind in SERIES if getattr(bucket, kind)
    )
    label = _label(bucket, size)
    return Bar(index, label, f"{label} UTC: {counts or _('nothing')}", parts)


def _label(bucket: Bucket, size: BucketSize) -> str:
    return f"{bucket.starts_at:%Y-%m-%d}" if size == "day" else f"{bucket.starts_at:%H:%M}"


def latency(hours: Sequence[Hour], size: BucketSize = "hour") -> Chart:
    """Return a chart of the times to delivery, p50 and p95 of each hour or day, on a logarithmic
    scale."""
    slowest = max((hour.delivery_p95_ms or 0 for hour in hours), default=0)
    top = _round_up(max(slowest, 10))
    bars = [
        Bar(index, label := _label(hour.bucket, size), _latency_title(label, hour), [])
        for index, hour in enumerate(hours)
    ]
    lines = {
        name: " ".join(
            f"{index + 0.5},{_log_y(value, top):.2f}"
            for index, hour in enumerate(hours)
            if (value := getattr(hour, f"delivery_{name}_ms")) is not None
        )
        for name in ("p95", "p50")
    }
    return Chart(len(hours), milliseconds(top), bars, lines, *_ends([bar.label for bar in bars]))


def _latency_title(label: str, hour: Hour) -> str:
    if hour.delivery_p50_ms is None:
        return f"{label} UTC: {_('nothing delivered')}"
    p50, p95 = milliseconds(hour.delivery_p50_ms), milliseconds(hour.delivery_p95_ms)
    return f"{label} UTC: p50 {p50}, p95 {p95}"


def _log_y(value: int, top: int) -> float:
    return HEIGHT - HEIGHT * log(1 + value) / log(1 + top)


def _ends(labels: list[str]) -> tuple[str, str]:
    return (labels[0], labels[-1]) if labels else ("", "")


def _round_up(value: int) -> int:
    """Return the next round number: 1, 2 or 5 times a power of ten."""
    power = 1
    while True:
        for step in (1, 2, 5):
            if step * power >= value:
                return step * power
        power *= 10
