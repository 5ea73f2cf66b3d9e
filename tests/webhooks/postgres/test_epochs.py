"""Order and cursors stay valid when the cluster, and so the transaction ids, change (invariant 13)."""

from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest
from django.core.management import call_command
from django.db import connection, transaction

from projects.models import User
from tests import clusters
from tests.clusters import Cluster, connected_to
from tests.concurrency import another_connection, in_thread
from tests.webhooks.claiming import head_may_go
from tests.webhooks.history import trigger
from tests.workers import running_worker, wait_until
from webhooks.dispatch.suspects import count_by_level
from webhooks.errors import CursorForeignError
from webhooks.models import Delivery, Epoch, Event, Webhook
from webhooks.outbox import feed
from webhooks.postgres import epoch
from webhooks.repair import doctor_work
from webhooks.repair.findings import Level
from webhooks.workbench.receiver import HttpReceiver

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def recorded(db: None) -> None:
    """Restore the state after the migration, because tests empty all tables."""
    record()


@pytest.fixture
def ordered(make_webhook: Callable[..., Webhook], receiver: HttpReceiver) -> Webhook:
    return make_webhook(events=["project.deleted"], url=receiver.url, ordered=True)


@pytest.fixture(scope="module")
def younger() -> Iterator[Cluster]:
    with clusters.new_cluster() as cluster:
        yield cluster


def ids(events: list[Event]) -> list[str]:
    return [event.public_id for event in events]


def in_order() -> list[UUID]:
    return list(
        Delivery.objects.order_by("epoch", "order_key", "id").values_list("event_id", flat=True)
    )


def read_all(after: str) -> list[str]:
    found: list[str] = []
    while (page := feed.read(after)).events or page.has_more:
        found += [event.id for event in page.events]
        after = page.next
    return found


def current_epoch() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT webhooks_current_epoch()")
        return int(cursor.fetchone()[0])


def record() -> bool:
    connection.ensure_connection()
    return epoch.record(connection.connection)


def delivered_in_order(receiver: HttpReceiver, events: list[Event]) -> None:
    """Run a worker until the receiver has all of these events, and compare their order."""
    with running_worker():
        wait_until(lambda: len(receiver.requests) >= len(events), seconds=60)
    assert [request.event_id for request in receiver.requests] == ids(events)


def test_events_of_a_restored_dump_precede_later_ones(
    user: User, ordered: Webhook, receiver: HttpReceiver, younger: Cluster
) -> None:
    start = feed.read(None).next
    clusters.burn_transaction_ids(5_000)
    old = trigger(user, 9) + trigger(user, 10)
    cursor = feed.read(start, limit=12).next
    with clusters.dump() as file:
        clusters.restore(file, younger, "restored")

    with connected_to(younger, "restored"):
        # Nobody has looked at the new server yet, no worker and no doctor.
        new = [event for _ in range(5) for event in trigger(user)]

        assert in_order() == [event.id for event in old + new]
        assert read_all(cursor) == ids((old + new)[12:])
        assert [found.level for found in doctor_work.check_order()] == [Level.OK]
        delivered_in_order(receiver, old + new)
        assert read_all(cursor) == ids((old + new)[12:])


def test_dump_of_a_restored_database_may_be_restored_again(
    user: User, ordered: Webhook, younger: Cluster
) -> None:
    clusters.burn_transaction_ids(5_000)
    start = feed.read(None).next
    events = trigger(user, 2)
    with clusters.dump() as first:
        clusters.restore(first, younger, "once")
    with connected_to(younger, "once"):
        events += trigger(user, 2)
        with clusters.dump() as second:
            clusters.restore(second, younger, "beside")
        with clusters.new_cluster() as youngest, clusters.dump() as second:
            clusters.restore(second, youngest, "twice")
            with connected_to(youngest, "twice"):
                last = trigger(user, 2)
                assert in_order() == [event.id for event in events + last]
                assert current_epoch() == 3
    with connected_to(younger, "beside"):
        # The ids of one cluster go on in all of its databases.
        assert current_epoch() == 2
        last = trigger(user, 2)
        assert in_order() == [event.id for event in events + last]
        assert read_all(start) == ids(events + last)


def test_order_holds_after_failover_to_a_standby_without_the_last_events(
    user: User, ordered: Webhook, receiver: HttpReceiver
) -> None:
    name = connection.settings_dict["NAME"]
    start = feed.read(None).next
    old = trigger(user, 3)
    with clusters.folder() as home, clusters.standby(home) as promoted:
        trigger(user, 20)
        clusters.burn_transaction_ids(50)
        trigger(user, 1)
        page = feed.read(start)
        with connected_to(promoted, name):
            assert read_all(start) == ids(old)
            with promoted.connect() as maintenance:
                maintenance.execute("SELECT pg_promote()")
            new = [event for _ in range(5) for event in trigger(user)]

            assert in_order() == [event.id for event in old + new]
            # The reader is ahead of what this server has ever seen, and misses nothing of it.
            assert read_all(page.next) == ids(new)
            assert read_all(start) == ids(old + new)
            delivered_in_order(receiver, old + new)
            assert Epoch.objects.count() == 2


