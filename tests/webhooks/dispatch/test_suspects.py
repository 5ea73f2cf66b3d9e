"""Which suspects go out together, and that they obey what other deliveries obey."""

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from uuid import UUID

import pytest
from django.db import connection, transaction
from django.db.models.functions import Now

from projects.models import User
from tests.concurrency import another_connection
from tests.webhooks.claiming import claim_due, claim_suspects
from tests.webhooks.history import trigger
from webhooks.dispatch import life, records
from webhooks.dispatch.engine import run_suspects
from webhooks.dispatch.suspects import (
    ALONE,
    GROUP_SIZES,
    Count,
    count_by_level,
    level_for,
)
from webhooks.ids import new_id
from webhooks.models import Delivery, Webhook
from webhooks.postgres.sql import set_up_connection
from webhooks.workbench.receiver import HttpReceiver

pytestmark = pytest.mark.django_db(transaction=True)

ROOM = 1000


def new_worker() -> UUID:
    worker_id = new_id()
    life.register_worker(worker_id)
    return worker_id


def claim(worker_id: UUID, level: int = 0, *, limit: int = 512, room: int = ROOM) -> list[UUID]:
    """Claim suspects and return the webhooks of those that were taken."""
    taken = claim_suspects(
        worker_id, level=level, limit=limit, room_of=lambda _, most: min(room, most)
    )
    return [delivery.webhook_id for delivery in taken.deliveries]


def crash(worker_id: UUID) -> None:
    life.declare_dead([worker_id])
    life.take_back()


def levels() -> Counter[int]:
    return Counter(Delivery.objects.filter(is_suspect=True).values_list("suspect_level", flat=True))


@pytest.mark.parametrize(
    ("count", "level"), [(1, 3), (8, 3), (9, 2), (64, 2), (65, 1), (512, 1), (513, 0), (9999, 0)]
)
def test_suspects_begin_in_groups_as_small_as_their_number_allows(count: int, level: int) -> None:
    assert level_for(count) == level


def test_each_death_makes_the_groups_of_those_it_concerns_smaller(
    user: User, make_webhook: Callable[..., Webhook]
) -> None:
    make_webhook(events=["project.deleted"])
    trigger(user, 100)
    worker = new_worker()
    claim_due(worker, limit=100, room_of=lambda *_: 100)
    crash(worker)
    assert levels() == {1: 100}

    for level in range(1, ALONE):
        group = new_worker()
        claim(group, level, limit=GROUP_SIZES[level])
        crash(group)

    assert levels() == {1: 100 - 64, 2: 64 - 8, 3: 8}
    assert Delivery.objects.filter(finished_at=None).count() == 100


def test_deaths_one_after_the_other_do_not_send_too_many_out_alone(
    user: User, make_webhook: Callable[..., Webhook]
) -> None:
    make_webhook(events=["project.deleted"])
    trigger(user, 40)
    workers = [new_worker() for _ in range(5)]
    for worker in workers:
        claim_due(worker, limit=8, room_of=lambda *_: 8)

    for worker in workers:
        crash(worker)

    assert levels() == {3: 8, 2: 32}


def test_owners_come_in_turn(
    user: User, other_user: User, make_webhook: Callable[..., Webhook]
) -> None:
    busy = make_webhook(events=["project.deleted"])
    quiet = make_webhook(owner=other_user, events=["project.deleted"])
    trigger(user, 50)
    trigger(other_user, 1)
    Delivery.objects.update(is_suspect=True)

    assert set(claim(new_worker(), limit=2)) == {busy.id, quiet.id}


def test_rate_limit_holds_for_suspects_and_is_spent_by_them(
    user: User, make_webhook: Callable[..., Webhook]
) -> None:
    webhook = make_webhook(events=["project.deleted"], rate_limit=5)
    trigger(user, 20)
    Delivery.objects.update(is_suspect=True)
    assert count_by_level() == {0: Count(due=5, in_flight=0)}

    assert len(claim(new_worker())) == 5

    assert claim(new_worker()) == []
    assert count_by_level() == {0: Count(due=0, in_flight=5)}
    webhook.refresh_from_db()
    assert webhook.rate_ready_at is not None
    # It is one allowance for all.
    Delivery.objects.filter(claimed_by=None).update(is_suspect=False)
    assert claim_due(new_worker(), limit=20, room_of=lambda *_: 20).deliveries == []


