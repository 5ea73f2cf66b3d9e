"""The figures are exact, count the right rows, and take a bounded number of statements."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from projects.models import User
from webhooks import service
from webhooks.choices import BreakerState
from webhooks.figures import history, overview, present
from webhooks.figures.history import Bucket, FailureFigures, Figures, Selection
from webhooks.ids import first_id_of, new_id
from webhooks.models import Attempt, Delivery, Event, Pause, Webhook, WorkerHeartbeat
from webhooks.models.owner_keys import NO_OWNER

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)

Add = Callable[..., Delivery]


@pytest.fixture
def webhook(make_webhook: Callable[..., Webhook]) -> Webhook:
    return make_webhook()


@pytest.fixture
def add(webhook: Webhook) -> Add:
    """Store one delivery, created at a time, with attempts of these durations and failure kinds."""
    numbers = iter(range(1_000_000))

    def add(
        created_at: datetime = NOON,
        status: str = "SUCCESS",
        *,
        attempts: list[tuple[int, str]] | None = None,
        delivered_after: timedelta | None = None,
        **fields: Any,
    ) -> Delivery:
        number = next(numbers)
        attempts = [(10, "")] if attempts is None else attempts
        to = fields.pop("webhook", webhook)
        event = Event.objects.create(type="session.ended", payload=b"{}", created_at=created_at)
        delivery = Delivery.objects.create(
            **{
                "id": _id_at(created_at, number),
                "event": event,
                "webhook": to,
                "owner_id": to.owner_id or NO_OWNER,
                "event_type": event.type,
                "status": status,
                "attempt_count": len(attempts),
                "created_at": created_at,
                "delivered_at": created_at + delivered_after if delivered_after else None,
                "finished_at": created_at if status in ("SUCCESS", "FAILED", "CANCELLED") else None,
            }
            | fields
        )
        for position, (duration_ms, kind) in enumerate(attempts, start=1):
            Attempt.objects.create(
                id=_id_at(created_at, number * 100 + position),
                delivery=delivery,
                number=position,
                started_at=created_at + timedelta(seconds=position),
                duration_ms=duration_ms,
                failure_kind=kind,
                response_code=500 if kind == "http_status" else None if kind else 200,
            )
        return delivery

    return add


def _id_at(moment: datetime, number: int) -> Any:
    first = first_id_of(moment)
    return type(first)(int=first.int + number)


def test_nothing_is_all_zero(db: None) -> None:
    since = timezone.now() - timedelta(days=1)

    assert history.totals(Selection(since)) == Figures()
    assert history.totals(Selection(since)).success_rate is None
    assert history.by_webhook(Selection(since)) == []
    assert history.by_type(Selection(since)) == {}
    assert history.failures(Selection(since)) == []
    assert present.backlog() == present.Backlog(0, None, 0, 0, 0, 0, 0, is_paused=False)
    assert present.workers() == []


def test_totals_count_every_status_and_attempt(add: Add) -> None:
    for number in range(1, 20):
        add(attempts=[(number, "")], delivered_after=timedelta(milliseconds=100 * number))
    add(status="FAILED", attempts=[(40, "timeout"), (50, "http_status")])
    add(status="FAILED", attempts=[], crash_count=3)
    add(status="CANCELLED", attempts=[])
    add(status="PENDING", attempts=[])
    add(status="SENDING", attempts=[])
    add(status="RETRYING", attempts=[(30, "reset")])

    figures = history.totals(Selection(NOON, NOON + timedelta(hours=1)))

    assert figures == Figures(
        deliveries=25,
        pending=1,
        sending=1,
        retrying=1,
        succeeded=19,
        failed=2,
        cancelled=1,
        sent=21,
        parked=1,
        attempts=22,
        duration_p50_ms=11,
        duration_p95_ms=40,
        delivery_p50_ms=1000,
        delivery_p95_ms=1900,
        last_success_at=NOON + timedelta(milliseconds=1900),
        last_failure_at=NOON,
    )
    assert figures.success_rate == 19 / 21
    assert sum(figures.by_status.values()) == figures.deliveries


def test_redelivered_ones_do_not_lengthen_the_time_to_delivery(add: Add) -> None:
    add(delivered_after=timedelta(milliseconds=20))
    add(delivered_after=timedelta(days=2), round=2)

    assert history.totals(Selection(NOON)).delivery_p95_ms == 20


def test_selection_is_a_half_open_range_of_creation(add: Add) -> None:
    add(NOON - timedelta(milliseconds=1))
    add(NOON)
    add(NOON + timedelta(hours=1) - timedelta(milliseconds=1))
    add(NOON + timedelta(hours=1))

    assert history.totals(Selection(NOON, NOON + timedelta(hours=1))).deliveries == 2
    assert history.totals(Selection(NOON)).deliveries == 3


def test_selection_by_owner_and_webhook(
    add: Add, user: User, other_user: User, make_webhook: Callable[..., Webhook]
) -> None:
    second = make_webhook()
    platform = make_webhook(owner=None, is_platform=True)
    for to in (second, platform, make_webhook(owner=other_user)):
        add(webhook=to)
    add()

    assert history.totals(Selection(NOON, owner_id=user.id)).deliveries == 2
    assert history.totals(Selection(NOON, webhook_ids=(second.id, platform.id))).deliveries == 2
    assert history.totals(Selection(NOON, owner_id=user.id, webhook_ids=())).deliveries == 0
    assert history.totals(Selection(NOON)).deliveries == 4


def test_by_webhook_gives_each_its_own_and_the_busiest_first(
    add: Add, webhook: Webhook, make_webhook: Callable[..., Webhook]
) -> None:
    busy = make_webhook(name="Busy")
    Webhook.objects.filter(id=busy.id).update(breaker_state=BreakerState.OPEN)
    service.disable(webhook)
    for _ in range(3):
        add(webhook=busy, attempts=[(7, "")])
    add(status="FAILED", attempts=[(9, "dns")])

    first, second = history.by_webhook(Selection(NOON))

    assert (first.id, first.name, first.state) == (busy.id, "Busy", "failing")
    assert (first.figures.sent, first.figures.duration_p95_ms) == (3, 7)
    assert first.figures.success_rate == 1.0
    assert (second.public_id, second.state) == (webhook.public_id, "disabled")
    assert (second.figures.failed, second.figures.duration_p95_ms) == (1, 9)
    assert [one.id for one in history.by_webhook(Selection(NOON), limit=1)] == [busy.id]


def test_by_type(add: Add) -> None:
    add(event_type="project.created")
    add(event_type="project.created", status="FAILED")
    add(event_type="session.ended")

    found = history.by_type(Selection(NOON))

    assert list(found) == ["project.created", "session.ended"]
    assert (found["project.created"].succeeded, found["project.created"].failed) == (1, 1)


def test_failures_by_kind_and_code(add: Add) -> None:
    add(attempts=[(5, "timeout"), (5, "timeout"), (5, "")])
    add(status="FAILED", attempts=[(5, "http_status"), (5, "timeout")])

    assert history.failures(Selection(NOON)) == [
        FailureFigures("timeout", None, 3, 2, 1, NOON + timedelta(seconds=2)),
        FailureFigures("http_status", 500, 1, 1, 1, NOON + timedelta(seconds=1)),
    ]


def test_series_has_every_bucket_and_adds_up_to_the_totals(add: Add) -> None:
    add(NOON + timedelta(minutes=5))
    add(NOON + timedelta(minutes=59), status="FAILED")
    add(NOON + timedelta(hours=2), status="RETRYING")
    selection = Selection(NOON + timedelta(minutes=1), NOON + timedelta(hours=3))

    assert history.series(selection) == [
        Bucket(NOON, 2, 1, 1, 0, 0),
        Bucket(NOON + timedelta(hours=1), 0, 0, 0, 0, 0),
        Bucket(NOON + timedelta(hours=2), 1, 0, 0, 0, 1),
    ]
    assert history.series(selection, "day") == [
        Bucket(NOON - timedelta(hours=12), 3, 1, 1, 0, 1),
    ]


def test_days_are_found_whatever_the_clocks_of_the_session_do(add: Add) -> None:
    summer = datetime(2026, 10, 20, 12, tzinfo=UTC)
    add(summer)
    add(summer + timedelta(days=10))
    selection = Selection(summer, summer + timedelta(days=11))
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL timezone TO 'Europe/Berlin'")

    assert sum(day.deliveries for day in history.series(selection, "day")) == 2
    assert sum(day.bucket.deliveries for day in overview.hours(selection, "day")) == 2


def test_backlog_distinguishes_due_from_held_deliveries(
    add: Add, webhook: Webhook, make_webhook: Callable[..., Webhook]
) -> None:
    now = timezone.now()
    disabled = make_webhook(active=False)
    add(status="PENDING", next_attempt_at=now - timedelta(seconds=90))
    add(status="RETRYING", next_attempt_at=now - timedelta(seconds=30))
    add(status="RETRYING", next_attempt_at=now + timedelta(hours=1))
    add(status="SENDING", next_attempt_at=now - timedelta(seconds=100), claimed_by=new_id())
    add(status="PENDING", next_attempt_at=now - timedelta(hours=1), webhook=disabled)
    add(status="FAILED", next_attempt_at=None)

    backlog = present.backlog()

    assert (backlog.due, backlog.held, backlog.scheduled) == (2, 1, 1)
    assert (backlog.retrying, backlog.sending, backlog.unfinished) == (2, 1, 5)
    assert backlog.oldest_due_seconds == pytest.approx(90, abs=5)
    assert present.backlog(webhook_ids=(disabled.id,)).unfinished == 1
    assert present.backlog(owner_id=new_id()).unfinished == 0


def test_backlog_of_an_inactive_owner_is_held(
    add: Add, user: User, make_webhook: Callable[..., Webhook]
) -> None:
    platform = make_webhook(owner=None, is_platform=True, events=["project.*"])
    add(status="PENDING", next_attempt_at=timezone.now() - timedelta(hours=1))
    add(status="PENDING", next_attempt_at=timezone.now(), webhook=platform)
    User.objects.filter(pk=user.pk).update(is_active=False)

    backlog = present.backlog()

    assert (backlog.due, backlog.held) == (1, 1)
    assert backlog.oldest_due_seconds == pytest.approx(0, abs=5)


def test_backlog_is_held_while_everything_is_paused(add: Add) -> None:
    add(status="PENDING", next_attempt_at=timezone.now())
    Pause.objects.create()

    backlog = present.backlog()

    assert (backlog.due, backlog.held, backlog.is_paused) == (0, 1, True)
    assert backlog.oldest_due_seconds is None


def test_workers_silent_for_too_long_are_dead(db: None) -> None:
    now = timezone.now()
    WorkerHeartbeat.objects.create(host="a", pid=1, started_at=now - timedelta(hours=1))
    WorkerHeartbeat.objects.create(host="b", pid=2, beat_at=now - timedelta(seconds=60))

    first, second = present.workers()

    assert (first.host, first.is_alive) == ("a", True)
    assert (second.host, second.is_alive) == ("b", False)
    assert second.silent_seconds == pytest.approx(60, abs=5)


@pytest.mark.parametrize("rows", [1, 30])
def test_number_of_statements_does_not_depend_on_the_rows(
    add: Add, make_webhook: Callable[..., Webhook], django_assert_num_queries: Any, rows: int
) -> None:
    for _ in range(rows):
        add(webhook=make_webhook(), attempts=[(5, "timeout")], status="RETRYING")
    selection = Selection(NOON)

    with django_assert_num_queries(13):
        history.totals(selection)
        history.by_webhook(selection)
        history.by_type(selection)
        history.failures(selection)
        history.series(selection, "day")
        present.backlog()
        present.workers()


def test_hours_of_each_webhook_leave_empty_ones_out(
    add: Add, webhook: Webhook, make_webhook: Callable[..., Webhook]
) -> None:
    other = make_webhook(name="Other")
    add(NOON, "SUCCESS")
    add(NOON + timedelta(minutes=59), "RETRYING")
    add(NOON + timedelta(hours=2), "FAILED")
    add(NOON, "CANCELLED", webhook=other)

    found = history.series_by_webhook(Selection(NOON, NOON + timedelta(hours=3)))

    assert found == {
        webhook.pk: [
            Bucket(NOON, 2, succeeded=1, failed=0, cancelled=0, open=1),
            Bucket(NOON + timedelta(hours=2), 1, succeeded=0, failed=1, cancelled=0, open=0),
        ],
        other.pk: [Bucket(NOON, 1, succeeded=0, failed=0, cancelled=1, open=0)],
    }


def test_hours_have_latencies_without_redelivered_deliveries(add: Add) -> None:
    add(NOON, delivered_after=timedelta(milliseconds=30))
    add(NOON, delivered_after=timedelta(milliseconds=50))
    add(NOON, delivered_after=timedelta(hours=5), round=2)
    add(NOON + timedelta(hours=1), "FAILED")
    add(NOON + timedelta(hours=1), "RETRYING")

    found = overview.hours(Selection(NOON, NOON + timedelta(hours=2)))

    assert [(one.delivery_p50_ms, one.delivery_p95_ms) for one in found] == [(30, 50), (None, None)]
    assert [one.bucket for one in found] == history.series(
        Selection(NOON, NOON + timedelta(hours=2))
    )
    assert [one.retrying for one in found] == [0, 1]


def test_the_worst_webhooks_come_first(
    add: Add, webhook: Webhook, make_webhook: Callable[..., Webhook]
) -> None:
    bad = make_webhook(name="Bad")
    for _ in range(3):
        add(NOON)
    add(NOON, "FAILED", webhook=bad)
    add(NOON, "RETRYING", webhook=bad)
    add(NOON, "FAILED")
    day = Selection(NOON)

    assert [one.id for one in history.by_webhook(day)] == [webhook.pk, bad.pk]
    assert overview.worst(day, limit=1) == {bad.pk: Figures(deliveries=2, failed=1, retrying=1)}
    assert list(overview.worst(day, limit=5)) == [bad.pk, webhook.pk]


def test_the_last_error_is_of_the_latest_that_failed(
    add: Add, webhook: Webhook, make_webhook: Callable[..., Webhook]
) -> None:
    well = make_webhook(name="Well")
    add(NOON, "FAILED", failure_kind="dns", error="No such host.")
    add(
        NOON + timedelta(seconds=1), "RETRYING",
        failure_kind="http_status", response_code=503, error="It answered 503.",
    )  # fmt: skip
    add(NOON + timedelta(seconds=2))
    add(NOON, webhook=well)

    found = overview.last_errors(NOON, (webhook.pk, well.pk))

    assert found == {webhook.pk: overview.LastError("http_status", 503, "It answered 503.")}
    assert overview.last_errors(NOON + timedelta(hours=1), (webhook.pk,)) == {}


def test_events_since_counts_by_their_ids(add: Add, user: User) -> None:
    before = overview.events_since(timezone.now() - timedelta(minutes=1))
    add(timezone.now())

    assert overview.events_since(timezone.now() - timedelta(minutes=1)) == before + 1
    assert overview.events_since(timezone.now() + timedelta(minutes=1)) == 0


def test_the_delivered_rate_counts_retries_as_not_delivered() -> None:
    assert Figures(succeeded=9, retrying=1).delivered_rate == 0.9
    assert Figures(succeeded=9, retrying=1).success_rate == 1.0
    assert Figures(pending=4).delivered_rate is None


def test_webhook_at_its_limit_says_so(webhook: Webhook) -> None:
    other = new_id()
    for _ in range(2):
        WorkerHeartbeat.objects.create(
            host="h", pid=1, full_windows={webhook.id.hex: [8, 300], other.hex: [4, 2]}
        )
    dead = {"host": "h", "pid": 1, "full_windows": {webhook.id.hex: [8, 300]}}
    WorkerHeartbeat.objects.create(**dead, declared_dead_at=timezone.now())
    WorkerHeartbeat.objects.create(**dead, beat_at=timezone.now() - timedelta(minutes=5))

    assert present.full_window(webhook.id) == present.FullWindow(
        workers=2, requests=16, usual_ms=300
    )
    assert present.full_window(new_id()) is None


def test_waiting_counts_what_is_not_finished(webhook: Webhook, add: Add) -> None:
    add(finished_at=NOON)
    add(status="PENDING", order_key=7)
    add(status="RETRYING")
    add(status="SENDING")

    assert present.waiting(webhook) == 3


def test_waiting_stops_at_its_bound(
    webhook: Webhook, add: Add, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(present, "COUNTED_AT_MOST", 2)
    for order_key in (None, None, None, 1, 2):
        add(status="PENDING", order_key=order_key)

    assert present.waiting(webhook) == 3
