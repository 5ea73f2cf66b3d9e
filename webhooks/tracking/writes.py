"""Declare which events the writes of a tracked model cause, and announce the writes.

To announce a write is to send `rows_written` with each row's old and new values inside the write's
transaction, so that events commit or roll back with their cause (invariant 1). The values come from
the statement that writes the row, never from an instance: an instance may be hours old, hold
unsaved values, or come from a transaction that rolled back (invariant 14).
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import Any, TypeVar

from django.db import DEFAULT_DB_ALIAS, connection, connections, models, transaction
from django.db.models.base import ModelState
from django.dispatch import Signal

from webhooks.errors import OtherDatabaseError

State = Mapping[str, Any]
"""The values of a row's tracked columns, by attribute name."""

ROWS_PER_BATCH = 2000
"""How many rows have their events built and stored together; bounds the memory of large writes."""

rows_written = Signal()
"""Sent after the rows are written and before Django's post_save.

`writes` is a list of Write for one model. `position` is the transaction's position
(webhooks/outbox/notes.py), or None where the statement did not return it.
`is_final_write` says that no later statement of the transaction writes these rows.
"""

rows_deleting = Signal()
"""Sent with `queryset` before its rows are deleted, directly or by a cascade."""


@dataclass(frozen=True, slots=True)
class Write:
    """One written row, with its values before and after."""

    row: Any
    """An instance with the stored values (of a deleted row, the last ones) and related values."""
    before: State | None
    """The values before the write; None for a new row."""
    is_deleted: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """An event that a write causes."""

    event_type: str
    owner_id: Any
    """The key of a row of the owner model; None for an event without an owner."""
    data: dict[str, Any]


def _no_changes(*_: Any) -> Iterable[Change]:
    return ()


@dataclass(frozen=True, slots=True)
class Tracking:
    """Which events the writes of a model cause. The functions receive rows with stored values."""

    name: str
    """The object's name in `Event.object_reference`."""
    fields: tuple[str, ...]
    """Attribute names of all columns that the events depend on; writes of other columns are not
    announced."""
    related: tuple[str, ...] = ()
    """Columns of related rows that the events need, as `foreign key__attribute name`."""
    created: Callable[[Any], Iterable[Change]] = _no_changes
    updated: Callable[[Any, State], Iterable[Change]] = _no_changes
    """(row, values before): the net change, one event per transaction."""
    deleted: Callable[[Any], Iterable[Change]] | None = None
    transitions: Callable[[Any, State | None], Iterable[Change]] = _no_changes
    """(row, values before or None): status changes, a separate event each."""
    is_announced_by_hand: bool = False
    """Whether raw SQL writes the rows and the caller passes them to announce(); then the model need
    not be a TrackedModel."""


_trackings: dict[type[models.Model], Tracking] = {}
_types: dict[type[models.Model], "RowType"] = {}
_clashes: list[type[models.Model]] = []


class RowType:
    """The columns that a statement returns for each row of a tracked model that it writes."""

    def __init__(self, model: type[models.Model], tracking: Tracking) -> None:
        self.model = model
        wanted = {model._meta.pk.attname, *tracking.fields}
        self.fields = [f for f in model._meta.concrete_fields if f.attname in wanted]
        self.names = tuple(f.attname for f in self.fields)
        self.links: list[tuple[Any, list[Any]]] = []
        """Foreign keys, each with the fields to read from its target."""
        for link in [f for f in model._meta.concrete_fields if f.is_relation]:
            fields = link.remote_field.model._meta.concrete_fields  # type: ignore[union-attr]
            read = [f for f in fields if f"{link.name}__{f.attname}" in tracking.related]
            if read:
                self.links.append((link, read))
        self.unknown = {*wanted, *tracking.related} - {*self.paths}
        """Declared names that the model does not have."""
        self.converters: dict[int, Any] | None = None
        """Django's converters of `all_fields`, by index; None until a compiler has set them."""

    @cached_property
    def all_fields(self) -> list[Any]:
        """The fields of `columns`, in the same order."""
        return [*self.fields, *(f for _, read in self.links for f in read)]

    @cached_property
    def columns(self) -> list[str]:
        """SQL expressions over the model's table; related columns are subqueries."""
        table = _quoted(self.model._meta.db_table)
        own = [f"{table}.{_quoted(f.column)}{cast_of(f)}" for f in self.fields]
        return own + [
            f"(SELECT related.{_quoted(f.column)}{cast_of(f)}"  # noqa: S608 (names of columns)
            f" FROM {_quoted(f.model._meta.db_table)} related"
            f" WHERE related.{_quoted(link.target_field.column)} = {table}.{_quoted(link.column)})"
            for link, read in self.links
            for f in read
        ]

    @property
    def paths(self) -> list[str]:
        """`all_fields` as the names that a queryset's values_list() takes."""
        return [*self.names, *(f"{link.name}__{f.attname}" for link, fs in self.links for f in fs)]

    def is_written_by(self, names: Collection[str]) -> bool:
        """Return whether an update of these columns (attribute names) can change a tracked one."""
        return any(f.generated or f.attname in names for f in self.fields)

    def state(self, values: Sequence[Any]) -> State:
        """Return the values of `fields` by name; they come first in `values`."""
        return dict(zip(self.names, values, strict=False))

    def row(self, values: Sequence[Any]) -> Any:
        """Return an instance with the values of `all_fields`; its other fields are deferred.

        It is made without the model's own __init__ and from_db, which may read deferred fields.
        """
        row = _instance(self.model, self.names, values)
        start = len(self.names)
        for link, read in self.links:
            end = start + len(read)
            key = getattr(row, link.attname)
            if key is not None:
                names = [link.target_field.attname, *(f.attname for f in read)]
                related = _instance(link.remote_field.model, names, [key, *values[start:end]])
                link.set_cached_value(row, related)
            start = end
        return row


