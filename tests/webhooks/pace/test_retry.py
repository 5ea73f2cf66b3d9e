"""Retry and response policy as truth tables."""

import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from webhooks.choices import FailureKind
from webhooks.pace.retry import (
    MAX_RETRY_AFTER_SECONDS,
    SUCCESS,
    Policy,
    delay_before_retry,
    judge,
    parse_retry_after,
)

NOW = datetime(2026, 11, 23, 10, 30, tzinfo=UTC)
POLICY = Policy(max_retries=10, retry_delay_seconds=60)


@pytest.mark.parametrize(
    ("attempt", "max_retries", "delay", "schedule", "seconds"),
    [
        (1, 10, 60, None, 60),
        (2, 10, 60, None, 120),
        (10, 10, 60, None, 60 * 512),
        (11, 10, 60, None, None),
        (1, 0, 60, None, None),
        (11, 20, 3600, None, 12 * 3600),
        (5000, 10_000, 60, None, 12 * 3600),
        (1, 10, 60, [5, 7], 5),
        (2, 0, 60, [5, 7], 7),
        (3, 10, 60, [5, 7], None),
        (1, 10, 60, [], None),
        (1, 10, 60, [10**9], 12 * 3600),
    ],
)
def test_delay(
    attempt: int, max_retries: int, delay: int, schedule: list[int] | None, seconds: float | None
) -> None:
    policy = Policy(max_retries, delay, schedule)

    assert delay_before_retry(policy, attempt, spread=0) == seconds


@pytest.mark.parametrize(("spread", "seconds"), [(-1, 54), (0, 60), (1, 66)])
def test_delay_is_spread_by_ten_per_cent(spread: float, seconds: float) -> None:
    assert delay_before_retry(POLICY, 1, spread=spread) == pytest.approx(seconds)


def test_default_spread_is_random_within_bounds() -> None:
    delays = {delay_before_retry(POLICY, 1) for _ in range(100)}

    assert len(delays) > 90
    assert all(delay is not None and 54 <= delay <= 66 for delay in delays)


def test_twenty_thousand_that_failed_together_come_back_apart() -> None:
    """The largest second has no more than twice the mean."""
    delays = [delay_before_retry(POLICY, 1) for _ in range(20_000)]

    per_second = Counter(int(delay) for delay in delays if delay is not None)

    assert max(per_second.values()) <= 2 * 20_000 / 12


@pytest.mark.parametrize("status", [200, 201, 202, 204, 206, 299])
def test_every_2xx_is_success(status: int) -> None:
    assert judge(POLICY, 1, status=status) == SUCCESS


@pytest.mark.parametrize(
    "status", [100, 103, 199, 301, 302, 307, 308, 400, 401, 403, 404, 408, 413, 425, 500, 599, 999]
)
def test_other_statuses_retry_after_the_usual_delay(status: int) -> None:
    verdict = judge(POLICY, 1, status=status, retry_after="3600", now=NOW.timestamp(), spread=0)

    assert (verdict.succeeded, verdict.delay_seconds) == (False, 60)
    assert (verdict.kind, verdict.hold_seconds, verdict.is_gone) == (
        FailureKind.HTTP_STATUS,
        0,
        False,
    )
    assert str(status) in verdict.error


def test_redirect_says_what_to_do() -> None:
    assert "redirects are not followed" in judge(POLICY, 1, status=301).error


@pytest.mark.parametrize("status", [429, 502, 503, 504])
@pytest.mark.parametrize(
    ("retry_after", "delay", "hold"),
    [
        (None, 60, 0),
        ("0", 60, 0),
        ("10", 60, 10),
        ("120", 120, 120),
        ("999999999", MAX_RETRY_AFTER_SECONDS, MAX_RETRY_AFTER_SECONDS),
        ("garbage", 60, 0),
    ],
)
def test_slow_down_honours_retry_after(
    status: int, retry_after: str | None, delay: float, hold: float
) -> None:
    verdict = judge(
        POLICY, 1, status=status, retry_after=retry_after, now=NOW.timestamp(), spread=0
    )

    assert (verdict.delay_seconds, verdict.hold_seconds) == (delay, hold)


