"""Which transactions delay ordered webhooks and the feed (invariant 13)."""

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from django.db import connection, transaction
from django.test import Client
from django.urls import reverse

from projects.models import User
from tests import clusters
from tests.clusters import connected_to
from tests.concurrency import another_connection
from tests.webhooks.claiming import head_may_go
from tests.webhooks.history import trigger
from tests.workers import running_worker, wait_until
from webhooks.figures import present
from webhooks.models import Webhook
from webhooks.outbox import feed
from webhooks.postgres import horizon
from webhooks.repair import doctor_work
from webhooks.repair.findings import Level
from webhooks.repair.housekeeping import ClusterWatch
from webhooks.workbench.receiver import HttpReceiver

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def ordered(make_webhook: Callable[..., Webhook], receiver: HttpReceiver) -> Webhook:
    return make_webhook(events=["project.deleted"], url=receiver.url, ordered=True)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a transaction of any duration count as long."""
    monkeypatch.setattr(horizon, "LONG_SECONDS", 0.0)


@pytest.fixture
def foreign() -> Iterator[psycopg.Connection[Any]]:
    """A transaction that writes in another database of the cluster."""
    settings = connection.settings_dict
    user = settings["USER"] or settings["OPTIONS"]["user"]
    with psycopg.connect(host=clusters.host(), user=user, dbname="template1") as other:
        other.execute("SELECT pg_current_xact_id()")
        yield other
        other.rollback()


@pytest.fixture
def forgotten() -> Iterator[psycopg.Connection[Any]]:
    """A transaction that writes in this database."""
    with another_connection() as other:
        other.execute("SET application_name = 'nightly-import'")
        other.execute("SELECT pg_current_xact_id()")
        yield other
        with suppress(psycopg.OperationalError):
            other.rollback()


def may_go(webhook: Webhook) -> bool:
    return head_may_go(webhook.id)


def test_transaction_of_another_database_does_not_hold_the_horizon_back(
    user: User, ordered: Webhook, receiver: HttpReceiver, at_once: None, foreign: object
) -> None:
    start = feed.read(None).next
    events = trigger(user, 2) + trigger(user, 1)

    with running_worker():
        wait_until(lambda: len(receiver.requests) == 3)

    assert [event.id for event in feed.read(start).events] == [e.public_id for e in events]
    assert horizon.holder() is None
    assert [found.level for found in doctor_work.check_order()] == [Level.OK]


def test_role_that_may_see_nothing_of_others_knows_their_database(
    foreign: psycopg.Connection[Any], forgotten: psycopg.Connection[Any]
) -> None:
    sql = "SELECT webhooks_horizon()::text::bigint"
    current = "SELECT pg_current_xact_id()::text::bigint"
    theirs, ours = foreign.execute(current).fetchone(), forgotten.execute(current).fetchone()
    with another_connection() as other:
        # So that the snapshot has something behind them.
        other.execute(current)
        other.commit()
        other.execute("CREATE ROLE sees_nothing")
        other.execute("SET ROLE sees_nothing")
        hidden = "SELECT count(state) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"

        assert other.execute(hidden).fetchone() == (0,)
        assert theirs is not None
        assert ours is not None
        assert theirs < ours
        assert other.execute(sql).fetchone() == ours
        other.rollback()


def test_long_transaction_knows_the_later_ones_of_other_databases(
    foreign: psycopg.Connection[Any],
) -> None:
    """Postgres caches the list of sessions for a transaction."""
    current = "SELECT pg_current_xact_id()::text::bigint"
    with another_connection() as other, transaction.atomic(), connection.cursor() as cursor:
        other.autocommit = True
        other.execute(current)
        cursor.execute("SELECT webhooks_horizon()")
        foreign.rollback()
        foreign.execute(current)
        last = other.execute(current).fetchone()

        cursor.execute("SELECT webhooks_horizon()::text::bigint - 1")
        assert cursor.fetchone() == last


def test_replication_slots_do_not_hold_the_horizon_back(
    user: User, ordered: Webhook, at_once: None
) -> None:
    slot = "pg_create_physical_replication_slot('forgotten', true, false)"
    with another_connection() as other:
        other.autocommit = True
        other.execute(f"SELECT {slot}")
        try:
            trigger(user)

            assert may_go(ordered)
            assert horizon.holder() is None
        finally:
            other.execute("SELECT pg_drop_replication_slot('forgotten')")


def test_holder_is_named_by_doctor_log_and_queue_page(
    user: User,
    ordered: Webhook,
    at_once: None,
    forgotten: psycopg.Connection[Any],
    caplog: pytest.LogCaptureFixture,
    admin_client: Client,
) -> None:
    trigger(user)
    settings = connection.settings_dict
    who = (
        f"pid {forgotten.info.backend_pid}, database {settings['NAME']}, application "
        f"nightly-import, user {settings['USER'] or settings['OPTIONS']['user']}, "
        "idle in transaction"
    )

    (found,) = doctor_work.check_order()
    with caplog.at_level(logging.WARNING, "webhooks.repair.housekeeping"):
        ClusterWatch().look()
    page = admin_client.get(reverse("admin:webhooks_workerheartbeat_changelist")).content.decode()

    assert found.level == Level.WARNING
    assert re.fullmatch(
        rf"A transaction that writes has been open for \d+ s: {who}\. "
        r"Ordered webhooks and the feed wait for it to end\.",
        found.message,
    )
    assert found.mend == (
        f'manage.py dbshell -- -c "SELECT pg_terminate_backend({forgotten.info.backend_pid})"'
    )
    assert who in caplog.messages[-1]
    assert who in page
    with connection.cursor() as cursor:
        cursor.execute(re.search('"(.+)"', found.mend)[1])  # type: ignore[index]
    wait_until(lambda: horizon.holder() is None)
    assert may_go(ordered)


def test_holder_is_no_reason_for_more_workers(
    user: User, ordered: Webhook, forgotten: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor_work, "OLD_BACKLOG_SECONDS", 0)
    trigger(user, 3)

    assert not may_go(ordered)
    assert [found.level for found in doctor_work.check_backlog()] == [Level.OK]
    assert (present.backlog().due, present.backlog().held) == (0, 3)


def test_reader_and_short_transactions_are_not_named(user: User) -> None:
    with another_connection() as reader:
        reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
        trigger(user)

        assert horizon.holder() is None


def test_prepared_transaction_is_named_and_one_of_another_database_passed_over(
    user: User, ordered: Webhook, at_once: None
) -> None:
    trigger(user)
    name = connection.settings_dict["NAME"]
    with clusters.dump() as file, clusters.new_cluster(max_prepared_transactions="2") as cluster:
        clusters.restore(file, cluster, name)
        with connected_to(cluster, name):
            prepare(cluster, "postgres", "foreign")
            trigger(user)
            assert horizon.holder() is None
            assert may_go(ordered)

            prepare(cluster, name, "it's ours")
            start = feed.read(None).next
            trigger(user)
            assert feed.read(start).events == []
            (found,) = doctor_work.check_order()
            assert f'prepared as "it\'s ours", database {name}, user' in found.message

            with connection.cursor() as cursor:
                cursor.execute(re.search('"(.+)"', found.mend)[1])  # type: ignore[index]
            assert len(feed.read(start).events) == 1


def prepare(cluster: clusters.Cluster, database: str, name: str) -> None:
    with cluster.connect(database) as other:
        other.execute("BEGIN; SELECT pg_current_xact_id()")
        other.execute("PREPARE TRANSACTION '" + name.replace("'", "''") + "'")


def test_horizon_never_passes_a_transaction_that_may_still_store_events(
    user: User, foreign: psycopg.Connection[Any], forgotten: psycopg.Connection[Any]
) -> None:
    start = feed.read(None).next
    with another_connection() as first, another_connection() as second:
        for other in (second, first):
            other.execute(
                "INSERT INTO webhooks_event (id, type, payload, fanout_count, object_reference)"
                " VALUES (gen_random_uuid(), 'project.deleted', '{}', 0, '')"
            )
        foreign.rollback()
        forgotten.rollback()
        first.commit()
        held_back = feed.read(start)
        second.commit()

    assert held_back.events == []
    assert len(feed.read(held_back.next).events) == 2
