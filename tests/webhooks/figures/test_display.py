"""Words, colours and pictures: pure functions."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone

from webhooks.admin.template_tags import ago
from webhooks.choices import BreakerState
from webhooks.figures import charts
from webhooks.figures.display import (
    Wait,
    health_strip,
    health_tone,
    host_of,
    milliseconds,
    percent,
    span,
    state_of,
    wait_of,
)
from webhooks.figures.history import Bucket, Figures
from webhooks.figures.overview import Hour
from webhooks.models import Delivery, Webhook

NOW = datetime(2026, 11, 24, 8, 30, tzinfo=UTC)
BEFORE = NOW - timedelta(hours=2)
LATER = NOW + timedelta(hours=2)


@pytest.mark.parametrize(
    ("fields", "label", "tone"),
    [
        ({}, "active", "success"),
        ({"failing_since": BEFORE}, "failing", "warning"),
        ({"held_until": LATER}, "held back", "warning"),
        ({"held_until": BEFORE}, "active", "success"),
        ({"breaker_state": BreakerState.HALF_OPEN}, "probing", "warning"),
        ({"breaker_state": BreakerState.OPEN, "failing_since": BEFORE}, "breaker open", "danger"),
        ({"active": False, "breaker_state": BreakerState.OPEN}, "disabled", "danger"),
        ({"active": False, "deleted_at": BEFORE}, "deleted", "muted"),
    ],
)
def test_the_gravest_state_is_named(fields: dict[str, Any], label: str, tone: str) -> None:
    state = state_of(Webhook(**fields), NOW)

    assert (state.label, state.tone) == (label, tone)


def test_a_disabled_webhook_says_why() -> None:
    webhook = Webhook(active=False, disabled_reason="It failed for 5 days.", disabled_at=BEFORE)

    assert state_of(webhook, NOW).detail == "It failed for 5 days."
    assert state_of(webhook, NOW).moment == BEFORE


@pytest.mark.parametrize(
    ("fields", "delivery", "reason", "until"),
    [
        ({}, {"next_attempt_at": LATER}, "", LATER),
        ({}, {"next_attempt_at": BEFORE}, "due: a worker takes it next", None),
        ({}, {"next_attempt_at": BEFORE, "order_key": 7}, "due: older deliveries", None),
        ({}, {"status": "SENDING"}, "it is being sent", None),
        ({"active": False}, {"next_attempt_at": BEFORE}, "the webhook is disabled", None),
        ({"held_until": LATER}, {"next_attempt_at": BEFORE}, "its receiver asked", LATER),
        ({"held_until": BEFORE}, {"next_attempt_at": LATER}, "", LATER),
        (
            {"breaker_state": BreakerState.OPEN, "breaker_probe_at": LATER},
            {"next_attempt_at": BEFORE}, "breaker open: next probe", LATER,
        ),
        (
            {"breaker_state": BreakerState.OPEN, "breaker_probe_at": BEFORE},
            {"next_attempt_at": BEFORE}, "breaker open: the next due delivery", None,
        ),
        ({"breaker_state": BreakerState.HALF_OPEN}, {"next_attempt_at": BEFORE}, "breaker open: a probe is out", None),
        ({"breaker_state": BreakerState.HALF_OPEN}, {"next_attempt_at": LATER}, "", LATER),
        (
            {"breaker_state": BreakerState.OPEN, "breaker_probe_at": NOW + timedelta(minutes=4)},
            {"next_attempt_at": LATER}, "", LATER,
        ),
    ],
)  # fmt: skip
def test_a_delivery_says_what_it_waits_for_and_no_time_that_is_over(
    fields: dict[str, Any], delivery: dict[str, Any], reason: str, until: datetime | None
) -> None:
    held = Delivery(webhook=Webhook(**fields), **delivery)

    wait = wait_of(held, NOW, is_paused=False)

    assert wait is not None
    assert wait.reason.startswith(reason)
    assert bool(wait.reason) == bool(reason)
    assert wait.until == until


def test_a_pause_holds_everything_and_what_is_finished_waits_for_nothing() -> None:
    waiting = Delivery(webhook=Webhook())

    assert wait_of(waiting, NOW, is_paused=True) == Wait("all sending is paused")
    waiting.finished_at = BEFORE
    assert wait_of(waiting, NOW, is_paused=True) is None


def test_a_probe_that_is_due_has_no_time_in_the_past() -> None:
    webhook = Webhook(breaker_state=BreakerState.OPEN, breaker_probe_at=BEFORE)

    assert state_of(webhook, NOW).moment is None


@pytest.mark.parametrize(
    ("rate", "text"),
    [(None, "–"), (1.0, "100 %"), (0.99999, "99.9 %"), (0.984, "98.4 %"), (0.0, "0 %")],
)
def test_only_what_is_whole_is_a_hundred_percent(rate: float | None, text: str) -> None:
    assert percent(rate) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.25, "0.2 s"), (9.94, "9.9 s"), (45, "45 s"), (119, "119 s"), (120, "2 min"),
     (7199, "119 min"), (7200, "2 h"), (172_799, "47 h"), (172_800, "2 d")],
)  # fmt: skip
def test_a_span_has_one_unit(seconds: float, text: str) -> None:
    assert span(timedelta(seconds=seconds)) == text


def test_milliseconds_grow_into_seconds() -> None:
    assert [milliseconds(one) for one in (None, 0, 999, 1500)] == ["–", "0 ms", "999 ms", "1.5 s"]


def test_a_host_comes_without_credentials() -> None:
    assert host_of("https://user:pw@host.example:8443/path") == "host.example:8443"
    assert host_of("https://[broken") == "https://[broken"


def test_ago_knows_past_and_future() -> None:
    assert ">3 min ago</time>" in ago(timezone.now() - timedelta(minutes=3))
    assert ">in 2 h</time>" in ago(timezone.now() + timedelta(hours=2, seconds=5))
    assert ">just now</time>" in ago(timezone.now())
    assert ago(None) == "–"


@pytest.mark.parametrize(
    ("figures", "tone"),
    [
        (Figures(), "muted"),
        (Figures(deliveries=5, pending=5), "muted"),
        (Figures(succeeded=1000, failed=1), "success"),
        (Figures(succeeded=95, retrying=5), "warning"),
        (Figures(succeeded=50, retrying=50), "danger"),
    ],
)
def test_what_is_still_retried_counts_against_the_colour(figures: Figures, tone: str) -> None:
    assert health_tone(figures) == tone


def bucket(hours_ago: int, **counts: int) -> Bucket:
    values = dict.fromkeys(("succeeded", "failed", "cancelled", "open"), 0) | counts
    start = NOW.replace(minute=0) - timedelta(hours=hours_ago)
    return Bucket(start, sum(values.values()), **values)


def test_a_strip_has_a_cell_for_every_hour_and_tells_trouble() -> None:
    buckets = [
        bucket(23, succeeded=10),
        bucket(4, cancelled=3),
        bucket(3, succeeded=1, failed=9),
        bucket(2, succeeded=8, failed=2),
        bucket(1, open=4, failed=1),
        bucket(0, succeeded=100, open=1),
    ]

    strip = health_strip(buckets, NOW)

    assert len(strip) == 24
    assert [cell.tone for cell in strip[-5:]] == ["none", "bad", "mixed", "open", "good"]
    assert (strip[0].tone, strip[1].tone) == ("good", "none")
    assert strip[-4].title == "05:00: 1 of 10 delivered, 9 failed"
    assert strip[1].title == "10:00: nothing sent"


def test_bars_stack_up_to_their_share_and_show_even_one_failure() -> None:
    chart = charts.outcomes([bucket(1, succeeded=998, failed=1, open=1), bucket(0)])

    assert chart.top == "1,000"
    kinds = [(part.kind, part.height) for part in chart.bars[0].parts]
    assert kinds == [("succeeded", 99.8), ("failed", 1.0), ("open", 1.0)]
    assert all(0 <= part.y <= 100 for part in chart.bars[0].parts)
    assert chart.bars[0].title == "07:00 UTC: 998 delivered, 1 failed, 1 open"
    assert chart.bars[1].title == "08:00 UTC: nothing"
    assert (chart.first, chart.last) == ("07:00", "08:00")


def test_latency_lines_leave_empty_hours_out() -> None:
    hours = [
        Hour(bucket(2), 0, 10, 100),
        Hour(bucket(1), 0, None, None),
        Hour(bucket(0), 0, 20, 90),
    ]

    chart = charts.latency(hours)

    assert chart.top == "100 ms"
    assert chart.middle == "50 ms"
    # A linear scale: half as long, half as high.
    assert chart.lines["p95"].split() == ["0.5,0.00", "2.5,10.00"]
    assert chart.lines["p50"].split()[0] == "0.5,90.00"
    assert [point.split(",")[0] for point in chart.lines["p50"].split()] == ["0.5", "2.5"]
    assert chart.bars[1].title.endswith("nothing delivered")


def test_charts_of_nothing_are_drawn() -> None:
    assert charts.outcomes([]).bars == []
    assert charts.latency([]).lines == {"p95": "", "p50": ""}


def test_the_axis_of_time_has_a_label_for_each_quarter() -> None:
    chart = charts.outcomes([bucket(back) for back in range(23, -1, -1)])

    assert chart.ticks == [chart.bars[index].label for index in (0, 6, 12, 18)]
    assert (chart.first, chart.last) == (chart.bars[0].label, chart.bars[-1].label)
