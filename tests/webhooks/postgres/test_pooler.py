"""Behind a transaction pooler no event is lost, and no session state reaches another client.

The real PgBouncer with its defaults, and our defaults.
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from django.db import connection

from projects.models import Project, User
from tests.pgbouncer import output_of, pgbouncer, python_through
from tests.webhooks.history import trigger
from tests.workers import running, running_worker, searched_log, wait_for_heartbeats, wait_until
from webhooks.models import Delivery, Event, Webhook
from webhooks.postgres.sql import has_session_state, is_pooled, run
from webhooks.workbench.receiver import HttpReceiver

pytestmark = pytest.mark.django_db(transaction=True)

PROCESSES = 3
THREADS = 3
SAVES = 60
BACKENDS = 4

SAVE_MANY = f"""
import threading
from projects.models import Project, User

def save_many(thread):
    owner = User.objects.get(username="ada")
    for number in range({SAVES}):
        project = Project.objects.create(owner=owner, name=f"P{{thread}}.{{number}}")
        project.name += "!"
        project.save()
    connection.close()

threads = [threading.Thread(target=save_many, args=(n,)) for n in range({THREADS})]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


@pytest.fixture
def pooled_url() -> Iterator[str]:
    with pgbouncer(pool_size=BACKENDS) as url:
        yield url


def is_all_delivered() -> bool:
    return not Delivery.objects.exclude(status="SUCCESS").exists()


LEFT_BEHIND_SQL = """
SELECT 'setting', name FROM pg_settings WHERE source = 'session' AND name <> ALL(%(announced)s)
UNION ALL SELECT 'name', setting FROM pg_settings WHERE name = 'application_name' AND setting <> ''
UNION ALL SELECT 'prepared', name FROM pg_prepared_statements
UNION ALL SELECT 'cursor', name FROM pg_cursors WHERE is_holdable
UNION ALL SELECT locktype, objid::text FROM pg_locks
           WHERE locktype = 'advisory' AND pid = pg_backend_pid()
"""
# PgBouncer sets these anew for each client, since Postgres announces their changes.
ANNOUNCED = [
    "application_name", "client_encoding", "DateStyle", "standard_conforming_strings", "TimeZone",
]  # fmt: skip


def left_behind(url: str) -> set[tuple[str, str]]:
    """Return the session state that another client finds in all backends of the pooler."""
    found: set[tuple[str, str]] = set()
    strangers = [psycopg.connect(url) for _ in range(BACKENDS)]
    for stranger in strangers:
        # In a transaction that stays open, so that the next one is lent another backend.
        found.update(stranger.execute(LEFT_BEHIND_SQL, {"announced": ANNOUNCED}).fetchall())
    for stranger in strangers:
        stranger.close()
    return found


def test_every_save_through_a_pooler_has_its_event_and_its_delivery(
    user: User,
    make_webhook: Callable[..., Webhook],
    receiver: HttpReceiver,
    empty_valkey: None,
    pooled_url: str,
) -> None:
    make_webhook(url=receiver.url, events=["project.*"])
    expected = PROCESSES * THREADS * SAVES
    with running_worker(DATABASE_URL=pooled_url):
        wait_for_heartbeats(1)
        for saver in [python_through(pooled_url, SAVE_MANY) for _ in range(PROCESSES)]:
            output_of(saver)
        assert Project.objects.count() == expected
        assert Event.objects.filter(type="project.created").count() == expected
        assert Event.objects.filter(type="project.updated").count() == expected
        wait_until(lambda: Delivery.objects.filter(status="SUCCESS").count() == 2 * expected, 60)
        found = left_behind(pooled_url)

    assert found == set()


def test_worker_leaves_nothing_in_the_sessions_of_a_pooler(
    user: User,
    make_webhook: Callable[..., Webhook],
    receiver: HttpReceiver,
    empty_valkey: None,
    pooled_url: str,
) -> None:
    make_webhook(url=receiver.url, events=["project.deleted"])
    trigger(user, 20)
    # One for the quarantine, which on a direct connection locks a slot of its own.
    Delivery.objects.filter(id=Delivery.objects.earliest("id").id).update(is_suspect=True)
    with running_worker(DATABASE_URL=pooled_url):
        wait_until(is_all_delivered, 30)
        found = left_behind(pooled_url)

    assert found == set()


NOTICE = """
from webhooks.postgres.sql import has_session_state, is_pooled
print(is_pooled(), has_session_state())
"""