@pytest.mark.full
def test_order_holds_after_an_upgrade_of_the_cluster(user: User, ordered: Webhook) -> None:
    start = feed.read(None).next
    old = trigger(user, 2)
    with clusters.upgraded() as cluster, connected_to(cluster, connection.settings_dict["NAME"]):
        new = trigger(user, 1) + trigger(user, 1)

        assert in_order() == [event.id for event in old + new]
        assert read_all(start) == ids(old + new)
        assert current_epoch() == 2


def test_order_holds_after_the_switch_to_a_logical_copy(
    user: User, ordered: Webhook, younger: Cluster
) -> None:
    start = feed.read(None).next
    old = trigger(user, 2)
    with (
        clusters.dump() as file,
        clusters.dump("--schema-only") as schema,
        clusters.new_cluster(wal_level="logical") as publisher,
    ):
        clusters.restore(file, publisher, "moving")
        clusters.restore(schema, younger, "moving")
        with connected_to(publisher, "moving"):
            clusters.burn_transaction_ids(10_000)
            old += trigger(user, 2)
            assert record()
            cursor = feed.read(start, limit=3).next
            replicate(
                publisher, younger, "moving", until=len(old), then=lambda: old.extend(trigger(user))
            )
    with connected_to(younger, "moving"):
        new = trigger(user, 1) + trigger(user, 1)

        assert in_order() == [event.id for event in old + new]
        assert read_all(start) == ids(old + new)
        assert read_all(cursor) == ids((old + new)[3:])


def replicate(
    publisher: Cluster, subscriber: Cluster, database: str, *, until: int, then: Callable[[], Any]
) -> None:
    """Replicate all tables, write, wait until the copy has the write, and end the replication."""
    count = "SELECT count(*) FROM webhooks_delivery"
    # Tables are copied one by one; from then on their transactions arrive whole.
    uncopied = "SELECT count(*) FROM pg_subscription_rel WHERE srsubstate <> 'r'"
    with publisher.connect(database) as source, subscriber.connect(database) as target:
        source.execute("CREATE PUBLICATION everything FOR ALL TABLES")
        target.execute(
            "CREATE SUBSCRIPTION moving CONNECTION"
            f" 'host={publisher.home} dbname={database} user={source.info.user}'"
            " PUBLICATION everything"
        )
        wait_until(lambda: target.execute(uncopied).fetchone() == (0,), seconds=60)
        assert target.execute(count).fetchone() == (until,)
        then()
        wait_until(lambda: target.execute(count).fetchone() == (until + 1,), seconds=60)
        target.execute("DROP SUBSCRIPTION moving")


def test_cursor_of_a_diverged_copy_is_refused_with_a_clear_error(
    user: User, younger: Cluster
) -> None:
    trigger(user)
    with clusters.dump() as file, clusters.new_cluster() as another:
        for cluster in (younger, another):
            clusters.restore(file, cluster, "copy")
        with connected_to(younger, "copy"):
            trigger(user)
            after = feed.read(feed.Cursor(0, 0).to_text()).next
        with connected_to(another, "copy"):
            trigger(user)
            with pytest.raises(CursorForeignError, match="to another database"):
                feed.read(after)
    with pytest.raises(CursorForeignError):
        feed.read(after)


def test_cursor_ahead_of_all_transactions_is_refused(user: User) -> None:
    now = feed.now()

    with pytest.raises(CursorForeignError):
        feed.read(now._replace(transaction_id=now.transaction_id + 1_000_000).to_text())


def test_cursor_from_before_epochs_still_works(user: User) -> None:
    first, second = trigger(user, 1), trigger(user, 1)
    place = Event.objects.get(id=first[0].id)

    after = feed.Cursor(int(place.transaction_id), place.sequence).to_text()

    assert read_all(after) == ids(second)


def test_all_sessions_agree_on_an_unrecorded_epoch(user: User, ordered: Webhook) -> None:
    trigger(user)
    Epoch.objects.update(cluster="1/00000001")
    connection.close()
    with transaction.atomic():
        trigger(user)
        others = in_thread(lambda: trigger(user))
        others.join()
        trigger(user)
    with another_connection() as late:
        late.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT")
        assert late.execute("SELECT webhooks_current_epoch()").fetchone() == (2,)

        assert record()
        assert not record()

        assert late.execute("SELECT webhooks_current_epoch()").fetchone() == (2,)
    trigger(user)
    numbers = Event.objects.filter(type="project.deleted").order_by("epoch")
    assert list(numbers.values_list("epoch", flat=True)) == [1, 2, 2, 2, 2]
    assert list(Epoch.objects.order_by("number").values_list("number", flat=True)) == [1, 2]


def test_restore_is_known_by_transaction_ids_alone_where_the_cluster_is_hidden(
    user: User, ordered: Webhook
) -> None:
    """The tables were copied without the table of epochs, or into a cluster of the same name."""
    old = trigger(user, 2)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE webhooks_event SET transaction_id = '123456789012'")
        cursor.execute("UPDATE webhooks_delivery SET order_key = 123456789012")
    connection.close()

    new = trigger(user, 1) + trigger(user, 1)

    assert in_order() == [event.id for event in old + new]
    assert record()
    new += trigger(user, 1)
    assert in_order() == [event.id for event in old + new]
    assert read_all(feed.Cursor(0, 0).to_text())[-5:] == ids(old + new)
    assert head_may_go(ordered.id)


