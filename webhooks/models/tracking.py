"""The base of models whose writes become events, whichever way Django writes them.

Overrides the few doors through which every write passes: a single save, a bulk insert, an update
and a delete of a queryset. Each opens the transaction itself: in autocommit Django runs post_save
after the row is already committed, and an event that then fails would be lost (invariant 1).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from django.db import DEFAULT_DB_ALIAS, models, router, transaction
from django.db.models.constants import OnConflict

from webhooks.models.cascades import delete_tracked
from webhooks.models.writes import (
    ROWS_PER_BATCH,
    Change,
    State,
    Tracking,
    Write,
    announce,
    batches,
    concrete,
    is_settled,
    key_of,
    lock_row,
    lock_rows,
    read_rows,
    rows_deleting,
    rows_written,
    settle_rows,
    track,
    tracking_of,
)

__all__ = [
    "Change",
    "State",
    "TrackedModel",
    "TrackedQuerySet",
    "Tracking",
    "Write",
    "announce",
    "rows_deleting",
    "rows_written",
    "track",
]


class TrackedQuerySet(models.QuerySet[Any]):
    """A queryset whose writes are announced, in a constant number of queries per batch."""

    def update(self, **kwargs: Any) -> int:
        tracking = tracking_of(self.model)
        if tracking is None or self.query.is_sliced or not self._concerns(kwargs, tracking):
            return super().update(**kwargs)
        self._for_write = True
        self._result_cache = None
        with transaction.atomic(using=self.db, savepoint=False):
            # Only rows that are locked are written: one that another transaction adds meanwhile
            # would change without an event.
            return sum(
                self._update_batch(batch, kwargs, tracking)
                for batch in batches(list(lock_rows(self, tracking)))
            )

    update.alters_data = True  # type: ignore[attr-defined]

    def _concerns(self, kwargs: Mapping[str, Any], tracking: Tracking) -> bool:
        meta = self.model._meta
        return any(
            getattr(meta.get_field(name), "attname", "") in tracking.fields for name in kwargs
        )

    def _update_batch(
        self, before: list[dict[str, Any]], kwargs: Mapping[str, Any], tracking: Tracking
    ) -> int:
        key = self.model._meta.pk.attname
        rows = self.filter(pk__in=[state[key] for state in before])
        count = models.QuerySet.update(rows, **kwargs)
        self._announce_updated({state[key]: state for state in before}, tracking)
        return count

    def _announce_updated(self, before: Mapping[Any, State], tracking: Tracking) -> None:
        rows = read_rows(self.model, list(before), tracking, self.db)
        announce(
            self.model, [Write(rows[key], state) for key, state in before.items() if key in rows]
        )

    def _announce_created(self, rows: Sequence[Any], tracking: Tracking) -> None:
        for batch in batches(rows):
            settled = settle_rows(batch, tracking, self.db)
            announce(self.model, [Write(row, None) for row in settled])

    def bulk_create(self, objs: Iterable[Any], *args: Any, **kwargs: Any) -> list[Any]:
        """Insert rows and announce them as created.

        With `ignore_conflicts` only what was inserted is announced; with `update_conflicts` what
        was there before is announced as updated.
        """
        with transaction.atomic(using=self.db, savepoint=False):
            return super().bulk_create(objs, *args, **kwargs)

    def bulk_update(
        self, objs: Iterable[Any], fields: Iterable[str], batch_size: int | None = None
    ) -> int:
        # Django calls update() for each batch, which announces it.
        return super().bulk_update(objs, fields, batch_size or ROWS_PER_BATCH)

    bulk_update.alters_data = True  # type: ignore[attr-defined]

    def delete(self) -> tuple[int, dict[str, int]]:
        if self.query.is_sliced or self.query.combinator or self._fields is not None:  # type: ignore[attr-defined]
            return super().delete()  # which refuses
        return delete_tracked(self, models.QuerySet.delete)

    delete.alters_data = True  # type: ignore[attr-defined]
    delete.queryset_only = True  # type: ignore[attr-defined]

    def _batched_insert(
        self,
        objs: list[Any],
        fields: Any,
        batch_size: int | None,
        on_conflict: Any = None,
        update_fields: Any = None,
        unique_fields: Any = None,
    ) -> list[Any]:
        """Django's door to every bulk insert, with the model's primary keys already set."""
        tracking = tracking_of(self.model)
        if tracking is None or on_conflict is None:
            returned: list[Any] = super()._batched_insert(  # type: ignore[misc]
                objs, fields, batch_size, on_conflict, update_fields, unique_fields
            )
            if tracking is not None:
                self._announce_created(objs, tracking)
            return returned
        insert = self._upsert if on_conflict == OnConflict.UPDATE else self._insert_new
        size = batch_size or max(len(objs), 1)
        for start in range(0, len(objs), size):
            insert(
                objs[start : start + size],
                tracking,
                fields=fields,
                using=self.db,
                on_conflict=on_conflict,
                update_fields=update_fields,
                unique_fields=unique_fields,
            )
        return []

    def _insert_new(self, objs: list[Any], tracking: Tracking, **options: Any) -> None:
        """Insert what conflicts with nothing; Postgres says which rows those are."""
        inserted = self._insert(objs, returning_fields=[self.model._meta.pk], **options)  # type: ignore[attr-defined]
        keys = {row[0] for row in inserted if row}
        fresh = {key_of(obj): obj for obj in reversed(objs) if key_of(obj) in keys}
        self._announce_created(list(fresh.values())[::-1], tracking)

    def _upsert(self, objs: list[Any], tracking: Tracking, **options: Any) -> None:
        """Insert or update, and tell the two apart: only an updated row has been locked (xmax).

        A row that another transaction commits between the look and the insert was never seen as
        it was; then the insert is undone and done again.
        """
        returning = [self.model._meta.pk, _LockingTransaction(self.model)]
        while True:
            with transaction.atomic(using=self.db):
                before = self._lock_conflicting(objs, options["unique_fields"], tracking)
                written = self._insert(objs, returning_fields=returning, **options)  # type: ignore[attr-defined]
                updated = {key for key, xmax in written if int(xmax)}
                if updated <= before.keys():
                    break
                transaction.set_rollback(True, using=self.db)
        inserted = {key for key, _ in written} - updated
        self._announce_created([obj for obj in objs if key_of(obj) in inserted], tracking)
        for keys in batches(key for key, _ in written if key in updated):
            self._announce_updated({key: before[key] for key in keys}, tracking)

    def _lock_conflicting(
        self, objs: list[Any], unique_fields: Any, tracking: Tracking
    ) -> dict[Any, State]:
        same = {
            f"{field.attname}__in": [getattr(obj, field.attname) for obj in objs]
            for field in unique_fields
        }
        rows = self.model._base_manager.using(self.db).filter(**same)
        key = self.model._meta.pk.attname
        return {state[key]: state for state in lock_rows(rows, tracking)}


class _LockingTransaction(models.BigIntegerField):  # type: ignore[type-arg]
    """The system column xmax, as something that an insert can return."""

    def __init__(self, model: type[models.Model]) -> None:
        super().__init__()
        self.set_attributes_from_name("xmax")
        self.model = model


class TrackedModel(models.Model):
    """A model whose writes are announced within their own transaction.

    Fixtures (`raw`) are not.
    """

    objects: ClassVar[Any] = TrackedQuerySet.as_manager()

    class Meta:
        abstract = True
        # Related managers write through the base manager: `session.recordings.add(recording)`.
        base_manager_name = "objects"

    _saving: "_Saving | None" = None

    def save_base(self, *args: Any, **kwargs: Any) -> None:
        # No savepoint: whatever fails here, the row must not stay without its events.
        with transaction.atomic(using=kwargs.get("using"), savepoint=False):
            super().save_base(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        if self.pk is None:
            return super().delete(*args, **kwargs)
        using = kwargs.get("using") or router.db_for_write(type(self), instance=self)
        row = type(self)._base_manager.using(using).filter(pk=self.pk)
        return delete_tracked(row, lambda _: super(TrackedModel, self).delete(*args, **kwargs))

    def _save_table(
        self,
        raw: bool = False,
        cls: Any = None,
        force_insert: bool = False,
        force_update: bool = False,
        using: str | None = None,
        update_fields: Any = None,
    ) -> bool:
        """Django's door to every single save; post_save comes after it."""
        tracking = None if raw else tracking_of(type(self))
        self._saving = saving = None if tracking is None else _Saving(tracking)
        try:
            updated: bool = super()._save_table(  # type: ignore[misc]
                raw, cls, force_insert, force_update, using, update_fields
            )
        finally:
            del self._saving
        if saving is not None and saving.is_tracked:
            row = self._written_row(saving, using or DEFAULT_DB_ALIAS)
            announce(type(self), [Write(row, saving.before)])
        return updated

    def _do_update(  # type: ignore[override]  # the stubs are ahead of this Django
        self, base_qs: Any, using: str, pk_val: Any, values: Any, *args: Any
    ) -> bool:
        saving = self._saving
        if saving is not None:
            written = {field.attname for field, _, _ in values}
            saving.written = written | {self._meta.pk.attname}
            saving.is_tracked = not written.isdisjoint(saving.tracking.fields)
            if saving.is_tracked:
                saving.before = lock_row(concrete(type(self)), pk_val, using)
        return bool(super()._do_update(base_qs, using, pk_val, values, *args))

    def _written_row(self, saving: "_Saving", using: str) -> Any:
        """Return the row as the database has it now; this instance may differ from it.

        A save of some fields leaves the others as they were, whatever the attributes say.
        """
        tracking = saving.tracking
        if not is_settled(self, saving.written):
            return read_rows(type(self), [self.pk], tracking, using)[key_of(self)]
        if saving.before is None or (saving.written or set()) >= saving.before.keys():
            return self
        mine = self.__dict__
        values = [
            mine[name] if name in saving.written else value  # type: ignore[operator]
            for name, value in saving.before.items()
        ]
        row = type(self).from_db(using, tracking.fields, values)
        for name in tracking.related:
            field: Any = self._meta.get_field(name)
            if field.is_cached(self) and mine[field.attname] == getattr(row, field.attname):
                field.set_cached_value(row, field.get_cached_value(self))
        return row


class _Saving:
    """What the save that is under way has learned."""

    __slots__ = ("before", "is_tracked", "tracking", "written")

    def __init__(self, tracking: Tracking) -> None:
        self.tracking = tracking
        self.is_tracked = True
        self.before: State | None = None
        self.written: set[str] | None = None
        """Attribute names; None means all."""
