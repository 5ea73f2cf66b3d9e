"""The base class of models whose writes become events, whichever Django API writes them.

It overrides the few methods that every insert, update and delete calls. Each holds the write and
its events in one transaction: in autocommit, Django sends post_save after it has committed the row,
and a failure to store the event would then lose it (invariant 1).
"""

from collections.abc import Sequence
from typing import Any, ClassVar

from django.db import connection, connections, models, router, transaction
from django.db.models import Q, sql
from django.db.models.constants import OnConflict
from django.db.models.options import Options
from django.db.models.signals import class_prepared
from django.utils.functional import cached_property

from webhooks.tracking.deletes import delete_tracked
from webhooks.tracking.statements import AnnouncedQuery, InsertCompiler
from webhooks.tracking.writes import (
    State,
    Write,
    announce,
    lock_rows,
    own_transaction,
    refuse_other_database,
    row_type_of,
    tracking_of,
)


class TrackedQuerySet(models.QuerySet[Any]):
    """A queryset that announces its writes, with a constant number of queries per batch."""

    def update(self, **kwargs: Any) -> int:
        meta = self.model._meta
        names = {getattr(meta.get_field(name), "attname", "") for name in kwargs}
        self._check_database()
        if not self._are_tracked(names):
            return super().update(**kwargs)
        rows: Any = self._with_announced_query()
        rows.query.is_whole_transaction = connection.get_autocommit()
        with own_transaction():
            count = models.QuerySet.update(rows, **kwargs)
        self._result_cache = None
        return count

    update.alters_data = True  # type: ignore[attr-defined]

    def _update(self, values: Sequence[tuple[Any, Any, Any]], *returning_fields: Any) -> Any:
        """Update one row; Django calls this for every save() of an existing row.

        Django 6.0 and newer name fields, and get their new values of each row.
        """
        rows: Any = self
        if self._are_tracked({field.attname for field, _, _ in values}):
            rows = self._with_announced_query()
            is_plain = not any(hasattr(value, "resolve_expression") for _, _, value in values)
            rows.query.is_plain_save = is_plain
        return models.QuerySet._update(rows, values, *returning_fields)  # type: ignore[attr-defined]

    def _check_database(self) -> None:
        self._for_write = True
        refuse_other_database(self.model, self.db)

    def _are_tracked(self, names: set[str]) -> bool:
        return tracking_of(self.model) is not None and row_type_of(self.model).is_written_by(names)

    def _with_announced_query(self) -> "TrackedQuerySet":
        rows: TrackedQuerySet = self._chain()  # type: ignore[attr-defined]
        rows._for_write = True
        rows.query.__class__ = AnnouncedQuery
        return rows

    def bulk_create(self, *args: Any, **kwargs: Any) -> list[Any]:
        self._check_database()
        with own_transaction():
            return super().bulk_create(*args, **kwargs)

    def bulk_update(self, *args: Any, **kwargs: Any) -> int:
        self._check_database()
        with own_transaction():
            return super().bulk_update(*args, **kwargs)

    bulk_update.alters_data = True  # type: ignore[attr-defined]

    def delete(self) -> tuple[int, dict[str, int]]:
        if self.query.is_sliced or self.query.combinator or self._fields is not None:  # type: ignore[attr-defined]
            return super().delete()  # raises, because Django refuses such deletes
        self._check_database()
        return delete_tracked(self, models.QuerySet.delete)

    delete.alters_data = True  # type: ignore[attr-defined]
    delete.queryset_only = True  # type: ignore[attr-defined]

    def _insert(
        self,
        objs: list[Any],
        fields: Any,
        returning_fields: Any = None,
        raw: bool = False,
        using: str | None = None,
        on_conflict: OnConflict | None = None,
        update_fields: Any = None,
        unique_fields: Any = None,
    ) -> list[tuple[Any, ...]]:
        """Insert objects that have primary keys; Django calls this for save() and bulk_create().

        With `ignore_conflicts` only inserted rows are announced; with `update_conflicts` existing
        rows are announced as updated.
        """
        options = {
            "on_conflict": on_conflict,
            "update_fields": update_fields,
            "unique_fields": unique_fields,
        }
        if raw or tracking_of(self.model) is None:
            inserted: list[tuple[Any, ...]] = super()._insert(  # type: ignore[misc]
                objs, fields, returning_fields, raw, using, **options
            )
            return inserted
        self._for_write = True
        using = using or self.db
        query = sql.InsertQuery(self.model, **options)
        query.insert_values(fields, objs, raw=raw)
        compiler = InsertCompiler(query, connections[using], using)
        requested = list(returning_fields or ())
        row_type = row_type_of(self.model)
        if on_conflict == OnConflict.UPDATE:
            rows = self._upsert(objs, compiler, requested, unique_fields)
        else:
            rows = compiler.insert(row_type, requested)
            created = (Write(row_type.row(row[len(requested) :]), None) for row in rows)
            announce(self.model, created)
        return [row[: len(requested)] for row in rows]

    _insert.alters_data = True  # type: ignore[attr-defined]
    _insert.queryset_only = False  # type: ignore[attr-defined]

    def _upsert(
        self, objs: list[Any], compiler: InsertCompiler, requested: list[Any], unique_fields: Any
    ) -> list[tuple[Any, ...]]:
        """Insert or update the objects, and announce each row as created or updated.

        Only an updated row has an xmax, because Postgres locked it. An updated row that
        _lock_conflicting() did not find (another transaction has just committed it, or a trigger
        changes the values) has no known old values; then this method rolls back to the savepoint,
        locks that row by its key and tries again.
        """
        row_type = row_type_of(self.model)
        key = self.model._meta.pk.attname
        requested = [*requested, _XmaxField(self.model)]
        missed_keys: set[Any] = set()
        while True:
            with transaction.atomic():
                before = self._lock_conflicting(objs, unique_fields, missed_keys)
                written = compiler.insert(row_type, requested)
                states = [row_type.state(values[len(requested) :]) for values in written]
                is_updated = [int(values[len(requested) - 1]) > 0 for values in written]
                updated = {state[key] for state, old in zip(states, is_updated, strict=True) if old}
                if updated <= before.keys():
                    break
                missed_keys |= updated - before.keys()
                transaction.set_rollback(True)
        rows = [row_type.row(values[len(requested) :]) for values in written]
        announce(self.model, [Write(row, None) for row in rows if row.pk not in updated])
        announce(self.model, [Write(row, before[row.pk]) for row in rows if row.pk in updated])
        return written

    def _lock_conflicting(
        self, objs: list[Any], unique_fields: Any, keys: set[Any]
    ) -> dict[Any, State]:
        """Lock existing rows with the objects' unique values, and those with the given keys."""
        same_values = {
            f"{field.attname}__in": [getattr(obj, field.attname) for obj in objs]
            for field in unique_fields
        }
        rows = self.model._base_manager.filter(Q(**same_values) | Q(pk__in=keys))
        key = self.model._meta.pk.attname
        names = row_type_of(self.model).names
        return {state[key]: state for state in lock_rows(rows).values(*names)}


