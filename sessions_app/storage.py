"""The storage quota: store an event each time an owner's usage crosses 80 % or 100 %.

The usage is the sum of the owner's ready recordings. Database triggers maintain it in the owner's row
of StorageLevel, whichever way recordings are written. It is read while that row is locked, so that of
two recordings that cross a threshold together, the second sees the first. A falling level causes no
event; afterwards, the next crossing causes an event again.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

from django.db import DEFAULT_DB_ALIAS, connection
from django.db.models import BigIntegerField, QuerySet
from django.dispatch import receiver
from django.utils import timezone

from projects.models import User
from sessions_app.models import Recording, Session, StorageLevel
from webhooks.tracking import (
    POSITION,
    Write,
    announce,
    lock_rows,
    rows_deleting,
    rows_written,
)

WARNING_PERCENT = 80
MAX_BYTES = BigIntegerField.MAX_BIGINT
"""The limit of the column; the sum of the recordings' sizes may be larger."""

LOCK_SQL = f"""
INSERT INTO sessions_app_storagelevel (owner_id, level, used_bytes, updated_at)
SELECT id, 'ok', 0, now() FROM projects_user WHERE id = ANY(%s::uuid[]) ORDER BY id
    ON CONFLICT (owner_id) DO UPDATE SET updated_at = sessions_app_storagelevel.updated_at
RETURNING owner_id, level, ready_bytes, {POSITION}
"""  # noqa: S608 (a constant)

SET_SQL = """
UPDATE sessions_app_storagelevel l
   SET level = n.level, used_bytes = n.used_bytes, updated_at = %s
  FROM unnest(%s::uuid[], %s::text[], %s::bigint[]) AS n (owner_id, level, used_bytes)
 WHERE l.owner_id = n.owner_id
"""


def level_of(used_bytes: int, quota_bytes: int) -> StorageLevel.Level:
    """Return the level of a usage, given the quota, both in bytes."""
    if used_bytes and used_bytes >= quota_bytes:
        return StorageLevel.Level.EXCEEDED
    if used_bytes and 100 * used_bytes >= WARNING_PERCENT * quota_bytes:
        return StorageLevel.Level.WARNING
    return StorageLevel.Level.OK


def review(owner_ids: Iterable[UUID], deleted_bytes: Mapping[UUID, int] | None = None) -> None:
    """Store the new levels of owners and the events of crossed thresholds.

    `deleted_bytes` maps owners to bytes of recordings that are about to be deleted.
    """
    owner_ids = sorted(set(owner_ids))
    if not owner_ids:
        return
    with connection.cursor() as cursor:
        cursor.execute(LOCK_SQL, [owner_ids])
        locked = {owner_id: values for owner_id, *values in cursor.fetchall()}
    now, writes, position = timezone.now(), [], None
    # Not by LOCK_SQL, which may have waited for the lock: it would not see a quota changed meanwhile.
    owners = User.objects.using(DEFAULT_DB_ALIAS).filter(pk__in=locked)
    for owner in owners.order_by("pk").only("storage_quota_bytes"):
        level_before, ready_bytes, position = locked[owner.pk]
        used_bytes = min(int(ready_bytes) - (deleted_bytes or {}).get(owner.pk, 0), MAX_BYTES)
        level = level_of(used_bytes, owner.storage_quota_bytes)
        row = StorageLevel(owner=owner, level=level, used_bytes=used_bytes, updated_at=now)
        writes.append(Write(row, {"level": level_before}))
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
    announce(StorageLevel, writes, position=position)


@receiver(rows_written, sender=Recording, dispatch_uid="storage.recordings_written")
def recordings_written(writes: Sequence[Write], **_: Any) -> None:
    changed = [write for write in writes if _changes_usage(write)]
    moved_from = {
        write.before["session_id"]
        for write in changed
        if write.before and write.before["session_id"] != write.row.session_id
    }
    owner_ids = {write.row.session.owner_id for write in changed}
    if moved_from:
        sessions = Session.objects.using(DEFAULT_DB_ALIAS).filter(pk__in=moved_from)
        owner_ids.update(sessions.values_list("owner_id", flat=True))
    review(owner_ids)


def _changes_usage(write: Write) -> bool:
    """Return whether a write changes the storage usage of an owner."""
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
    review({owner_id for pair in moved for owner_id in pair})


@receiver(rows_written, sender=User, dispatch_uid="storage.users_written")
def users_written(writes: Sequence[Write], **_: Any) -> None:
    name = "storage_quota_bytes"
    changed = [
        write.row.pk
        for write in writes
        if write.before and not write.is_deleted and write.before[name] != getattr(write.row, name)
    ]
    review(changed)


@receiver(rows_deleting, sender=Recording, dispatch_uid="storage.recordings_deleting")
def recordings_deleting(queryset: QuerySet[Any], **_: Any) -> None:
    # Recordings are locked before the level, in the same order as by writers of recordings.
    locked = lock_rows(queryset, for_delete=True)
    deleted_bytes: Counter[UUID] = Counter()
    for owner_id, status, size in locked.values_list(
        "session__owner_id", "status", "file_size_bytes"
    ).iterator():
        if status == Recording.Status.READY:
            deleted_bytes[owner_id] += size
    review(deleted_bytes, deleted_bytes)
