"""An installation whose attempts are in one table gets partitions while its workers settle."""

import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.db.utils import OperationalError
from django.utils import timezone

from projects.models import User
from tests.concurrency import another_connection, in_thread
from tests.webhooks.history import finish, make_older, succeeded, trigger
from tests.webhooks.models.test_migrations import migrate
from webhooks.dispatch.settle import settle
from webhooks.ids import first_id_of, new_id
from webhooks.models import Attempt, Delivery, Webhook
from webhooks.repair import integrity, partitions

pytestmark = pytest.mark.django_db(transaction=True)

DAY = timedelta(days=1)
BEFORE = "0040_expiring_partitions"
OLD = "webhooks_attempt_before"


@pytest.fixture(autouse=True)
def one_table(user: User, make_webhook: Callable[..., Webhook]) -> Iterator[None]:
    """The table as it was, and after the test the partitions of a new installation."""
    make_webhook(events=["project.deleted"])
    migrate(BEFORE)
    yield
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE webhooks_attempt, webhooks_delivery")
    migrate(BEFORE)
    migrate()


def one(sql: str, *parameters: Any) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetchone()[0]


def names() -> list[str]:
    return [one.name for one in partitions.partitions()]


def settle_one(user: User) -> None:
    worker = new_id()
    trigger(user, 1)
    delivery = Delivery.objects.get(finished_at=None, claimed_by=None)
    Delivery.objects.filter(id=delivery.id).update(claimed_by=worker, status="SENDING")
    assert settle(worker, [succeeded(delivery.id)]).written


def test_empty_table_gives_way_to_days() -> None:
    migrate()

    assert OLD not in names()
    assert len(names()) == partitions.AHEAD_DAYS + 2


def test_stored_attempts_stay_where_they_are_and_new_ones_are_found_beside_them(
    user: User,
) -> None:
    trigger(user, 30)
    finish()
    make_older(40 * DAY)
    before = list(Attempt.objects.order_by("id").values())
    file = one("SELECT pg_relation_filenode('webhooks_attempt')")

    migrate()
    settle_one(user)

    assert one("SELECT pg_relation_filenode('webhooks_attempt_before')") == file
    assert names()[0] == OLD
    assert list(Attempt.objects.order_by("id").values())[:30] == before
    assert Attempt.objects.count() == 31
    assert list(integrity.find_faults()) == []
    # Its indexes of before serve: none was made while everybody waited.
    assert one("SELECT count(*) FROM pg_index WHERE indrelid = %s::regclass", OLD) == 2
    until = partitions.covered_until()
    assert until is not None
    assert until > timezone.now() + 6 * DAY


def test_rows_of_a_clock_ahead_do_not_stop_it(user: User) -> None:
    trigger(user, 2)
    finish()
    make_older(-10 * DAY)

    migrate()

    assert partitions.partitions()[0].end_id > first_id_of(timezone.now() + 11 * DAY)
    settle_one(user)
    assert Attempt.objects.count() == 3


MORE_SQL = """
INSERT INTO webhooks_attempt (id, delivery_id, number, started_at, duration_ms, url, request_head,
                              response_code, is_truncated, failure_kind, error)
SELECT gen_random_uuid(), id, number, created_at, 7, 'http://127.0.0.1:9/hook', repeat('x', 200), 200,
       false, '', ''
  FROM webhooks_delivery, generate_series(2, %(each)s) AS number;
UPDATE webhooks_delivery SET attempt_count = %(each)s
"""


@pytest.mark.parametrize("each", [1, pytest.param(2000, marks=pytest.mark.full)])
def test_no_save_and_no_settle_waits_for_it(
    user: User, each: int, record_property: Callable[[str, object], None]
) -> None:
    trigger(user, 1000)
    finish()
    with connection.cursor() as cursor:
        for statement in MORE_SQL.split(";"):
            cursor.execute(statement, {"each": each})
    slowest, settled, is_over = 0.0, 0, threading.Event()

    def settle_on() -> None:
        nonlocal slowest, settled
        while not is_over.is_set():
            started_at = time.monotonic()
            settle_one(user)
            slowest = max(slowest, time.monotonic() - started_at)
            settled += 1

    def settle_some_more() -> None:
        goal = settled + 5
        while settled < goal:
            assert settling.is_alive()
            time.sleep(0.01)

    settling = in_thread(settle_on)
    try:
        settle_some_more()
        started_at = time.monotonic()
        migrate()
        record_property("migration_seconds", time.monotonic() - started_at)
        settle_some_more()
    finally:
        is_over.set()
        settling.join()

    record_property("slowest_seconds", slowest)
    assert slowest < 0.5
    assert Attempt.objects.count() == 1000 * each + settled
    assert list(integrity.find_faults()) == []


def test_it_gives_way_to_a_reader_and_is_repeated(user: User) -> None:
    trigger(user, 5)
    finish()

    with another_connection() as reader:
        reader.execute("SELECT FROM webhooks_attempt")
        with pytest.raises(OperationalError, match="lock timeout"):
            migrate()
        settle_one(user)
    migrate()

    assert names()[0] == OLD
    assert Attempt.objects.count() == 6


@pytest.mark.parametrize("days", [-2000, 0, 5])
def test_bound_that_was_left_behind_is_used_while_it_lies_ahead(user: User, days: int) -> None:
    trigger(user, 5)
    finish()
    bound = first_id_of(timezone.now() + days * DAY)
    with connection.cursor() as cursor:
        cursor.execute(
            "ALTER TABLE webhooks_attempt ADD CONSTRAINT attempt_of_before"
            f" CHECK (delivery_id < '{bound}'::uuid) NOT VALID"
        )

    migrate()

    end = partitions.partitions()[0].end_id
    assert (end == bound) == (days == 5)
    assert end > first_id_of(timezone.now() + DAY)
    assert one("SELECT count(*) FROM pg_constraint WHERE conname = 'attempt_of_before'") == 0
    settle_one(user)


def test_roles_keep_what_they_may_do(user: User) -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE ROLE reporting")
        cursor.execute("GRANT SELECT ON webhooks_attempt TO reporting")
    try:
        trigger(user, 1)
        finish()
        migrate()

        assert one("SELECT has_table_privilege('reporting', 'webhooks_attempt', 'SELECT')")
        assert not one("SELECT has_table_privilege('reporting', 'webhooks_attempt', 'INSERT')")
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP OWNED BY reporting; DROP ROLE reporting")
