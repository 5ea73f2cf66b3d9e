"""The storage quota: one event per crossing, for all kinds of writes in any order."""

import importlib
import random
from collections.abc import Callable
from typing import Any

import pytest
from django.apps import apps
from django.core import serializers
from django.db import IntegrityError, connection, transaction
from django.test.utils import CaptureQueriesContext

from projects.models import Project, User
from sessions_app.models import Recording, Session, StorageLevel
from sessions_app.storage import level_of
from tests.concurrency import in_thread, wait_for_lock
from webhooks.testing import captured_events

pytestmark = pytest.mark.django_db(transaction=True)

WARNING, EXCEEDED = "storage.quota_warning", "storage.quota_exceeded"


@pytest.fixture
def session(project: Project) -> Session:
    User.objects.update(storage_quota_bytes=100)
    return Session.objects.create(project=project, owner=project.owner, title="S")


def ready(session: Session, size: int) -> Recording:
    return Recording.objects.create(
        session=session, title="R", status="READY", file_size_bytes=size
    )


def told(captured: Any) -> list[str]:
    return [event_type for event_type in captured.types if event_type.startswith("storage.")]


@pytest.mark.parametrize(
    ("used", "quota", "level"),
    [
        (0, 100, "ok"), (79, 100, "ok"), (80, 100, "warning"), (99, 100, "warning"),
        (100, 100, "exceeded"), (10**18, 100, "exceeded"),
        (0, 0, "ok"), (1, 0, "exceeded"), (1, 1, "exceeded"), (0, 1, "ok"),
        (8 * 10**15 - 1, 10**16, "ok"), (8 * 10**15, 10**16, "warning"),
    ],
)  # fmt: skip
def test_levels(used: int, quota: int, level: str) -> None:
    assert level_of(used, quota) == level


def test_each_crossing_causes_one_event_and_another_after_falling_below(session: Session) -> None:
    steps: list[tuple[int, list[str]]] = [
        (79, []),
        (1, [WARNING]),
        (19, []),
        (1, [EXCEEDED]),
        (50, []),
    ]
    for size, expected in steps:
        with captured_events() as captured:
            ready(session, size)
        assert told(captured) == expected

    with captured_events() as captured:
        Recording.objects.filter(file_size_bytes__gte=50).delete()
    assert told(captured) == []
    assert StorageLevel.objects.get().used_bytes == 21

    with captured_events() as captured:
        ready(session, 79)
    assert told(captured) == [WARNING, EXCEEDED]


def test_only_ready_recordings_count(session: Session) -> None:
    with captured_events() as captured:
        row = Recording.objects.create(session=session, title="R", file_size_bytes=1000)
        row.fail("Cut off.")

    assert told(captured) == []
    assert StorageLevel.objects.get().used_bytes == 0


def test_usage_above_the_column_limit_is_stored_as_the_limit(session: Session) -> None:
    largest = 2**63 - 1

    with captured_events() as captured:
        recordings = [ready(session, largest) for _ in range(3)]

    assert told(captured) == [WARNING, EXCEEDED]
    assert StorageLevel.objects.get().used_bytes == largest
    for recording in recordings[:2]:
        recording.delete()
        assert StorageLevel.objects.get().used_bytes == largest
    recordings[2].delete()
    assert StorageLevel.objects.get().used_bytes == 0


@pytest.mark.parametrize("quota", [90, 50])
def test_lower_quota_crosses_too(session: Session, quota: int) -> None:
    ready(session, 75)

    with captured_events() as captured:
        User.objects.update(storage_quota_bytes=quota)

    assert told(captured) == ([WARNING] if quota == 90 else [WARNING, EXCEEDED])


def test_event_of_a_crossing_holds_the_usage(session: Session) -> None:
    with captured_events() as captured:
        ready(session, 85)

    (data,) = captured.data_of(WARNING)
    moment = data.pop("occurredAt")
    assert moment.endswith("Z")
    assert data == {"usedBytes": 85, "quotaBytes": 100, "percent": 85.0}


