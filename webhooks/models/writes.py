"""What a write of a tracked model is, which events it causes, and how it is announced.

Announced means: `rows_written` is sent with each row as it was and as it is, inside the
transaction of the write, so that events commit or roll back with their cause (invariant 1). What
a row was is read from the database under a row lock, never remembered: an instance may be hours
old, and two writers may race.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from itertools import islice
from typing import Any, TypeVar
from uuid import UUID

from django.db import connections, models
from django.db.models import prefetch_related_objects
from django.dispatch import Signal

State = Mapping[str, Any]
"""Values of the tracked columns of a row, by attribute name."""

ROWS_PER_BATCH = 2000
"""Rows whose events are built and stored together: bounds the memory of writes of any size."""

rows_written = Signal()
"""Sent with `writes` (of one model) after they were made, before Django's post_save."""

rows_deleting = Signal()
"""Sent with `queryset` before its rows go, also for rows that a cascade is about to take."""


@dataclass(frozen=True, slots=True)
class Write:
    """One row, before and after."""

    row: Any
    """An instance that holds the row's present values (its last ones where it was deleted)."""
    before: State | None
    """None where the row is new."""
    is_deleted: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """An event that a write causes."""

    event_type: str
    owner_id: UUID | None
    data: dict[str, Any]


def _nothing(*_: Any) -> Iterable[Change]:
    return ()


@dataclass(frozen=True, slots=True)
class Tracking:
    """Which events the writes of a model cause. All functions get a row with settled values."""

    name: str
    """Of the object, in `Event.object_reference`."""
    fields: tuple[str, ...]
    """Attribute names of every column the events depend on; writes of others cost nothing."""
    related: tuple[str, ...] = ()
    """Foreign keys that the events follow."""
    created: Callable[[Any], Iterable[Change]] = _nothing
    updated: Callable[[Any, State], Iterable[Change]] = _nothing
    """(row, state before): the net change, told once per transaction."""
    deleted: Callable[[Any], Iterable[Change]] | None = None
    steps: Callable[[Any, State | None], Iterable[Change]] = _nothing
    """(row, state before or None): changes of status, each told on its own."""


_trackings: dict[type[models.Model], Tracking] = {}
_types: dict[type[models.Model], list[tuple[str, type]]] = {}

_PYTHON_TYPES: dict[str, type] = {
    "UUIDField": UUID, "CharField": str, "TextField": str, "BooleanField": bool,
    "DateTimeField": datetime, "IntegerField": int, "BigIntegerField": int,
    "PositiveIntegerField": int, "PositiveBigIntegerField": int,
}  # fmt: skip


_DEFERRED = object()


def track(model: type[models.Model], tracking: Tracking) -> None:
    """Declare which events the writes of a model cause; called once, from AppConfig.ready()."""
    wanted = {model._meta.pk.attname, *tracking.fields}
    fields = [field for field in model._meta.concrete_fields if field.attname in wanted]
    _trackings[model] = replace(tracking, fields=tuple(field.attname for field in fields))
    _types[model] = [(field.attname, _python_type(field)) for field in fields]


def _python_type(field: Any) -> type:
    while field.is_relation:
        field = field.target_field
    return _PYTHON_TYPES.get(field.get_internal_type(), object)


def concrete(model: type[models.Model]) -> type[models.Model]:
    """Return the model whose rows these are, also for a proxy."""
    return model._meta.concrete_model or model


def tracking_of(model: type[models.Model]) -> Tracking | None:
    """Return how a model is tracked, or None where its writes cause no events."""
    return _trackings.get(concrete(model))


def tracked_models() -> Mapping[type[models.Model], Tracking]:
    """Return every tracked model with its tracking."""
    return _trackings


def announce(model: type[models.Model], writes: Iterable[Write]) -> None:
    """Send `rows_written`, a batch at a time."""
    for batch in batches(writes):
        rows_written.send(sender=concrete(model), writes=batch)


T = TypeVar("T")


def batches(items: Iterable[T]) -> Iterator[list[T]]:
    """Cut anything into lists of ROWS_PER_BATCH."""
    iterator = iter(items)
    while batch := list(islice(iterator, ROWS_PER_BATCH)):
        yield batch


def lock_rows(rows: models.QuerySet[Any], tracking: Tracking, *, for_delete: bool = False) -> Any:
    """Return the tracked columns of rows as a queryset that locks them, in the order of their keys.

    Through a subquery, so that whatever the queryset joins or groups is no obstacle to the lock.
    """
    chosen = rows.model._base_manager.using(rows.db).filter(pk__in=rows.order_by().values("pk"))
    locked = chosen.select_for_update(no_key=not for_delete, of=("self",)).order_by("pk")
    return locked.values(*tracking.fields)


def lock_row(model: type[models.Model], key: Any, using: str) -> State | None:
    """Return the tracked columns of one row and lock it; None where there is none.

    In plain SQL: the compiler of querysets would cost more than the statement.
    """
    with connections[using].cursor() as cursor:
        cursor.execute(
            _lock_sql(model), [model._meta.pk.get_db_prep_value(key, connections[using])]
        )
        row = cursor.fetchone()
    return None if row is None else dict(zip(_trackings[model].fields, row, strict=True))


@cache
def _lock_sql(model: type[models.Model]) -> str:
    meta = model._meta
    columns = ", ".join(
        f'"{field.column}"'
        for field in meta.concrete_fields
        if field.attname in _trackings[model].fields
    )
    return (
        f'SELECT {columns} FROM "{meta.db_table}" WHERE "{meta.pk.column}" = %s'  # noqa: S608
        " FOR NO KEY UPDATE"
    )


def is_settled(row: models.Model, written: Collection[str] | None = None) -> bool:
    """Say whether the tracked attributes hold what the database would return for them.

    Expressions, and values of a type that the column merely converts, do not. `written` are the
    attributes to look at; None means all.
    """
    values = row.__dict__
    for attname, python_type in _types[concrete(type(row))]:
        if written is not None and attname not in written:
            continue
        value: Any = values.get(attname, _DEFERRED)
        if value is not None and not isinstance(value, python_type):
            return False
        if isinstance(value, datetime) and value.tzinfo is None:
            return False
    return True


def settle_rows(rows: Sequence[Any], tracking: Tracking, using: str) -> list[Any]:
    """Return the rows with settled values and related objects at hand, in at most two queries."""
    if not rows:
        return []
    unsettled = [row.pk for row in rows if not is_settled(row)]
    stored = read_rows(type(rows[0]), unsettled, tracking, using) if unsettled else {}
    settled = [row if is_settled(row) else stored[key_of(row)] for row in rows]
    if tracking.related:
        prefetch_related_objects(settled, *tracking.related)
    return settled


def read_rows(
    model: type[models.Model], keys: Sequence[Any], tracking: Tracking, using: str
) -> dict[Any, Any]:
    """Return rows by primary key, with what their events need, in one query."""
    rows = model._base_manager.using(using).filter(pk__in=keys)
    if tracking.related:
        rows = rows.select_related(*tracking.related)
    return {row.pk: row for row in rows}


def key_of(row: models.Model) -> Any:
    return row._meta.pk.to_python(row.pk)