def test_rows_of_a_later_epoch_than_any_recorded_stay_before_new_ones(
    user: User, ordered: Webhook
) -> None:
    """A logical copy without the table of epochs."""
    old = trigger(user, 2)
    Event.objects.update(epoch=7)
    Delivery.objects.update(epoch=7)
    connection.close()

    new = trigger(user, 1) + trigger(user, 1)

    assert in_order() == [event.id for event in old + new]
    assert record()
    assert Epoch.objects.latest("number").number == 7
    assert read_all(feed.Cursor(0, 0).to_text())[-4:] == ids(old + new)


ASK_SQL = "SELECT webhooks_cluster(), webhooks_examine_epoch(), webhooks_current_epoch()"


@pytest.fixture
def unprivileged() -> Iterator[psycopg.Connection[Any]]:
    """A connection of a role without tables and without the right to identify the cluster."""
    with another_connection() as other:
        other.execute("CREATE ROLE unprivileged")
        other.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO unprivileged")
        other.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
        other.execute("SET ROLE unprivileged")
        yield other
        other.rollback()


def test_all_roles_compute_the_same_epoch_and_horizon(
    unprivileged: psycopg.Connection[Any],
) -> None:
    """Otherwise each would start a new epoch after the other's."""
    assert unprivileged.execute(ASK_SQL).fetchall() == [(Epoch.objects.get().cluster, 1, 1)]


def test_server_that_hides_the_cluster_begins_no_epoch_twice(
    unprivileged: psycopg.Connection[Any],
) -> None:
    known, timeline = Epoch.objects.get().cluster.split("/")
    unprivileged.execute("RESET ROLE")
    unprivileged.execute("ALTER FUNCTION webhooks_cluster() OWNER TO unprivileged")

    assert unprivileged.execute(ASK_SQL).fetchall() == [(f"?/{timeline}", 2, 2)]
    unprivileged.execute(epoch.RECORD_SQL)
    assert unprivileged.execute(ASK_SQL).fetchall() == [(f"?/{timeline}", 2, 2)]
    unprivileged.execute("SET ROLE unprivileged")
    assert unprivileged.execute(ASK_SQL).fetchall() == [(f"?/{timeline}", 2, 2)]
    assert known != "?"


def test_redelivered_delivery_does_not_delay_a_suspect_of_a_later_epoch(
    user: User, ordered: Webhook
) -> None:
    again, suspect = trigger(user, 2)
    Delivery.objects.filter(event_id=again.id).update(order_key=None, epoch=1)
    Delivery.objects.filter(event_id=suspect.id).update(is_suspect=True, epoch=2)

    assert [count.due for count in count_by_level().values()] == [1]


def test_suspect_waits_for_the_rows_of_an_earlier_epoch(user: User, ordered: Webhook) -> None:
    old, suspect = trigger(user, 2)
    Delivery.objects.filter(event_id=old.id).update(order_key=10**12, epoch=1)
    Delivery.objects.filter(event_id=suspect.id).update(is_suspect=True, epoch=2)

    assert count_by_level() == {}


def test_recording_does_nothing_before_the_migration_and_on_a_standby(user: User) -> None:
    with another_connection() as other:
        other.autocommit = True
        other.execute("SET search_path = nowhere")
        assert not epoch.record(other)
    name = connection.settings_dict["NAME"]
    with (
        clusters.folder() as home,
        clusters.standby(home) as standby,
        standby.connect(name) as other,
    ):
        assert not epoch.record(other)
        assert other.execute("SELECT webhooks_current_epoch()").fetchone() == (1,)


def test_migration_does_not_block_writers_while_a_reader_is_open(user: User) -> None:
    call_command("migrate", "webhooks", "0005", verbosity=0)
    insert = (
        "INSERT INTO webhooks_event (id, type, payload, fanout_count, object_reference)"
        " VALUES (gen_random_uuid(), 'project.deleted', '{}', 0, '')"
    )
    try:
        with another_connection() as reader, another_connection() as producer:
            producer.autocommit = True
            reader.execute("SELECT count(*) FROM webhooks_event")
            migrating = in_thread(lambda: call_command("migrate", "webhooks", verbosity=0))
            _wait_for_waiting_migration(reader)
            for _ in range(5):
                producer.execute(insert)
            assert migrating.is_alive()
            reader.rollback()
            migrating.join()
            producer.execute(insert)
    finally:
        call_command("migrate", "webhooks", verbosity=0)

    assert set(Event.objects.values_list("epoch", flat=True)) == {1}
    assert Epoch.objects.get().number == 1


def _wait_for_waiting_migration(reader: psycopg.Connection[Any]) -> None:
    blocked = "SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'"
    with another_connection() as other:
        other.autocommit = True
        wait_until(lambda: bool((other.execute(blocked).fetchone() or [0])[0]), seconds=60)
