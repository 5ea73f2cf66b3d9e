"""The storage quota: an owner hears of 80 % and of 100 %, once for each crossing.

Used is the sum of the owner's ready recordings. It is summed up while the owner's row in
StorageLevel is locked, so that of two recordings that cross a threshold together the second sees
the first. The level falls silently; after that a crossing is told again.
"""

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from django.db import connection
from django.db.models import BigIntegerField, Q, QuerySet, Sum
from django.db.models.functions import Coalesce
from django.dispatch import receiver
from django.utils import timezone

from projects.models import User
from sessions_app.models import Recording, Session, StorageLevel
from webhooks.models.tracking import Write, announce, rows_deleting, rows_written

WARNING_PERCENT = 80
MOST_BYTES = BigIntegerField.MAX_BIGINT
"""What the column holds; the sum of what recordings say of themselves may be more."""

LOCK_SQL = """
INSERT INTO sessions_app_storagelevel (owner_id, level, used_bytes, updated_at)
SELECT id, 'ok', 0, now() FROM projects_user WHERE id = ANY(%s::uuid[]) ORDER BY id
    ON CONFLICT (owner_id) DO UPDATE SET updated_at = sessions_app_storagelevel.updated_at
RETURNING owner_id, level
"""

SET_SQL = """
UPDATE sessions_app_storagelevel l
   SET level = n.level, used_bytes = n.used_bytes, updated_at = %s
  FROM unnest(%s::uuid[], %s::text[], %s::bigint[]) AS n (owner_id, level, used_bytes)
 WHERE l.owner_id = n.owner_id
"""


def level_of(used_bytes: int, quota_bytes: int) -> StorageLevel.Level:
    """Return the level that this much of a quota is."""
    if used_bytes and used_bytes >= quota_bytes:
        return StorageLevel.Level.EXCEEDED
    if used_bytes and 100 * used_bytes >= WARNING_PERCENT * quota_bytes:
        return StorageLevel.Level.WARNING
    return StorageLevel.Level.OK


def review(owner_ids: Iterable[UUID], *, without: QuerySet[Any] | None = None) -> None:
    """Sum up what owners use and tell them what they crossed; `without` are about to be deleted."""
    owner_ids = sorted(set(owner_ids))
    if not owner_ids:
        return
    with connection.cursor() as cursor:
        cursor.execute(LOCK_SQL, [owner_ids])
        levels_before = dict(cursor.fetchall())
    now = timezone.now()
    going = {} if without is None else dict(_ready_bytes(without))
    writes = []
    for owner in _with_ready_bytes(owner_ids):
        used_bytes = min(owner.ready_bytes - going.get(owner.pk, 0), MOST_BYTES)
        level = level_of(used_bytes, owner.storage_quota_bytes)
        row = StorageLevel(owner=owner, level=level, used_bytes=used_bytes, updated_at=now)
        writes.append(Write(row, {"level": levels_before[owner.pk]}))
    rows = [write.row for write in writes]
    with connection.cursor() as cursor:
        cursor.execute(
            SET_SQL,
            [
                now,
                [row.owner_id for row in rows],
                [row.level.value for row in rows],
                [row.used_bytes for row in rows],
            ],
        )
    announce(StorageLevel, writes)


def _with_ready_bytes(owner_ids: Sequence[UUID]) -> QuerySet[Any]:
    is_ready = Q(sessions__recordings__status=Recording.Status.READY)
    ready = Coalesce(Sum("sessions__recordings__file_size_bytes", filter=is_ready), 0)
    users = User.objects.filter(pk__in=owner_ids).order_by("pk")
    owners: QuerySet[Any] = users.annotate(ready_bytes=ready).only("storage_quota_bytes")
    return owners


def _ready_bytes(recordings: QuerySet[Any]) -> QuerySet[Any]:
    """Owners of ready recordings, and the bytes of these."""
    ready = recordings.filter(status=Recording.Status.READY).order_by()
    owners: Any = ready.values_list("session__owner_id")
    return owners.annotate(Sum("file_size_bytes"))  # type: ignore[no-any-return]


@receiver(rows_written, sender=Recording, dispatch_uid="storage.recordings_written")
def recordings_written(writes: Sequence[Write], **_: Any) -> None:
    changed = [write for write in writes if _counted(write)]
    moved_from = {
        write.before["session_id"]
        for write in changed
        if write.before and write.before["session_id"] != write.row.session_id
    }
    owner_ids = {write.row.session.owner_id for write in changed}
    if moved_from:
        sessions = Session.objects.filter(pk__in=moved_from)
        owner_ids.update(sessions.values_list("owner_id", flat=True))
    review(owner_ids)


def _counted(write: Write) -> bool:
    """Say whether a write changes what somebody uses."""
    before, row = write.before, write.row
    is_ready: bool = row.status == Recording.Status.READY
    if before is None:
        return is_ready
    was_ready: bool = before["status"] == Recording.Status.READY
    is_same = (before["session_id"], before["file_size_bytes"]) == (
        row.session_id,
        row.file_size_bytes,
    )
    return was_ready != is_ready or (is_ready and not is_same)


@receiver(rows_written, sender=Session, dispatch_uid="storage.sessions_written")
def sessions_written(writes: Sequence[Write], **_: Any) -> None:
    moved = [
        (write.before["owner_id"], write.row.owner_id)
        for write in writes
        if write.before and write.before["owner_id"] != write.row.owner_id
    ]
    review(owner_id for pair in moved for owner_id in pair)


@receiver(rows_written, sender=User, dispatch_uid="storage.users_written")
def users_written(writes: Sequence[Write], **_: Any) -> None:
    name = "storage_quota_bytes"
    review(
        write.row.pk
        for write in writes
        if write.before and not write.is_deleted and write.before[name] != getattr(write.row, name)
    )


@receiver(rows_deleting, sender=Recording, dispatch_uid="storage.recordings_deleting")
def recordings_deleting(queryset: QuerySet[Any], **_: Any) -> None:
    review((owner_id for owner_id, _ in _ready_bytes(queryset)), without=queryset)