def test_suspect_is_the_probe_of_an_open_breaker(
    user: User, make_webhook: Callable[..., Webhook]
) -> None:
    webhook = make_webhook(events=["project.deleted"])
    trigger(user, 5)
    Delivery.objects.update(is_suspect=True)
    later = Now() + timedelta(minutes=1)
    Webhook.objects.update(breaker_state="open", breaker_probe_at=later)
    assert (count_by_level(), claim(new_worker())) == ({}, [])
    # So far ahead only because Postgres' clock was set back.
    Webhook.objects.update(breaker_probe_at=Now() + timedelta(hours=1))
    assert count_by_level() == {0: Count(due=1, in_flight=0)}
    Webhook.objects.update(breaker_probe_at=Now())
    assert count_by_level() == {0: Count(due=1, in_flight=0)}

    assert claim(new_worker()) == [webhook.id]

    assert claim(new_worker()) == []
    webhook.refresh_from_db()
    assert webhook.breaker_state == "half_open"


def test_window_of_a_webhook_holds_for_suspects(
    user: User, make_webhook: Callable[..., Webhook]
) -> None:
    webhook = make_webhook(events=["project.deleted"])
    trigger(user, 20)
    Delivery.objects.update(is_suspect=True)

    taken = claim_suspects(new_worker(), level=0, limit=512, room_of=lambda *_: 4)

    assert len(taken.deliveries) == 4
    assert {delivery.webhook_id for delivery in taken.deliveries} == {webhook.id}
    full = claim_suspects(new_worker(), level=0, limit=512, room_of=lambda *_: 0)
    assert full.deliveries == []


def rows_read() -> int:
    """Return how many rows of deliveries this transaction has read."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT idx_tup_fetch + seq_tup_read FROM pg_stat_xact_user_tables"
            " WHERE relname = 'webhooks_delivery'"
        )
        return int(cursor.fetchone()[0])


WAITING_SQL = """
INSERT INTO webhooks_delivery
    (id, event_id, webhook_id, owner_id, event_type, status, attempt_count, round,
     attempts_before_round, is_suspect, crash_count, failure_kind, error)
SELECT gen_random_uuid(), gen_random_uuid(), %s, %s, 'project.deleted', 'PENDING', 0, 1, 0, false, 0,
       '', ''
  FROM generate_series(1, 50000)
"""


def test_suspects_are_found_without_reading_what_waits_beside_them(
    user: User, make_webhook: Callable[..., Webhook]
) -> None:
    webhook = make_webhook(events=["project.deleted"])
    trigger(user, 20)
    Delivery.objects.update(is_suspect=True)
    worker = new_worker()
    with connection.cursor() as cursor:
        cursor.execute(WAITING_SQL, [webhook.id, user.id])
    # As a worker's: no statistics tell it how large the table has become.
    connection.close()
    set_up_connection("a worker")

    with transaction.atomic():
        assert count_by_level() == {0: Count(due=20, in_flight=0)}
        assert len(claim(worker)) == 20
        assert rows_read() < 1000


@pytest.mark.parametrize("table", ["webhooks_webhook", "webhooks_delivery"])
def test_what_somebody_locked_is_left_and_nobody_waits(
    user: User, make_webhook: Callable[..., Webhook], table: str
) -> None:
    locked = make_webhook(events=["project.deleted"], rate_limit=5)
    free = make_webhook(name="Free", events=["project.deleted"], rate_limit=5)
    trigger(user, 1)
    Delivery.objects.update(is_suspect=True)

    with another_connection() as other:
        column = "id" if table == "webhooks_webhook" else "webhook_id"
        other.execute(f"SELECT FROM {table} WHERE {column} = %s FOR UPDATE", [locked.id])
        assert claim(new_worker()) == [free.id]
    assert claim(new_worker()) == [locked.id]


def test_result_of_a_lone_suspect_waits_for_nothing(
    user: User,
    make_webhook: Callable[..., Webhook],
    receiver: HttpReceiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The next one goes out only when it is written."""
    monkeypatch.setattr(records, "PAUSE_SECONDS", 60.0)
    monkeypatch.setattr(records, "SETTLE_SECONDS", 60.0)
    make_webhook(url=receiver.url, events=["project.deleted"])
    trigger(user, 3)
    worker = new_worker()
    claim_due(worker, limit=3, room_of=lambda *_: 3)
    crash(worker)
    assert levels() == {ALONE: 3}

    run_suspects()

    assert Delivery.objects.filter(status="SUCCESS").count() == 3