def test_two_that_cross_together_in_one_write_are_one_crossing(session: Session) -> None:
    rows = [Recording(session=session, title="R", file_size_bytes=50) for _ in range(2)]
    Recording.objects.bulk_create(rows)

    with captured_events() as captured:
        Recording.objects.update(status="READY")

    assert told(captured) == [WARNING, EXCEEDED]


def test_two_that_cross_together_in_two_transactions_are_one_crossing(session: Session) -> None:
    ready(session, 60)

    with captured_events() as captured:
        with transaction.atomic():
            ready(session, 15)
            thread = in_thread(lambda: ready(session, 15))
            wait_for_lock()
        thread.join()

    # Neither 75 nor 75: the second sees the first.
    assert told(captured) == [WARNING]
    assert StorageLevel.objects.get().used_bytes == 90


def test_quota_that_changes_while_a_delete_waits_for_the_level_counts(session: Session) -> None:
    User.objects.update(storage_quota_bytes=1000)
    ready(session, 80)
    extra = ready(session, 10)

    with transaction.atomic():
        User.objects.update(storage_quota_bytes=100)
        thread = in_thread(extra.delete)
        wait_for_lock()
    thread.join()

    assert StorageLevel.objects.get().level == "warning"


def test_transaction_with_an_unchanged_final_level_causes_no_event(session: Session) -> None:
    with captured_events() as captured, transaction.atomic():
        row = ready(session, 200)
        row.delete()

    assert captured.types == []


def test_rolled_back_crossing_causes_an_event_when_it_happens_again(session: Session) -> None:
    with captured_events() as captured, transaction.atomic():
        with pytest.raises(RuntimeError), transaction.atomic():
            ready(session, 100)
            raise RuntimeError
        ready(session, 85)

    assert told(captured) == [WARNING]


def test_session_that_changes_hands_takes_its_recordings_along(
    session: Session, other_user: User
) -> None:
    User.objects.update(storage_quota_bytes=100)
    ready(session, 100)

    with captured_events() as captured:
        Session.objects.update(owner=other_user)

    assert [event.owner_id for event in captured.events] == [other_user.pk, other_user.pk]
    assert dict(StorageLevel.objects.values_list("owner", "level")) == {
        session.owner_id: "ok",
        other_user.pk: "exceeded",
    }


def test_recording_that_moves_counts_elsewhere(session: Session, other_user: User) -> None:
    User.objects.update(storage_quota_bytes=100)
    row = ready(session, 90)
    other = Session.objects.create(project=session.project, owner=other_user, title="Other")

    with captured_events() as captured:
        row.session = other
        row.save()

    assert [(event.type, event.owner_id) for event in captured.events] == [(WARNING, other_user.pk)]
    assert StorageLevel.objects.get(owner=session.owner_id).used_bytes == 0


def test_deleting_the_user_causes_no_storage_event(session: Session) -> None:
    ready(session, 100)

    with captured_events() as captured:
        session.owner.delete()

    assert told(captured) == []
    assert not StorageLevel.objects.exists()


# What is used is kept by the database.


SUM_SQL = """
SELECT s.owner_id, sum(r.file_size_bytes)
  FROM sessions_app_recording r JOIN sessions_app_session s ON s.id = r.session_id
 WHERE r.status = 'READY' GROUP BY s.owner_id
"""


def assert_exact() -> None:
    with connection.cursor() as cursor:
        cursor.execute(SUM_SQL)
        sums = dict(cursor.fetchall())
    kept = dict(StorageLevel.objects.values_list("owner", "ready_bytes"))
    assert {owner: kept[owner] for owner in kept if kept[owner]} == sums


def execute(sql: str, *parameters: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)


def load_fixture(session: Session, size: int) -> None:
    row = Recording(session=session, title="R", status="READY", file_size_bytes=size)
    for loaded in serializers.deserialize("json", serializers.serialize("json", [row])):
        loaded.save()


def undo(session: Session, size: int) -> None:
    with transaction.atomic():
        ready(session, size)
        Session.objects.filter(pk=session.pk).update(owner=User.objects.order_by("?").first())
        transaction.set_rollback(True)


