"""The rate limit as arithmetic: what goes out over time is never more than the limit and a burst."""

import random

import pytest

from webhooks.pace.rate import allowance, spend

NOW = 1_700_000_000.0


def simulate(rate_limit: float, seconds: float, *, seed: int, most_at_once: int) -> list[float]:
    """Ask at random times for as much as is allowed; return when each request went out."""
    dice = random.Random(seed)
    ready_at: float | None = None
    sent: list[float] = []
    now = NOW
    while now < NOW + seconds:
        count = min(allowance(rate_limit, ready_at, now).requests, most_at_once)
        ready_at = spend(rate_limit, ready_at, now, count)
        sent += [now] * count
        now += dice.uniform(0, 0.05 / rate_limit)
    return sent


@pytest.mark.parametrize("rate_limit", [0.1, 0.5, 1, 3, 50, 333.3])
@pytest.mark.parametrize("most_at_once", [1, 1000])
def test_never_more_than_limit_and_one_burst(rate_limit: float, most_at_once: int) -> None:
    seconds = 200 / rate_limit

    sent = simulate(rate_limit, seconds, seed=1, most_at_once=most_at_once)

    burst = max(1.0, rate_limit)
    assert len(sent) <= seconds * rate_limit + burst + 1
    assert len(sent) >= seconds * rate_limit * 0.95


def test_unused_allowance_is_one_second_and_no_more() -> None:
    assert allowance(50, None, NOW).requests == 50
    assert allowance(50, NOW - 3600, NOW).requests == 50


def test_slow_limit_lets_one_out_at_once() -> None:
    assert allowance(0.1, None, NOW).requests == 1
    ready_at = spend(0.1, None, NOW, 1)

    spent = allowance(0.1, ready_at, NOW)

    assert spent.requests == 0
    assert spent.next_at == pytest.approx(NOW + 10)
    assert allowance(0.1, ready_at, NOW + 10).requests == 1


def test_next_at_is_when_one_more_may_go() -> None:
    ready_at = spend(50, None, NOW, 50)
    spent = allowance(50, ready_at, NOW)

    assert spent.requests == 0
    assert spent.next_at == pytest.approx(NOW + 0.02)
    assert allowance(50, ready_at, spent.next_at).requests == 1


def test_clock_that_steps_back_frees_one_request_and_then_keeps_the_limit() -> None:
    ready_at = spend(10, None, NOW, 10)
    earlier = NOW - 3600

    assert allowance(10, ready_at, earlier).requests == 1
    ready_at = spend(10, ready_at, earlier, 1)
    assert allowance(10, ready_at, earlier).requests == 0
    assert allowance(10, ready_at, earlier + 0.1).requests == 1


def test_raised_limit_counts_from_now_on() -> None:
    ready_at = spend(0.01, None, NOW, 1)

    assert allowance(10, ready_at, NOW).requests == 1
