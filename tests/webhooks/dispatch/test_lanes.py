"""Which webhooks a claim serves: owners in turn, and nothing that cannot be sent to now."""

from uuid import UUID, uuid4

from webhooks.dispatch.lanes import Lane, Lanes

ADA, BOB = uuid4(), uuid4()


def lane(owner_id: UUID = ADA, *, low: float = 0.0, is_ordered: bool = False) -> Lane:
    return Lane(owner_id, uuid4(), is_ordered, low)


def filled(*lanes: Lane) -> Lanes:
    memory = Lanes()
    for found in lanes:
        memory.find(found)
    return memory


def test_owners_take_turns_whatever_they_have() -> None:
    crowd = [lane(ADA) for _ in range(5)]
    quiet = lane(BOB)
    memory = filled(*crowd, quiet)

    assert memory.take(3) == [crowd[0], quiet, crowd[1]]
    assert memory.take(10) == crowd[2:]
    assert not memory.has_due


def test_lane_that_is_out_comes_back_behind_the_others() -> None:
    first, second = lane(), lane()
    memory = filled(first, second)

    memory.put_back(memory.take(1)[0])

    assert memory.take(2) == [second, first]


def test_dropped_lane_is_forgotten() -> None:
    memory = filled(lane())
    (taken,) = memory.take(1)

    memory.drop(taken)

    assert not memory.knows(taken.key)
    assert not memory.has_due


def test_lane_found_again_starts_where_the_earlier_row_is() -> None:
    known = lane(low=20.0)
    memory = filled(known)

    memory.find(Lane(known.owner_id, known.webhook_id, False, 10.0))
    memory.find(Lane(known.owner_id, known.webhook_id, False, 30.0))

    assert memory.take(2) == [known]
    assert known.low == 10.0


def test_parked_lane_comes_back_at_its_time_and_not_before() -> None:
    memory = filled(lane())
    (taken,) = memory.take(1)
    memory.park(taken, 50.0)

    memory.find(Lane(taken.owner_id, taken.webhook_id, False, 0.0))
    memory.wake(49.9)
    assert (memory.has_due, memory.next_at) == (False, 50.0)

    memory.wake(50.0)
    assert memory.take(1) == [taken]
    assert memory.next_at == float("inf")


def test_lane_parked_twice_waits_for_the_later_time() -> None:
    memory = filled(lane())
    (taken,) = memory.take(1)
    memory.park(taken, 10.0)
    memory.unpark(taken.webhook_id)
    memory.park(memory.take(1)[0], 30.0)

    memory.wake(20.0)

    assert not memory.has_due
    assert memory.next_at == 30.0


def test_full_lane_waits_for_a_place() -> None:
    memory = filled(lane())
    (taken,) = memory.take(1)
    memory.fill(taken, 100.0)
    assert not memory.has_due

    memory.free((taken.webhook_id, True))
    assert not memory.has_due
    memory.free(taken.key)

    assert memory.take(1) == [taken]


def test_rows_in_order_have_a_lane_of_their_own() -> None:
    plain = lane()
    ordered = Lane(plain.owner_id, plain.webhook_id, True)

    assert filled(plain, ordered).take(5) == [plain, ordered]