def test_retry_after_never_gives_another_attempt() -> None:
    verdict = judge(POLICY, 11, status=429, retry_after="120", now=NOW.timestamp())

    assert (verdict.delay_seconds, verdict.hold_seconds) == (None, 120)


@pytest.mark.parametrize("attempt", [1, 11])
def test_410_is_gone_and_never_retried(attempt: int) -> None:
    verdict = judge(POLICY, attempt, status=410)

    assert (verdict.succeeded, verdict.delay_seconds, verdict.is_gone) == (False, None, True)


def test_network_failure_keeps_its_kind_and_sentence() -> None:
    failure = (FailureKind.TIMEOUT, "The receiver did not answer in time.")

    verdict = judge(POLICY, 1, status=None, failure=failure, spread=0)

    assert (verdict.kind, verdict.error, verdict.delay_seconds) == (*failure, 60)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120),
        (" 120\t", 120),
        ("0", 0),
        ("9" * 10, MAX_RETRY_AFTER_SECONDS),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90),
        (format_datetime(NOW - timedelta(seconds=90), usegmt=True), 0),
        (format_datetime(NOW + timedelta(days=365), usegmt=True), MAX_RETRY_AFTER_SECONDS),
        ("-5", None),
        ("+5", None),
        ("1.5", None),
        ("1_000", None),
        ("٣", None),
        ("9" * 20, None),
        ("nan", None),
        ("", None),
        ("120, 240", None),
        ("Mon, 31 Feb 2026 10:30:00 GMT", None),
        ("Mon, 23 Nov 10000 10:30:00 GMT", None),
        ("Mon, 23 Nov 2026 10:30:00", None),
        ("Mon Nov 23 10:31:30 2026", 90),
        ("Mon Nov 23 10:30:00 2026", 0),
        ("Sun Nov  6 08:49:37 1994", 0),
        ("Wed Dec  2 10:30:00 2026", MAX_RETRY_AFTER_SECONDS),
        ("Mon Nov 23 10:31:30 2026 GMT", None),
        ("Mon Nov 23 10:31:30 26", None),
        ("Mon Nov 31 10:31:30 2026", None),
        ("Mon Foo 23 10:31:30 2026", None),
        ("Monday, 23-Nov-26 10:31:30 GMT", 90),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 0),
        ("Friday, 01-Jan-75 00:00:00 GMT", MAX_RETRY_AFTER_SECONDS),
        ("Friday, 01-Jan-77 00:00:00 GMT", 0),
        ("Monday, 23-Nov-76 10:30:00 GMT", MAX_RETRY_AFTER_SECONDS),
        ("Monday, 23-Nov-76 10:30:01 GMT", 0),
        ("Mon, 23 Nov 2026 10:31:60 GMT", 119),
        ("Mon, 23 Nov 2026 10:31:30 UTC", None),
        ("Mon, 23 Nov 2026 10:31:30 +0000", None),
        ("Mon, 00 Nov 2026 10:31:30 GMT", None),
        ("Mon, 23 Nov 0000 10:31:30 GMT", None),
        ("Mon, 23 Nov 2026 24:00:00 GMT", None),
        ("Mon, ٢٣ Nov 2026 10:31:30 GMT", None),
        ("0000000120", 120),
        ("0x10", None),
        ("1e3", None),
        ("120s", None),
        ("120;q=1", None),
        ("Mon, 23 Nov 2026 99:99:99 GMT", None),
        ("2026-11-23T10:30:00Z", None),
        ("x" * 100_000, None),
    ],
)
def test_retry_after(value: str, seconds: float | None) -> None:
    assert parse_retry_after(value, NOW.timestamp()) == seconds


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Kolkata"])
def test_retry_after_is_in_gmt_wherever_we_are(monkeypatch: pytest.MonkeyPatch, zone: str) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert parse_retry_after("Mon Nov 23 10:31:30 2026", NOW.timestamp()) == 90
    finally:
        monkeypatch.undo()
        time.tzset()


def test_two_digit_years_at_the_end_of_a_century() -> None:
    late = datetime(2099, 12, 31, 23, 59, 0, tzinfo=UTC).timestamp()

    assert parse_retry_after("Friday, 01-Jan-00 00:00:00 GMT", late) == 60
    assert parse_retry_after("Friday, 01-Jan-50 00:00:00 GMT", late) == 0
