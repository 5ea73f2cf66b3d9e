"""Nothing is sent while results cannot be stored: a full disk, a read-only server, a slow receiver."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from django.db import connection

from projects.models import User
from tests.webhooks.history import trigger
from tests.workers import running_worker, wait_for_heartbeats, wait_until
from webhooks.models import Attempt, Delivery, Webhook
from webhooks.workbench.receiver import Behaviour, HttpReceiver

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def webhook(
    make_webhook: Callable[..., Webhook], receiver: HttpReceiver, empty_valkey: None
) -> Webhook:
    return make_webhook(url=receiver.url, events=["project.deleted"])


def execute(sql: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql)


def wait_for_silence(receiver: HttpReceiver) -> int:
    """Return the number of requests once none has arrived for two seconds."""
    count, since = len(receiver.requests), time.monotonic()
    while time.monotonic() - since < 2:
        if len(receiver.requests) != count:
            count, since = len(receiver.requests), time.monotonic()
        time.sleep(0.02)
    return count


def is_all_delivered() -> bool:
    return not Delivery.objects.exclude(status="SUCCESS").exists()


def sent_more_than_once(receiver: HttpReceiver) -> list[str]:
    counts = Counter(received.delivery_id for received in receiver.requests)
    return [delivery for delivery, count in counts.items() if count > 1]


@contextmanager
def disk_full() -> Iterator[None]:
    """Make Postgres refuse every attempt row."""
    execute(
        "CREATE FUNCTION disk_full() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " RAISE 'No space left on device' USING ERRCODE = 'disk_full'; END $$;"
        "CREATE TRIGGER disk_full BEFORE INSERT ON webhooks_attempt"
        " FOR EACH STATEMENT EXECUTE FUNCTION disk_full()"
    )
    try:
        yield
    finally:
        execute("DROP FUNCTION disk_full CASCADE")


def test_full_disk_stops_sending_and_costs_no_duplicate(user: User, receiver: HttpReceiver) -> None:
    with running_worker():
        wait_for_heartbeats(1)
        with disk_full():
            trigger(user, 2000)
            receiver.wait_for(1)
            sent = wait_for_silence(receiver)
            assert sent < 1000
            assert Attempt.objects.count() == 0
        wait_until(is_all_delivered, 60)

    assert Attempt.objects.count() == 2000
    assert sent_more_than_once(receiver) == []


@contextmanager
def read_only() -> Iterator[None]:
    """A read-only server, as after a failover to a replica."""
    database = connection.settings_dict["NAME"]
    others = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    execute(f'ALTER DATABASE "{database}" SET default_transaction_read_only = on')
    execute(others)
    try:
        yield
    finally:
        execute(f'ALTER DATABASE "{database}" RESET default_transaction_read_only')
        execute(others)


def test_read_only_postgres_stops_sending_and_loses_nothing(
    user: User, receiver: HttpReceiver
) -> None:
    with running_worker() as worker:
        wait_for_heartbeats(1)
        with read_only():
            trigger(user, 20)
            assert wait_for_silence(receiver) == 0
        wait_until(is_all_delivered, 20)
        assert worker.poll() is None

    assert sent_more_than_once(receiver) == []


def test_no_transaction_is_open_while_receivers_keep_us_waiting(
    user: User, receiver: HttpReceiver
) -> None:
    receiver.behaviour = Behaviour(delay_seconds=6)
    trigger(user, 4)
    with running_worker():
        receiver.wait_for(4)
        open_for = 0.0
        for _ in range(200):
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0)"
                    "  FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                    "   AND backend_type = 'client backend'"
                )
                open_for = max(open_for, float(cursor.fetchone()[0]))
            time.sleep(0.02)
        in_flight = Delivery.objects.filter(status="SENDING").count()

    assert in_flight == 4
    # A claim may take its time on a busy machine; the receivers take longer.
    assert open_for < 2
