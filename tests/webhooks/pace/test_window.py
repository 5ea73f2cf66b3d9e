"""How many rows of a webhook may be held: what its receiver can take, and no more."""

import itertools
from dataclasses import replace
from uuid import uuid4

import pytest

from webhooks.dispatch.flight import MAX_NOT_SLOW, Flight
from webhooks.pace import window
from webhooks.pace.window import LARGE, LARGEST, START, Window, Windows


def answer(state: Window, duration_ms: int, count: int) -> None:
    for _ in range(count):
        state.succeeded(duration_ms, held=state.size)


def round_trips_until(state: Window, duration_ms: int, size: int) -> int:
    for trips in itertools.count(1):
        answer(state, duration_ms, state.size)
        if state.size >= size:
            return trips
    raise AssertionError


def test_slow_receiver_gets_as_many_places_as_its_rate_needs() -> None:
    state = Window()

    assert round_trips_until(state, 300, LARGEST) <= 5
    answer(state, 300, 1000)
    assert state.size == LARGEST
    # By Little's law: more than a thousand a second.
    assert state.size / 0.3 > 1000


def test_fast_receiver_needs_no_more_than_a_large_window() -> None:
    state = Window()

    answer(state, 3, 10_000)

    assert state.size == LARGE


def test_receiver_that_takes_longer_the_more_it_gets_is_not_widened() -> None:
    """It works on one request at a time: each waits for all that came before it."""
    state = Window()
    answer(state, 300, 1)
    sizes = []
    for _ in range(200):
        state.succeeded(300 * state.size, held=state.size)
        sizes.append(state.size)

    assert max(sizes[10:]) <= START


@pytest.mark.parametrize("usual_ms", [5, 300, 2_000])
def test_late_responses_narrow_and_usual_ones_widen_again(usual_ms: int) -> None:
    state = Window()
    answer(state, usual_ms, 100)
    wide = state.size

    answer(state, 3 * usual_ms + window.JITTER_MS, 20)
    narrow = state.size
    answer(state, usual_ms, 500)

    assert narrow < wide <= state.size


def test_receiver_that_became_slower_for_good_is_learnt_anew() -> None:
    state = Window()
    answer(state, 10, 500)

    answer(state, 300, 2_000)

    assert state.usual_ms > 250
    assert state.size > LARGE


def test_window_that_nobody_fills_stays_as_it_is() -> None:
    state = Window()
    for _ in range(100):
        state.succeeded(5, held=1)

    assert state.size == START


def test_failures_halve_and_hanging_requests_too() -> None:
    state = Window(size=64, usual_ms=20)
    state.failed()
    assert state.size == 32
    state.hangs(1_000)
    assert state.size == 16


def test_receiver_that_always_takes_seconds_does_not_hang() -> None:
    state = Window()
    answer(state, 2_000, 200)
    wide = state.size

    state.hangs(1_000)

    assert state.size == wide > START


def test_idle_windows_are_forgotten_however_busy_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    windows = Windows()
    busy, idle, failing = uuid4(), uuid4(), uuid4()
    for webhook_id in (busy, idle, failing):
        windows.take(webhook_id)
    windows.succeeded(idle, 5)
    windows.failed(failing)

    now[0] += window.IDLE_SECONDS + 1
    windows.forget_idle()

    assert set(windows.by_webhook) == {busy}


def test_webhook_gives_way_when_places_become_few() -> None:
    flight = Flight()
    webhook_id = uuid4()
    flight.windows.by_webhook[webhook_id] = Window(size=LARGEST)
    assert flight.room_of(webhook_id, LARGEST) == MAX_NOT_SLOW // 2

    flight.count = MAX_NOT_SLOW - 100
    assert flight.room_of(webhook_id, LARGEST) == 50

    flight.count = MAX_NOT_SLOW
    assert flight.room_of(webhook_id, LARGEST) == START


def test_full_windows_are_named_the_widest_first() -> None:
    windows = Windows()
    wide, narrow, half = uuid4(), uuid4(), uuid4()
    for webhook_id, count in ((narrow, START), (half, 1), (wide, START)):
        for _ in range(count):
            windows.take(webhook_id)
    windows.by_webhook[wide] = replace(windows.by_webhook[wide], size=8, held=8, usual_ms=300.0)

    assert list(windows.full(9).items()) == [(wide.hex, (8, 300)), (narrow.hex, (START, 0))]
    assert list(windows.full(1)) == [wide.hex]


def test_receiver_whose_answers_are_dear_to_read_gets_fewer_and_rests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    windows = Windows()
    dear, usual = uuid4(), uuid4()
    for webhook_id, processor_ms in ((dear, 10.0), (usual, 0.0)):
        windows.take(webhook_id)
        windows.succeeded(webhook_id, 5)
        windows.charge(webhook_id, processor_ms)

    assert windows.is_shut(dear)
    assert windows.room(dear) == 0
    assert dear in windows.uncommon
    assert windows.room(usual) >= START

    now[0] += 0.010 * window.REST_PER_READ_SECOND
    assert not windows.is_shut(dear)
    assert 0 < windows.room(dear) < START


def test_dear_answers_that_come_together_are_paid_for_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("time.monotonic", lambda: 1000.0)
    state = Window()
    for _ in range(4):
        state.charge(10.0)

    assert state.rests_until == pytest.approx(1000 + 4 * 0.010 * window.REST_PER_READ_SECOND)