WRITES: list[Callable[[Session, int], Any]] = [
    ready,
    load_fixture,
    undo,
    lambda session, size: session.recordings.create(title="R", file_size_bytes=size),
    lambda session, size: Recording.objects.filter(status="UPLOADING").update(status="READY"),
    lambda session, size: session.recordings.update(file_size_bytes=size),
    lambda session, size: session.recordings.update(session=Session.objects.order_by("?").first()),
    lambda session, size: Recording.objects.bulk_create(
        [Recording(session=session, title="R", status="READY", file_size_bytes=size)] * 2,
        ignore_conflicts=True,
    ),
    lambda session, size: session.recordings.filter(file_size_bytes__gt=size).delete(),
    lambda session, size: Session.objects.filter(pk=session.pk).update(
        owner=User.objects.order_by("?").first()
    ),
    lambda session, size: Session.objects.update(owner=session.owner),
    lambda session, size: execute(
        "UPDATE sessions_app_recording SET file_size_bytes = file_size_bytes + %s, status ="
        " CASE WHEN status = 'READY' THEN 'FAILED' ELSE 'READY' END",
        size,
    ),
    lambda session, size: execute(
        "DELETE FROM sessions_app_recording WHERE session_id = %s", session.pk
    ),
]


def test_usage_is_exact_after_every_way_of_writing(session: Session, other_user: User) -> None:
    project = session.project
    sessions = [
        session,
        *(Session.objects.create(project=project, owner=o, title="S") for o in (other_user,) * 2),
    ]
    chance = random.Random(7)
    for _ in range(300):
        chance.choice(WRITES)(chance.choice(sessions), chance.randrange(100))
        assert_exact()

    project.delete()
    assert_exact()


def test_a_save_reads_no_other_recordings(session: Session) -> None:
    ready(session, 1)

    with CaptureQueriesContext(connection) as queries:
        ready(session, 1)

    reading = [query["sql"] for query in queries if "sessions_app_recording" in query["sql"]]
    assert [sql.split()[0] for sql in reading] == ["INSERT"]


def test_recording_of_a_session_that_is_given_away_meanwhile(
    session: Session, other_user: User
) -> None:
    with transaction.atomic():
        ready(session, 60)
        thread = in_thread(lambda: Session.objects.update(owner=other_user))
        wait_for_lock()
    thread.join()
    assert_exact()

    with transaction.atomic():
        Session.objects.update(owner=session.owner_id)
        thread = in_thread(lambda: ready(session, 30))
        wait_for_lock()
    thread.join()
    assert_exact()


def test_delete_of_a_session_waits_for_its_recordings(session: Session) -> None:
    ready(session, 1)
    written = session.recordings.create(title="R", file_size_bytes=5)

    with transaction.atomic():
        Recording.objects.select_for_update(no_key=True).get(pk=written.pk)
        thread = in_thread(session.delete)
        wait_for_lock()
        written.complete(url="https://example.com/r", duration_seconds=1, file_size_bytes=50)
    thread.join()

    assert not Session.objects.exists()
    assert_exact()


def test_recording_of_a_session_that_is_deleted_meanwhile(session: Session) -> None:
    ready(session, 1)
    problems: list[Exception] = []

    def record() -> None:
        try:
            ready(session, 30)
        except IntegrityError as problem:
            problems.append(problem)

    with transaction.atomic():
        Session.objects.select_for_update().get()
        thread = in_thread(record)
        wait_for_lock()
        session.delete()
    thread.join()

    assert len(problems) == 1
    assert_exact()


def test_first_recordings_of_an_owner_that_are_written_together(session: Session) -> None:
    with transaction.atomic():
        ready(session, 20)
        thread = in_thread(lambda: ready(session, 30))
        wait_for_lock()
    thread.join()

    assert_exact()
    assert StorageLevel.objects.get().used_bytes == 50


def test_migration_counts_existing_recordings(session: Session, other_user: User) -> None:
    ready(session, 20)
    ready(session, 30)
    ready(Session.objects.create(project=session.project, owner=other_user, title="S"), 7)
    StorageLevel.objects.filter(owner=other_user).delete()
    StorageLevel.objects.update(ready_bytes=0)
    migration = importlib.import_module("sessions_app.migrations.0006_backfill_ready_bytes")

    with connection.schema_editor(atomic=False) as editor:
        migration.backfill(apps, editor)

    assert_exact()
