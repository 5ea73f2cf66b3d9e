"""Charts as numbers for inline SVG: no script, so that the policy on scripts can stay narrow."""

from collections.abc import Sequence
from dataclasses import dataclass

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from webhooks.figures.display import milliseconds
from webhooks.figures.history import Bucket, BucketSize
from webhooks.figures.overview import Hour

HEIGHT = 100.0
QUARTERS = 4
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
    """What the upper edge stands for; the lower one is zero."""
    middle: str
    """What the line half-way up stands for; empty if it is no whole number."""
    bars: list[Bar]
    lines: dict[str, str]
    """Points of polylines by their name."""
    ticks: list[str]
    """The times at which quarters of the bars begin."""
    first: str
    last: str


def outcomes(buckets: Sequence[Bucket], size: BucketSize = "hour") -> Chart:
    """Return a stacked chart of what became of the deliveries of each hour or day."""
    most = max((bucket.deliveries for bucket in buckets), default=0)
    top = _round_up(most)
    bars = [_outcome_bar(index, bucket, top, size) for index, bucket in enumerate(buckets)]
    middle = f"{top // 2:,}" if top % 2 == 0 else ""
    return Chart(len(buckets), f"{top:,}", middle, bars, {}, *_times(bars))


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
    label, told = _label(bucket, size), counts or _("nothing")
    return Bar(index, label, f"{label} UTC: {told}", parts)


def _label(bucket: Bucket, size: BucketSize) -> str:
    return f"{bucket.starts_at:%Y-%m-%d}" if size == "day" else f"{bucket.starts_at:%H:%M}"


def latency(hours: Sequence[Hour], size: BucketSize = "hour") -> Chart:
    """Return a chart of the times to delivery, p50 and p95 of each hour or day."""
    slowest = max((hour.delivery_p95_ms or 0 for hour in hours), default=0)
    top = _round_up(max(slowest, 10))
    bars = [
        Bar(index, label := _label(hour.bucket, size), _latency_title(label, hour), [])
        for index, hour in enumerate(hours)
    ]
    lines = {
        name: " ".join(
            f"{index + 0.5},{HEIGHT - HEIGHT * value / top:.2f}"
            for index, hour in enumerate(hours)
            if (value := getattr(hour, f"delivery_{name}_ms")) is not None
        )
        for name in ("p95", "p50")
    }
    middle = milliseconds(top / 2)
    return Chart(len(hours), milliseconds(top), middle, bars, lines, *_times(bars))


def _latency_title(label: str, hour: Hour) -> str:
    if hour.delivery_p50_ms is None:
        told = _("nothing delivered")
        return f"{label} UTC: {told}"
    p50, p95 = milliseconds(hour.delivery_p50_ms), milliseconds(hour.delivery_p95_ms)
    return f"{label} UTC: p50 {p50}, p95 {p95}"


def _times(bars: Sequence[Bar]) -> tuple[list[str], str, str]:
    """Return the labels of the axis of time, and the first and last of all labels."""
    if not bars:
        return [], "", ""
    step = max(1, round(len(bars) / QUARTERS))
    ticks = [bar.label for bar in bars[::step][:QUARTERS]]
    return ticks, bars[0].label, bars[-1].label


def _round_up(value: int) -> int:
    """Return the next round number: 1, 2 or 5 times a power of ten."""
    power = 1
    while True:
        for step in (1, 2, 5):
            if step * power >= value:
                return step * power
        power *= 10