class _XmaxField(models.BigIntegerField):  # type: ignore[type-arg]
    """The system column xmax as a field, so that an INSERT can return it."""

    def __init__(self, model: type[models.Model]) -> None:
        super().__init__()
        self.set_attributes_from_name("xmax")
        self.model = model


class TrackedOptions(Options):  # type: ignore[type-arg]
    """Options of a model whose base manager announces writes and hides no row.

    The base manager is made again whenever any model class is made: only a class can change it.
    Migrations record a base manager that is not the default one, so such a manager stays as it is.
    """

    @cached_property
    def base_manager(self) -> Any:
        model: Any = self.model
        named = super().base_manager
        if model._is_adopted:
            # Without a name of its own, the model would get the one that TrackedModel names.
            is_kept = self.base_manager_name is not None
        else:
            may_hide = type(named).get_queryset is not models.Manager.get_queryset
            is_default = named.name == "objects" and named is self.default_manager
            is_kept = not (may_hide and is_default)
        if is_kept:
            return named
        manager = TrackedQuerySet.as_manager()
        manager.name, manager.model, manager.auto_created = "_base_manager", model, True
        return manager


def keep_base_manager(sender: type[models.Model], **_: Any) -> None:
    """Have a tracked model announce what is written through its base manager."""
    if issubclass(sender, TrackedModel):
        sender._meta.__class__ = TrackedOptions


class_prepared.connect(keep_base_manager)


class TrackedModel(models.Model):
    """A model whose writes are announced in their own transaction, except when loading fixtures."""

    objects: ClassVar[Any] = TrackedQuerySet.as_manager()

    class Meta:
        abstract = True
        # Single saves and related managers write through the base manager (TrackedOptions).
        base_manager_name = "objects"

    _is_raw = False
    _is_adopted = False

    def save_base(self, *args: Any, **kwargs: Any) -> None:
        # This keeps receivers of post_save before the commit in autocommit, too.
        using = kwargs.get("using") or router.db_for_write(type(self), instance=self)
        refuse_other_database(type(self), using)
        with own_transaction():
            super().save_base(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        if self.pk is None:
            return super().delete(*args, **kwargs)
        using = kwargs.get("using") or router.db_for_write(type(self), instance=self)
        refuse_other_database(type(self), using)
        row = type(self)._base_manager.filter(pk=self.pk)
        return delete_tracked(row, lambda _: super(TrackedModel, self).delete(*args, **kwargs))

    def _save_table(self, raw: bool = False, *args: Any, **kwargs: Any) -> bool:
        """Remember `raw` for _do_update(): Django passes it on to inserts alone."""
        self._is_raw = raw
        try:
            return bool(super()._save_table(raw, *args, **kwargs))  # type: ignore[misc]
        finally:
            del self._is_raw

    def _do_update(self, base_qs: Any, using: str, *args: Any) -> Any:  # type: ignore[override]  # of several versions
        """Return what Django does: whether a row was updated, or since 6.0 the rows' new values."""
        if self._is_raw:
            base_qs = models.QuerySet(base_qs.model, using=using)
        return super()._do_update(base_qs, using, *args)
