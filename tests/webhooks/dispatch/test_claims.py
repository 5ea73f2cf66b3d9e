"""When a worker claims next, with what, and where each webhook's lane goes afterwards."""

from collections.abc import Iterable
from uuid import UUID, uuid4

import pytest

from tests.webhooks.dispatch.fakes import FakeClock, FakeThread
from webhooks.dispatch import claims as claims_module
from webhooks.dispatch import desk, discovery
from webhooks.dispatch.claim import Claim, ClaimOrder, Fate
from webhooks.dispatch.claims import (
    FULL_SECONDS,
    LANES_PER_ORDER,
    LONGEST_SURVEY_PAUSE_SECONDS,
    LOOK_OVERLAP_SECONDS,
    POLL_SECONDS,
    STEP_PAUSE,
    SURVEY_SHARE,
    Claims,
    Survey,
)
from webhooks.dispatch.discovery import LOOK_SECONDS, News, Position
from webhooks.dispatch.flight import Flight
from webhooks.dispatch.lanes import Lane
from webhooks.dispatch.take import ClaimedDelivery, Taken
from webhooks.pace import breaker, window
from webhooks.pace.outage import PROBE_SECONDS

OFFSET = 5000.0
"""From the fake clock to the database's."""


class Desk:
    """A desk for claims at a fake clock, with a fake thread."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.thread = FakeThread()
        self.flight = Flight()
        self.claims = Claims(self.thread.submit, uuid4(), self.flight)

    def seconds_left(self, *, is_out: bool = False) -> float:
        """Return how long it is until the next claim is due; 0 for now."""
        return max(0.0, self.claims.due_at(self.clock.now, is_out=is_out) - self.clock.now)

    def order(self, limit: int = 100) -> ClaimOrder:
        self.claims.order(self.clock.now, limit=limit)
        order = self.thread.orders[-1]
        assert isinstance(order, ClaimOrder)
        return order

    def made(self, fates: Iterable[Fate] = (), **fields: object) -> Claim:
        claim = Claim(self.clock.now + OFFSET, OFFSET, fates=list(fates))
        for name, value in fields.items():
            assert hasattr(claim, name)
            setattr(claim, name, value)
        return claim

    def end(self, fates: Iterable[Fate] = (), **fields: object) -> Claim:
        """Let the claim that was ordered end with this."""
        self.thread.end(self.made(fates, **fields))
        claim = self.claims.collect()
        assert claim is not None
        self.claims.settle_lanes(claim)
        return claim

    def fail(self) -> None:
        self.thread.fail()
        assert self.claims.collect() is None

    def claim(self, fates: Iterable[Fate] = (), **fields: object) -> ClaimOrder:
        order = self.order()
        self.end(fates, **fields)
        return order

    def knowing(self, *lanes: Lane) -> None:
        """Find these lanes, and take them out again with an order."""
        self.claim(found=list(lanes))
        assert self.order().lanes == list(lanes)


def lane(*, ordered: bool = False, owner_id: UUID | None = None) -> Lane:
    return Lane(owner_id or uuid4(), uuid4(), ordered, OFFSET)


def row(webhook_id: UUID) -> ClaimedDelivery:
    return ClaimedDelivery(uuid4(), webhook_id, uuid4(), 0, 0, "project.deleted", b"{}")


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Desk:
    """A worker whose first survey is over."""
    worker = Desk(FakeClock(monkeypatch, desk, claims_module, window))
    assert (
        worker.claim(survey_next=Position(is_ordered=True)).survey_from == discovery.FIRST_POSITION
    )
    worker.claim()
    worker.claims._survey.next_at = float("inf")
    return worker


# When.


def test_idle_worker_looks_once_a_second(worker: Desk) -> None:
    assert worker.seconds_left() == POLL_SECONDS
    worker.clock.now += POLL_SECONDS
    assert worker.seconds_left() == 0
    worker.order()
    assert worker.seconds_left() == float("inf")


def test_hint_is_followed_at_once_even_when_it_comes_during_a_claim(worker: Desk) -> None:
    worker.claims.hint()
    assert worker.seconds_left() == 0
    worker.order()
    worker.claims.hint()
    worker.end()
    assert worker.seconds_left() == 0
    worker.claim()
    assert worker.seconds_left() == POLL_SECONDS


def test_claim_that_failed_rests_and_comes_again_with_its_lanes(worker: Desk) -> None:
    known = lane()
    worker.knowing(known)
    worker.fail()
    assert worker.seconds_left() == pytest.approx(desk.FIRST_BACKOFF_SECONDS)
    worker.claims.hint()
    assert worker.seconds_left() == pytest.approx(desk.FIRST_BACKOFF_SECONDS)
    worker.clock.now += desk.FIRST_BACKOFF_SECONDS
    assert worker.order().lanes == [known]


def test_lane_with_more_is_claimed_from_at_once(worker: Desk) -> None:
    known = lane()
    worker.knowing(known)
    worker.end([Fate(known, True)])
    assert worker.seconds_left() == 0
    assert worker.claims.has_backlog
    assert worker.order().lanes == [known]


def test_lane_with_no_more_is_forgotten(worker: Desk) -> None:
    known = lane()
    worker.knowing(known)
    worker.end([Fate(known, False)])
    assert not worker.claims.has_backlog
    assert worker.seconds_left() == POLL_SECONDS
    assert not worker.order().knows(known.key)


def test_parked_lane_comes_back_at_its_time(worker: Desk) -> None:
    known = lane()
    worker.knowing(known)
    worker.end([Fate(known, False, worker.clock.now + OFFSET + 0.25)])
    assert worker.seconds_left() == 0.25
    assert worker.claim().lanes == []
    worker.clock.now += 0.25
    assert worker.seconds_left() == 0
    assert worker.order().lanes == [known]


def test_parked_lane_comes_back_when_its_webhook_is_resumed(worker: Desk) -> None:
    known = lane()
    worker.knowing(known)
    worker.end([Fate(known, False, worker.clock.now + OFFSET + 60)])
    worker.claims.freed(known.webhook_id)
    assert worker.seconds_left() == POLL_SECONDS
    worker.claims.resumed([known.webhook_id])
    assert worker.seconds_left() == 0
    assert worker.order().lanes == [known]


def test_news_of_an_enabled_webhook_brings_its_lane_back(worker: Desk) -> None:
    known = lane()
    worker.knowing(known)
    worker.end([Fate(known, False, worker.clock.now + OFFSET + 60)])
    worker.claim(news=News(frozenset(), [known.webhook_id, uuid4()]))
    assert worker.order().lanes == [known]


# Full lanes.


def fill(worker: Desk, known: Lane) -> list[ClaimedDelivery]:
    """Take as many rows of a lane as its window lets in."""
    rows = [row(known.webhook_id) for _ in range(window.START)]
    worker.knowing(known)
    for each in rows:
        worker.flight.line_up(each, known.owner_id)
    worker.end([Fate(known, True)], taken=Taken(rows))
    return rows


def test_full_lane_comes_back_with_a_response(worker: Desk) -> None:
    known = lane()
    rows = fill(worker, known)
    assert not worker.claims.has_backlog
    assert worker.seconds_left() == POLL_SECONDS
    worker.flight.put_down(rows[:1])
    worker.claims.freed(uuid4())
    assert worker.seconds_left() == POLL_SECONDS
    worker.claims.freed(known.webhook_id)
    assert worker.seconds_left() == 0
    assert worker.order().lanes == [known]


def test_full_lane_comes_back_by_itself_where_no_response_comes(worker: Desk) -> None:
    """What filled it was given back unsent."""
    known = lane()
    worker.flight.put_down(fill(worker, known))
    worker.clock.now += FULL_SECONDS
    assert worker.order().lanes == [known]


def test_full_lane_comes_back_when_its_webhook_is_resumed(worker: Desk) -> None:
    known = lane()
    fill(worker, known)
    worker.claims.resumed([known.webhook_id])
    assert worker.order().lanes == [known]


def test_lane_without_room_is_full_while_anything_of_its_webhook_is_held(worker: Desk) -> None:
    """It recovers: its window is wider than what it may have for now."""
    known = lane()
    held = row(known.webhook_id)
    worker.knowing(known)
    worker.flight.line_up(held, known.owner_id)
    worker.end([Fate(known, True, had_room=False)])
    assert worker.seconds_left() == POLL_SECONDS

    worker.clock.now += FULL_SECONDS
    assert worker.order().lanes == [known]
    worker.flight.put_down([held])
    worker.end([Fate(known, True, had_room=False)])
    assert worker.seconds_left() == 0


def test_ordered_lane_waits_for_its_run_and_for_its_last_result(worker: Desk) -> None:
    known = lane(ordered=True)
    rows = [row(known.webhook_id), row(known.webhook_id)]
    worker.knowing(known)
    worker.flight.line_up_run(rows, known.owner_id)
    worker.end([Fate(known, True)], taken=Taken(runs={known.webhook_id: rows}))
    worker.claims.freed(known.webhook_id)
    assert worker.seconds_left() == POLL_SECONDS
    worker.claims.freed(known.webhook_id, is_ordered=True)
    assert worker.order().lanes == [known]


def test_lane_whose_window_is_shut_comes_back_when_the_database_knows(worker: Desk) -> None:
    known = lane()
    worker.knowing(known)
    for _ in range(breaker.THRESHOLD):
        worker.flight.windows.take(known.webhook_id)
        worker.flight.windows.failed(known.webhook_id)
    worker.end([Fate(known, True)])
    assert worker.seconds_left() == window.FAILING_SECONDS
    worker.clock.now += window.FAILING_SECONDS
    assert worker.order().lanes == [known]


# How much.


def test_one_order_takes_so_many_lanes_and_the_others_come_next(worker: Desk) -> None:
    many = [lane() for _ in range(LANES_PER_ORDER + 3)]
    worker.claim(found=many)
    first = worker.order().lanes
    assert len(first) == LANES_PER_ORDER
    worker.end()
    assert worker.claims.has_backlog
    assert {known.key for known in [*first, *worker.order().lanes]} == {k.key for k in many}


def test_limit_and_rooms_go_with_the_order(worker: Desk) -> None:
    order = worker.order(limit=7)
    assert order.limit == 7
    assert order.room_of(uuid4(), 2) == 2
    assert order.room_of(uuid4(), 100) == window.START


def test_lane_that_is_found_again_starts_at_the_lower_mark(worker: Desk) -> None:
    known = lane()
    lower = Lane(known.owner_id, known.webhook_id, False, known.low - 1)
    worker.claim(found=[known, lower])
    (taken,) = worker.order().lanes
    assert (taken, taken.low) == (known, OFFSET - 1)


# Pauses and outages.


def test_paused_worker_looks_once_a_second_whatever_is_due(worker: Desk) -> None:
    known = lane()
    worker.knowing(known)
    worker.end([Fate(known, True)], is_paused=True)
    worker.claims.hint()
    assert not worker.claims.has_backlog
    assert worker.seconds_left() == POLL_SECONDS
    worker.clock.now += POLL_SECONDS
    assert worker.order().lanes == [known]
    worker.end([Fate(known, True)])
    assert worker.seconds_left() == 0


def test_outage_of_our_own_lets_single_probes_out(worker: Desk) -> None:
    worker.claims.hint()
    assert worker.seconds_left() == 0
    assert worker.seconds_left(is_out=True) == PROBE_SECONDS


# How far back a look goes.


def test_look_reaches_back_behind_the_last_one_that_ended_well(worker: Desk) -> None:
    assert worker.claim().back_seconds == LOOK_SECONDS
    worker.clock.now += 10
    worker.order()
    worker.fail()
    worker.clock.now += 10
    assert worker.claim().back_seconds == 20 + LOOK_OVERLAP_SECONDS
    worker.clock.now += 1
    assert worker.order().back_seconds == LOOK_SECONDS


def test_worker_that_could_not_look_for_longer_than_a_look_reaches_surveys(worker: Desk) -> None:
    worker.clock.now += 2 * discovery.LONGEST_LOOK_SECONDS
    order = worker.order()
    assert order.back_seconds == discovery.LONGEST_LOOK_SECONDS
    assert order.survey_from == discovery.FIRST_POSITION


def test_end_of_a_transaction_is_noticed_whatever_others_are_open(worker: Desk) -> None:
    began = worker.clock.now + OFFSET
    worker.claim(news=News(frozenset({began - 3600}), []))
    worker.clock.now += 4
    worker.claim(news=News(frozenset({began - 3600, began}), []))
    assert worker.seconds_left() == POLL_SECONDS
    worker.clock.now += 1
    worker.claim(news=News(frozenset({began - 3600}), []))

    assert worker.seconds_left() == 0
    assert worker.claim().back_seconds == 5 + LOOK_OVERLAP_SECONDS
    assert worker.claim().back_seconds == LOOK_SECONDS


def test_clock_of_the_database_that_is_set_forward_hides_nothing(worker: Desk) -> None:
    """What was to become due later is due now, and did so long ago as its row says."""
    worker.claim(clock_offset=OFFSET + 30)
    assert worker.seconds_left() == 0
    assert worker.claim(clock_offset=OFFSET + 30).back_seconds == LOOK_SECONDS + 30
    assert worker.claim(clock_offset=OFFSET).back_seconds == LOOK_SECONDS
    assert worker.claim(clock_offset=OFFSET + 3600).back_seconds == LOOK_SECONDS
    assert worker.order().survey_from == discovery.FIRST_POSITION


def test_news_is_asked_for_once_a_second(worker: Desk) -> None:
    worker.clock.now += POLL_SECONDS
    assert worker.claim().wants_news
    assert not worker.claim().wants_news
    worker.clock.now += POLL_SECONDS
    assert worker.claim().wants_news


# Surveys.


def test_first_claim_surveys_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Desk(FakeClock(monkeypatch, desk, claims_module, window))
    half = Position(False, uuid4(), uuid4())
    assert (
        worker.claim(survey_next=half, survey_seconds=0.01).survey_from == discovery.FIRST_POSITION
    )
    assert worker.seconds_left() == pytest.approx(STEP_PAUSE * 0.01)
    worker.clock.now += STEP_PAUSE * 0.01
    order = worker.order()
    assert order.survey_from == half
    worker.fail()
    worker.clock.now += desk.FIRST_BACKOFF_SECONDS
    assert worker.claim().survey_from == half


@pytest.mark.parametrize(
    ("seconds", "pause"),
    [(0.0001, POLL_SECONDS), (0.1, 0.1 / SURVEY_SHARE), (10, LONGEST_SURVEY_PAUSE_SECONDS)],
)
def test_survey_takes_a_small_share_of_the_time(seconds: float, pause: float) -> None:
    survey = Survey()
    survey.step_ended(seconds / 2, Position(is_ordered=True), 100.0)
    survey.step_ended(seconds / 2, None, 100.0)
    assert survey.next_at == pytest.approx(100 + pause)
    assert survey.seconds == 0


def test_look_that_saw_only_a_part_brings_a_survey_soon(worker: Desk) -> None:
    worker.claim(is_look_cut=True, look_seconds=0.002)
    assert worker.seconds_left() == pytest.approx(0.02)
    worker.clock.now += 0.02
    assert worker.order().survey_from == discovery.FIRST_POSITION


def test_look_that_saw_only_a_part_during_a_survey_brings_another(worker: Desk) -> None:
    """The one under way may have passed what the look missed."""
    worker.claims.look_everywhere()
    worker.claim(is_look_cut=True, survey_next=Position(is_ordered=True), survey_seconds=0.5)
    worker.clock.now += STEP_PAUSE * 0.5
    assert worker.claim(survey_seconds=0.5).survey_from == Position(is_ordered=True)
    worker.clock.now += STEP_PAUSE * 0.5
    assert worker.claim(survey_seconds=0.5).survey_from == discovery.FIRST_POSITION
    assert worker.claims._survey.next_at > worker.clock.now + STEP_PAUSE * 0.5


# Until nothing is left.


def test_worker_is_idle_when_a_whole_survey_found_nothing(worker: Desk) -> None:
    assert not worker.claims.is_idle(worker.clock.now)
    worker.claims.look_everywhere()
    worker.order()
    assert not worker.claims.is_idle(worker.clock.now)
    worker.end(survey_next=Position(is_ordered=True))
    assert not worker.claims.is_idle(worker.clock.now)
    worker.claim()
    assert worker.claims.is_idle(worker.clock.now)


def test_worker_is_not_idle_when_the_survey_found_something(worker: Desk) -> None:
    worker.claims.look_everywhere()
    rows = [row(uuid4())]
    worker.claim(survey_next=Position(is_ordered=True), taken=Taken(rows))
    worker.claim()
    assert not worker.claims.is_idle(worker.clock.now)
    worker.claims.look_everywhere()
    worker.claim(survey_next=Position(is_ordered=True))
    worker.claim()
    assert worker.claims.is_idle(worker.clock.now)
