"""The storage quota: each crossing once, under whatever writes and in whatever order."""

from typing import Any

import pytest
from django.db import transaction

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


def test_each_crossing_is_told_once_and_again_after_falling_below(session: Session) -> None:
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


def test_what_exceeds_the_column_is_counted_as_its_largest_number(session: Session) -> None:
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


def test_crossing_is_told_with_what_is_used(session: Session) -> None:
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


def test_transaction_that_ends_where_it_began_tells_nothing(session: Session) -> None:
    with captured_events() as captured, transaction.atomic():
        row = ready(session, 200)
        row.delete()

    assert captured.types == []


def test_rolled_back_crossing_is_told_when_it_comes_true(session: Session) -> None:
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


def test_deleting_the_user_tells_nothing_of_storage(session: Session) -> None:
    ready(session, 100)

    with captured_events() as captured:
        session.owner.delete()

    assert told(captured) == []
    assert not StorageLevel.objects.exists()
