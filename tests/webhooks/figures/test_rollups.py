"""Roll-ups change no figure: with them, everything is counted as from the deliveries themselves."""

import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from projects.models import User
from tests.concurrency import another_connection
from tests.webhooks.figures.test_stats import Add, add, webhook  # noqa: F401 (fixtures)
from tests.webhooks.history import trigger
from webhooks import service
from webhooks.choices import DeliveryStatus
from webhooks.figures import history, overview
from webhooks.figures.cells import hour_of
from webhooks.figures.history import Selection
from webhooks.models import Attempt, Delivery, HourFigures, ReopenedHour, RolledUp, Webhook
from webhooks.postgres.sql import query
from webhooks.repair import redelivery_batches, retention, rollups

pytestmark = pytest.mark.django_db(transaction=True)

NOW = timezone.now()
START = (NOW - timedelta(hours=80)).replace(minute=0, second=0, microsecond=0)


def roll_all() -> None:
    ReopenedHour.objects.update(due_at=timezone.now())
    # To begin, to note what is to be waited for, and to look whether it has ended.
    for _ in range(4):
        while rollups.roll_up(share=1):
            pass


def everything(webhooks: list[Webhook], owner: User) -> list[Any]:
    found: list[Any] = []
    for since, until in (
        (START, None),
        (START + timedelta(minutes=20), START + timedelta(hours=70, minutes=40)),
        (START + timedelta(hours=3), START + timedelta(hours=4)),
        (START + timedelta(hours=3, minutes=5), START + timedelta(hours=3, minutes=50)),
    ):
        # The same end in all comparisons.
        until = until or NOW
        for selection in (
            Selection(since, until),
            Selection(since, until, owner_id=owner.pk),
            Selection(since, until, webhook_ids=(webhooks[0].pk,)),
        ):
            found += [
                history.totals(selection),
                history.by_webhook(selection),
                history.by_type(selection),
                history.failures(selection),
                history.series(selection),
                history.series(selection, "day"),
                history.series_by_webhook(selection),
                overview.hours(selection),
                overview.hours(selection, "day"),
                overview.worst(selection, limit=3),
            ]
    return found


@pytest.fixture
def webhooks(
    add: Add,  # noqa: F811
    make_webhook: Callable[..., Webhook],
    other_user: User,
) -> list[Webhook]:
    """Webhooks of two owners with deliveries of eighty hours, of every kind."""
    dice = random.Random(7)
    made = [make_webhook(name=str(number)) for number in range(3)]
    made.append(make_webhook(owner=other_user))
    for _ in range(300):
        status = dice.choice(
            ["SUCCESS"] * 12
            + ["FAILED", "FAILED", "CANCELLED", *(["RETRYING", "PENDING"] * (dice.random() < 0.1))]
        )
        kinds = ["http_status", "timeout", "dns"]
        failed = [(dice.randrange(5, 400), dice.choice(kinds)) for _ in range(dice.randrange(3))]
        add(
            START + timedelta(seconds=dice.uniform(0, 80 * 3600 - 60)),
            status,
            webhook=dice.choice(made),
            event_type=dice.choice(["session.ended", "project.created"]),
            attempts=failed + [(dice.randrange(5, 60), "")] * (status == "SUCCESS"),
            delivered_after=timedelta(milliseconds=dice.randrange(5, 900))
            if status == "SUCCESS"
            else None,
            round=dice.choice([1, 1, 1, 2]),
            crash_count=dice.choice([0, 0, 3]),
        )
    # Some are created in the hour before that of their ids, by a transaction that took long.
    late = Delivery.objects.order_by("?").values_list("id", flat=True)[:10]
    for delivery in Delivery.objects.filter(id__in=list(late)):
        Delivery.objects.filter(id=delivery.id).update(
            created_at=delivery.created_at - timedelta(minutes=30)
        )
    return made


def test_figures_are_the_same_with_roll_ups(
    webhooks: list[Webhook], user: User, django_assert_max_num_queries: Any
) -> None:
    before = everything(webhooks, user)
    assert history.totals(Selection(START)).deliveries == 300

    roll_all()

    state = RolledUp.objects.get()
    assert state.first_hour <= hour_of(START) + 1
    assert state.end_hour >= hour_of(NOW) - 1
    assert HourFigures.objects.filter(hours=1).count() > 100
    assert HourFigures.objects.filter(hours=24).count() > 10
    assert everything(webhooks, user) == before
    # Not from the deliveries: an hour without them still has its figures.
    hour = HourFigures.objects.filter(hours=1).order_by("hour").values_list("hour", flat=True)[20]
    rolled = datetime.fromtimestamp(hour * 3600, UTC)
    selection = Selection(rolled, rolled + timedelta(hours=1))
    counted = history.totals(selection)
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM webhooks_attempt")
    if not ReopenedHour.objects.filter(hour=hour).exists():
        assert history.totals(selection) == counted


