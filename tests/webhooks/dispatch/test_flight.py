"""What a worker holds: whose turn it is, and how much more it may claim."""

from unittest.mock import Mock
from uuid import UUID, uuid4

from webhooks.dispatch.endpoints import Endpoint
from webhooks.dispatch.flight import CLAIM_ROWS, MAX_NOT_SLOW, Flight, Sent
from webhooks.dispatch.take import ClaimedDelivery

BUSY, QUIET = uuid4(), uuid4()
ENDPOINT = Mock(Endpoint, owner_id=BUSY)


def row(*, payload: bytes = b"{}", webhook_id: UUID | None = None) -> ClaimedDelivery:
    return ClaimedDelivery(
        uuid4(), webhook_id or uuid4(), uuid4(), 0, 0, "project.created", payload
    )


def test_owners_start_in_turn() -> None:
    flight = Flight()
    crowd = [row() for _ in range(100)]
    for delivery in crowd:
        flight.line_up(delivery, BUSY)
    late = row()
    flight.line_up(late, QUIET)

    assert flight.next_ready(3) == [crowd[0], late, crowd[1]]
    assert flight.next_ready(2) == crowd[2:4]
    assert flight.ready == 96


def test_everything_ready_is_handed_out_once() -> None:
    flight = Flight()
    rows = [row() for _ in range(10)]
    for number, delivery in enumerate(rows):
        flight.line_up(delivery, (BUSY, QUIET, None)[number % 3])

    assert set(flight.next_ready(7) + flight.next_ready(7)) == set(rows)
    assert flight.next_ready(7) == []


def test_row_put_down_is_held_no_longer() -> None:
    flight = Flight()
    webhook_id = uuid4()
    delivery = row(payload=b"x" * 1000, webhook_id=webhook_id)
    room = flight.windows.room(webhook_id)
    flight.line_up(delivery, BUSY)
    assert flight.ids == {delivery.id}
    assert flight.windows.room(webhook_id) == room - 1

    flight.put_down(flight.next_ready(1))

    assert (flight.ready, flight.bytes, flight.ids) == (0, 0, set())
    assert flight.windows.room(webhook_id) == room


def test_fewer_rows_are_claimed_ahead_of_slow_receivers() -> None:
    flight = Flight()
    assert flight.room == CLAIM_ROWS
    flight.count = MAX_NOT_SLOW - 10
    assert flight.room == 20
    flight.count = MAX_NOT_SLOW
    assert flight.room == 0
    # What hangs gives its place to others.
    flight.slow = MAX_NOT_SLOW
    assert flight.room == CLAIM_ROWS


def test_next_row_of_a_run_starts_when_the_result_of_the_one_before_is_written() -> None:
    flight = Flight()
    webhook_id = uuid4()
    first, second, exempt = (row(webhook_id=webhook_id) for _ in range(3))
    flight.line_up_run([first, second], BUSY)
    flight.line_up(exempt, BUSY)
    assert flight.next_ready(9) == [first, exempt]

    for delivery in (first, exempt):
        flight.begin(sent := Sent(delivery, ENDPOINT, uuid4(), 0.0))
        flight.end(sent, succeeded=True, duration_ms=5)
    assert flight.next_ready(9) == []

    flight.written(webhook_id, exempt.id)
    assert flight.next_ready(9) == []
    flight.written(webhook_id, first.id)
    assert flight.next_ready(9) == [second]
    assert flight.has_run(webhook_id)

    flight.written(webhook_id, second.id)
    assert not flight.has_run(webhook_id)


def test_run_that_was_ended_does_not_go_on() -> None:
    flight = Flight()
    webhook_id = uuid4()
    first, second = row(webhook_id=webhook_id), row(webhook_id=webhook_id)
    flight.line_up_run([first, second], BUSY)
    flight.next_ready(9)

    assert flight.end_run(webhook_id) == [second]
    flight.written(webhook_id, first.id)

    assert flight.next_ready(9) == []
    assert not flight.has_run(webhook_id)
