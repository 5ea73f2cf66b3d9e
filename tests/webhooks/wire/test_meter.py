"""What connections may cost: pure arithmetic, on a clock that stands still."""

import pytest

from webhooks.wire import meter as module
from webhooks.wire.meter import Meter

NOW = 1000.0


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.monotonic", lambda: NOW)


@pytest.fixture
def meter() -> Meter:
    return Meter()


def make_dear(meter: Meter, fd: int) -> float:
    for _ in range(module.FREE_READS - 1):
        assert meter.charge(fd, 0.0, 1) is None
    rests_until = meter.charge(fd, 0.0, 1)
    assert rests_until is not None
    return rests_until


def test_connection_with_many_reads_rests(meter: Meter) -> None:
    assert make_dear(meter, 5) == NOW + module.REST_SECONDS
    assert meter.noticed == {5}


@pytest.mark.parametrize(
    ("seconds", "received"), [(module.FREE_SECONDS, 1), (0.0, module.FREE_BYTES + 1)]
)
def test_connection_with_a_dear_or_large_read_rests(
    meter: Meter, seconds: float, received: int
) -> None:
    assert meter.charge(5, seconds, received) is not None


def test_dear_connections_together_get_their_share_of_the_time(meter: Meter) -> None:
    rests = [make_dear(meter, fd) for fd in range(100)]
    spent = 0.0
    for fd in range(100):
        rests.append(meter.charge(fd, 0.001, 1) or 0.0)
        spent += 0.001

    assert rests == sorted(rests)
    assert max(rests) - NOW >= spent / module.EXPENSIVE_SHARE


def test_no_rest_is_longer_than_a_request_can_bear(meter: Meter) -> None:
    rests = [meter.charge(fd, 1.0, 1) for fd in range(100)]

    assert max(rest or 0.0 for rest in rests) == NOW + module.MAX_REST_SECONDS


def test_processor_time_and_bytes_have_a_limit(meter: Meter) -> None:
    meter.charge(1, module.MAX_SECONDS * 1.01, 1)
    meter.charge(2, 0.0, module.MAX_BYTES + 1)
    meter.charge(3, 0.0, 1000)

    over = {fd for fd, usage in meter.by_socket.items() if usage.is_over(meter.bytes_in_all)}

    assert over == meter.noticed == {1, 2}


def test_requests_that_share_a_connection_have_the_allowance_of_each(meter: Meter) -> None:
    meter.charge(1, 0.0, module.MAX_BYTES + 1)
    usage = meter.by_socket[1]

    usage.requests = 2

    assert not usage.is_over(meter.bytes_in_all)


def test_when_all_have_received_too_much_the_large_ones_are_over(meter: Meter) -> None:
    count = module.MAX_BYTES_IN_ALL // 50_000 + 1
    for fd in range(count):
        meter.charge(fd, 0.0, 50_000)
    meter.charge(count, 0.0, 1000)

    assert meter.is_full
    assert meter.noticed == {count - 1}
    assert not meter.by_socket[count].is_over(meter.bytes_in_all)
    meter.charge(0, 0.0, 1)
    assert meter.noticed == {count - 1, 0}


def test_everything_is_forgotten_when_a_request_has_ended(meter: Meter) -> None:
    for fd in (1, 2):
        meter.charge(fd, 1.0, 1_000_000)

    meter.end(1)
    meter.end(2)
    meter.end(3)

    assert (meter.by_socket, meter.bytes_in_all, meter.noticed) == ({}, 0, set())
