"""The breaker as a truth table."""

import pytest

from webhooks.pace.breaker import (
    Breaker,
    Outcomes,
    after,
    interval_seconds,
    most_in_flight,
    probing,
)

NOW = 1_000.0
CLOSED = Breaker()
FAILING = Breaker(failures=9, failing_since=900.0)
OPEN = Breaker(
    "open", failures=12, probes=1, changed_at=900.0, probe_at=1_060.0, failing_since=800.0
)
HALF = OPEN._replace(state="half_open")
RECOVERED = Breaker(changed_at=NOW)


@pytest.mark.parametrize(
    ("before", "outcomes", "expected"),
    [
        (CLOSED, Outcomes(True, 0), CLOSED),
        (CLOSED, Outcomes(False, 1), Breaker(failures=1, failing_since=NOW)),
        (CLOSED, Outcomes(True, 3), Breaker(failures=3, failing_since=NOW)),
        (FAILING, Outcomes(True, 0), CLOSED),
        (FAILING, Outcomes(True, 2), Breaker(failures=2, failing_since=NOW)),
        (
            FAILING,
            Outcomes(False, 1),
            Breaker("open", 10, 0, changed_at=NOW, probe_at=NOW + 30, failing_since=900.0),
        ),
        (
            CLOSED,
            Outcomes(True, 10),
            Breaker("open", 10, 0, changed_at=NOW, probe_at=NOW + 30, failing_since=NOW),
        ),
        # Stragglers, in flight since before it opened.
        (OPEN, Outcomes(False, 3), OPEN._replace(failures=15)),
        (OPEN, Outcomes(True, 0), RECOVERED),
        # Probes.
        (HALF, Outcomes(True, 0), RECOVERED),
        (HALF, Outcomes(True, 2), RECOVERED._replace(failures=2, failing_since=NOW)),
        (HALF, Outcomes(False, 1), OPEN._replace(failures=13, probes=2, probe_at=NOW + 120)),
        (
            HALF._replace(probes=9),
            Outcomes(False, 1),
            OPEN._replace(failures=13, probes=10, probe_at=NOW + 600),
        ),
    ],
)
def test_after(before: Breaker, outcomes: Outcomes, expected: Breaker) -> None:
    assert after(before, outcomes, NOW) == expected


def test_counts_failures_over_batches() -> None:
    breaker = CLOSED
    for _ in range(9):
        breaker = after(breaker, Outcomes(False, 1), NOW)
    assert breaker.state == "closed"

    assert after(breaker, Outcomes(False, 1), NOW).state == "open"


@pytest.mark.parametrize(
    ("probes", "seconds"), [(0, 30), (1, 60), (2, 120), (3, 240), (4, 480), (5, 600), (10**6, 600)]
)
def test_intervals_grow_to_ten_minutes(probes: int, seconds: int) -> None:
    assert interval_seconds(probes) == seconds


def test_probe_goes_out_when_due_and_then_no_other() -> None:
    assert probing(OPEN, OPEN.probe_at - 1) is None  # type: ignore[operator]

    half = probing(OPEN, NOW + 60)

    assert half == OPEN._replace(state="half_open", probe_at=NOW + 120)
    assert probing(half, NOW + 61) is None


def test_probe_does_not_wait_for_a_clock_that_was_set_back() -> None:
    assert probing(OPEN, NOW - 300) is None
    assert probing(OPEN, NOW - 3600) is not None


def test_lost_probe_is_followed_by_another() -> None:
    half = probing(OPEN, NOW + 60)

    assert half is not None
    assert probing(half, NOW + 120) is not None


@pytest.mark.parametrize(
    ("changed_at", "most"),
    [
        (None, None),
        (NOW, 1),
        (NOW - 1, 5),
        (NOW - 29, 117),
        (NOW - 30, None),
        (NOW + 5, 1),
        (NOW + 3600, None),
    ],
)
def test_ramp_after_closing(changed_at: float | None, most: int | None) -> None:
    assert most_in_flight(changed_at, NOW) == most
