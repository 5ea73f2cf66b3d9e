"""The retry decision as a truth table."""

from datetime import timedelta

import pytest

from webhooks.retry import delay_before_retry


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
    attempt: int, max_retries: int, delay: int, schedule: list[int] | None, seconds: int | None
) -> None:
    result = delay_before_retry(
        attempt,
        max_retries=max_retries,
        retry_delay_seconds=delay,
        schedule=schedule,
        spread=0,
    )

    assert result == (None if seconds is None else timedelta(seconds=seconds))


@pytest.mark.parametrize(("spread", "seconds"), [(-1, 54), (1, 66)])
def test_jitter_is_ten_per_cent_either_way(spread: float, seconds: int) -> None:
    result = delay_before_retry(1, max_retries=1, retry_delay_seconds=60, spread=spread)

    assert result is not None
    assert result.total_seconds() == pytest.approx(seconds)