def test_redelivered_and_purged_hours_are_counted_anew(webhooks: list[Webhook], user: User) -> None:
    roll_all()
    assert everything(webhooks, user) == _counted_anew(webhooks, user)

    redelivery_batches.run(service.redeliver(service.Scope(webhook_id=webhooks[0].pk)).id)
    assert Delivery.objects.filter(round__gt=1, status=DeliveryStatus.PENDING).exists()
    assert everything(webhooks, user) == _counted_anew(webhooks, user)

    Delivery.objects.filter(status=DeliveryStatus.PENDING).update(
        status="SUCCESS", finished_at=NOW, delivered_at=NOW, next_attempt_at=None
    )
    roll_all()
    assert everything(webhooks, user) == _counted_anew(webhooks, user)

    policy = retention.Policy(START + timedelta(hours=50))
    assert sum(one.deliveries for one in retention.purge(policy, share=1)) > 50
    assert everything(webhooks, user) == _counted_anew(webhooks, user)
    roll_all()
    assert everything(webhooks, user) == _counted_anew(webhooks, user)
    open_now = Delivery.objects.filter(finished_at=None).values_list("webhook_id", flat=True)
    assert set(ReopenedHour.objects.values_list("webhook_id", flat=True)) <= set(open_now)


def _counted_anew(webhooks: list[Webhook], user: User) -> list[Any]:
    """The figures without roll-ups."""
    state = RolledUp.objects.get()
    RolledUp.objects.all().delete()
    found = everything(webhooks, user)
    state.save(force_insert=True)
    return found


def test_hour_waits_for_transactions_that_may_add_to_it(
    webhooks: list[Webhook], user: User
) -> None:
    with another_connection() as other:
        other.execute("BEGIN; SELECT pg_current_xact_id()")
        roll_all()
        state = RolledUp.objects.get()
        assert state.end_hour == state.first_hour
        other.execute("COMMIT")
    roll_all()
    assert RolledUp.objects.get().end_hour >= hour_of(NOW) - 1


def test_change_while_an_hour_is_rolled_up_reopens_it(webhooks: list[Webhook], user: User) -> None:
    roll_all()
    scope = service.Scope(webhook_id=webhooks[1].pk)
    before = set(ReopenedHour.objects.values_list("id", flat=True))
    redelivery_batches.run(service.redeliver(scope).id)
    reopened = ReopenedHour.objects.exclude(id__in=before)
    assert reopened.exists()
    assert set(reopened.values_list("webhook_id", flat=True)) == {webhooks[1].pk}
    assert Attempt.objects.exists()
    # They stay unfinished, and so reopened, however often the chore looks.
    roll_all()
    assert ReopenedHour.objects.filter(webhook_id=webhooks[1].pk).exists()
    assert everything(webhooks, user) == _counted_anew(webhooks, user)


def test_new_installation_begins_now(user: User, make_webhook: Callable[..., Webhook]) -> None:
    roll_all()
    state = RolledUp.objects.get()
    assert state.first_hour == hour_of(timezone.now())
    make_webhook(events=["project.deleted"])
    trigger(user, 3)
    assert history.totals(Selection(NOW)).deliveries == 3


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The plans of all statements of figures from now on, as they were carried out."""
    kept: list[Any] = []

    def explained(sql: str, parameters: Any = None) -> Any:
        if "chosen" not in sql:
            return query(sql, parameters)
        ((plan,),) = query("EXPLAIN (ANALYZE, FORMAT JSON) " + sql, parameters)
        kept.append(plan[0]["Plan"])
        return []

    for module in (rollups, history, overview):
        monkeypatch.setattr(module, "query", explained)
    return kept


def test_each_part_of_the_figures_is_computed_once(
    add: Add,  # noqa: F811
    make_webhook: Callable[..., Webhook],
    plans: list[Any],
) -> None:
    for number in range(20):
        add(
            START + timedelta(minutes=5), webhook=make_webhook(name=str(number)), attempts=[(7, "")]
        )

    history.by_webhook(Selection(START))
    history.by_type(Selection(START))
    overview.hours(Selection(START))
    roll_all()

    assert HourFigures.objects.filter(hours=1).count() == 20
    assert len(plans) > 4
    assert {
        node["Actual Loops"]
        for plan in plans
        for node in nodes_of(plan)
        if node["Node Type"] == "Aggregate"
    } <= {0, 1}


def nodes_of(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a node of a plan and all below it."""
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes_of(child)