@pytest.mark.parametrize(
    ("pool_mode", "pool_size"), [("transaction", 1), ("transaction", 4), ("session", 1)]
)
def test_pooler_is_noticed_however_few_backends_it_has(pool_mode: str, pool_size: int) -> None:
    with pgbouncer(pool_mode, pool_size) as url:
        assert output_of(python_through(url, NOTICE)) == "True False\n"


def test_direct_connection_is_asked_once() -> None:
    connection.close()
    connection.ensure_connection()

    with tempfile.NamedTemporaryFile() as trace:
        connection.connection.pgconn.trace(trace.fileno())
        for _ in range(3):
            run("SELECT 1", {})
        connection.connection.pgconn.untrace()
        exchanges = Path(trace.name).read_text().count("ReadyForQuery")

    assert exchanges == 1 + 3
    assert (is_pooled(), has_session_state()) == (False, True)


# Two clients of one backend, whose cursors Django gives the same names; one at a time goes on.
ITERATE = """
from projects.models import Project
names = Project.objects.order_by("name").values_list("name", flat=True).iterator(chunk_size=2)
print(next(names), flush=True)
input()
print(*names)
"""


def test_iterators_outside_transactions_leave_no_cursor_behind(user: User, pooled_url: str) -> None:
    names = [f"P{number}" for number in range(6)]
    for name in names:
        Project.objects.create(owner=user, name=name)
    clients = [python_through(pooled_url, ITERATE) for _ in range(2)]
    firsts = [client.stdout.readline().strip() for client in clients if client.stdout]
    found = left_behind(pooled_url)
    rests = [output_of(client, "\n").split() for client in clients]

    assert firsts == ["P0", "P0"]
    assert rests == [names[1:], names[1:]]
    assert found == set()


# A cursor in a transaction lives as long as that, and keeps memory bounded behind a pooler, too.
ITERATE_IN_TRANSACTION = """
from projects.models import Project
with transaction.atomic():
    names = Project.objects.order_by("name").values_list("name", flat=True).iterator(chunk_size=2)
    next(names)
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_cursors WHERE name LIKE '_django_curs%'")
        print(cursor.fetchone()[0])
"""


def test_iterator_in_a_transaction_keeps_its_cursor_on_the_server(
    user: User, pooled_url: str
) -> None:
    for number in range(6):
        Project.objects.create(owner=user, name=f"P{number}")

    assert output_of(python_through(pooled_url, ITERATE_IN_TRANSACTION)) == "1\n"


LIMITS = """
from webhooks.postgres.sql import limited_transaction, run
def limits():
    return run("SELECT current_setting('lock_timeout'),"
               " current_setting('idle_in_transaction_session_timeout')", {}).fetchone()
with limited_transaction():
    print(*limits())
print(*limits())
"""


def test_transactions_of_a_worker_are_limited_behind_a_pooler_and_no_others(
    pooled_url: str,
) -> None:
    assert output_of(python_through(pooled_url, LIMITS)) == "5s 5s\n0 0\n"


def test_doctor_warns_of_a_pooler(pooled_url: str) -> None:
    with (
        searched_log() as log,
        running("manage.py", "doctor", stdout=log, stderr=log, DATABASE_URL=pooled_url) as doctor,
    ):
        doctor.wait(60)
        log.seek(0)
        shown = log.read().decode()

    assert "DATABASE_URL leads to a connection pooler" in shown
    assert "Set DATABASE_URL of the workers to Postgres itself" in shown


def test_worker_refuses_a_pooler_without_transactions() -> None:
    with (
        pgbouncer("statement") as url,
        searched_log() as log,
        running(
            "manage.py", "rqworker", "--burst", stdout=log, stderr=log, DATABASE_URL=url
        ) as worker,
    ):
        worker.wait(60)
        log.seek(0)
        shown = log.read().decode()

    assert worker.returncode == 1
    assert "The worker does not start.\nThe connection pooler allows no transactions" in shown
    assert "pool_mode=transaction" in shown
    assert "Traceback" not in shown


def test_worker_without_notifications_does_not_start(pooled_url: str) -> None:
    with (
        tempfile.TemporaryFile() as log,
        running(
            "manage.py", "rqworker", stdout=log, stderr=log,
            DATABASE_URL=pooled_url, WEBHOOKS_WAKEUP="listen",
        ) as worker,
    ):  # fmt: skip
        assert worker.wait(60) == 1
        log.seek(0)
        assert b"WEBHOOKS_WAKEUP=listen does not work through a connection pooler" in log.read()