def _instance(model: type[models.Model], names: Iterable[str], values: Iterable[Any]) -> Any:
    instance = model.__new__(model)
    instance._state = ModelState()
    instance._state.adding = False
    instance._state.db = DEFAULT_DB_ALIAS
    for name, value in zip(names, values, strict=False):
        setattr(instance, name, value)
    return instance


def cast_of(field: Any) -> str:
    """Return the SQL cast that removes a column's length limit; empty where it has none.

    Postgres refuses a prepared statement whose result type has changed, and a migration that
    lengthens a column must not break the saves of running processes.
    """
    declared = field.db_type(connections[DEFAULT_DB_ALIAS])
    unlimited = re.sub(r"\(.*?\)", "", declared).replace("varchar", "text")
    return "" if unlimited == declared else f"::{unlimited}"


def _quoted(name: str | None) -> str:
    connection: Any = connections[DEFAULT_DB_ALIAS]
    return str(connection.ops.quote_name(name))


def track(model: type[models.Model], tracking: Tracking) -> None:
    """Declare which events the writes of a model cause; call it once, from AppConfig.ready().

    System checks (webhooks/tracking/checks.py) report a model that cannot be tracked and a
    second declaration, which has no effect.
    """
    model = concrete(model)
    if model in _trackings:
        _clashes.append(model)
        return
    _trackings[model] = tracking
    if not model._meta.abstract:
        row_type = _types[model] = RowType(model, tracking)
        _trackings[model] = replace(tracking, fields=row_type.names)


def concrete(model: type[models.Model]) -> type[models.Model]:
    """Return the model that owns the table; for a proxy, its concrete model."""
    return model._meta.concrete_model or model


def tracking_of(model: type[models.Model]) -> Tracking | None:
    """Return the model's tracking, or None if its writes cause no events."""
    return _trackings.get(concrete(model))


def row_type_of(model: type[models.Model]) -> RowType:
    """Return the row type of a tracked model; raises KeyError for any other."""
    return _types[concrete(model)]


def tracked_models() -> Mapping[type[models.Model], Tracking]:
    """Return every tracked model with its tracking."""
    return _trackings


def clashes() -> list[type[models.Model]]:
    """Return the models that have a second declaration; the first one is in effect."""
    return list(_clashes)


def own_transaction() -> AbstractContextManager[Any]:
    """Return a context manager that holds a write and its events in one transaction.

    It opens a transaction in autocommit, and a savepoint if the program has switched autocommit
    off. In an atomic block it does nothing: if the write fails, Django marks the block as broken.
    """
    if connection.in_atomic_block:
        return nullcontext()
    return transaction.atomic()


def refuse_other_database(model: type[models.Model], alias: str) -> None:
    """Raise OtherDatabaseError if a write of a tracked model goes to another database alias.

    The events would be stored in `default`, in another transaction than their cause.
    """
    if alias != DEFAULT_DB_ALIAS and tracking_of(model) is not None:
        raise OtherDatabaseError(
            f"{model._meta.label} is tracked, so it is written through the database "
            f"{DEFAULT_DB_ALIAS!r}, which stores its events; {alias!r} was asked for."
        )


def announce(
    model: type[models.Model],
    writes: Iterable[Write],
    *,
    position: str | None = None,
    is_final_write: bool = False,
) -> None:
    """Send `rows_written` for each batch of ROWS_PER_BATCH writes of one model.

    Call it in the transaction of the writes. The keyword arguments are those of the signal.
    """
    for batch in batches(writes):
        rows_written.send(
            sender=concrete(model),
            writes=batch,
            position=position,
            is_final_write=is_final_write,
        )
        position = None


T = TypeVar("T")


def batches(items: Iterable[T]) -> Iterator[list[T]]:
    """Yield the items in lists of at most ROWS_PER_BATCH."""
    iterator = iter(items)
    while batch := list(islice(iterator, ROWS_PER_BATCH)):
        yield batch


def lock_rows(rows: models.QuerySet[Any], *, for_delete: bool = False) -> models.QuerySet[Any]:
    """Return a queryset that locks the rows in the order of their keys when it is evaluated.

    The lock is FOR NO KEY UPDATE, or FOR UPDATE with `for_delete`. Joins, DISTINCT, GROUP BY and
    window functions move into a subquery, because Postgres refuses row locks with them.
    """
    locked, query = rows.order_by(), rows.query
    is_joined = query.count_active_tables() > 1 or query.distinct or query.group_by is not None
    if is_joined or query.where.contains_over_clause:
        locked = rows.model._base_manager.filter(pk__in=locked.values("pk"))
    return locked.select_for_update(no_key=not for_delete, of=("self",)).order_by("pk")
