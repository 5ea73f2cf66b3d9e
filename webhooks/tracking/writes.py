"""What a write of a tracked model is, which events it causes, and how it is announced.

Announced means: `rows_written` is sent with each row as it was and as it is, inside the
transaction of the write, so that events commit or roll back with their cause (invariant 1). What
a row was and is comes from the statement that writes it, never from an instance: that may be hours
old, hold values that were never saved, or be of a transaction that was rolled back (invariant 14).
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import Any, TypeVar
from uuid import UUID

from django.db import DEFAULT_DB_ALIAS, connections, models, transaction
from django.dispatch import Signal

State = Mapping[str, Any]
"""Values of the tracked columns of a row, by attribute name."""

ROWS_PER_BATCH = 2000
"""Rows whose events are built and stored together: bounds the memory of writes of any size."""

rows_written = Signal()
"""Sent with `writes` (of one model) and `using` after they were made, before Django's post_save.

`position` is the transaction's (webhooks/outbox/notes.py), where the statement returned it; `is_last_word` says that nothing else
can write these rows in their transaction.
"""

rows_deleting = Signal()
"""Sent with `queryset` before its rows go, also for rows that a cascade is about to take."""


@dataclass(frozen=True, slots=True)
class Write:
    """One row, before and after."""

    row: Any
    """The tracked values as stored (the last ones of a deleted row), and those of related rows."""
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
    """Which events the writes of a model cause. All functions get rows as they are stored."""

    name: str
    """Of the object, in `Event.object_reference`."""
    fields: tuple[str, ...]
    """Attribute names of every column the events depend on; writes of others cost nothing."""
    related: tuple[str, ...] = ()
    """Columns of other rows that the events need, as `foreign key__attribute name`."""
    created: Callable[[Any], Iterable[Change]] = _nothing
    updated: Callable[[Any, State], Iterable[Change]] = _nothing
    """(row, state before): the net change, told once per transaction."""
    deleted: Callable[[Any], Iterable[Change]] | None = None
    steps: Callable[[Any, State | None], Iterable[Change]] = _nothing
    """(row, state before or None): changes of status, each told on its own."""
    is_announced_by_hand: bool = False
    """The writes are raw SQL and passed to announce(); the model need not be a TrackedModel."""


_trackings: dict[type[models.Model], Tracking] = {}
_types: dict[type[models.Model], "RowType"] = {}
_clashes: list[type[models.Model]] = []


class RowType:
    """What the statements that write rows of a model return of each of them."""

    def __init__(self, model: type[models.Model], tracking: Tracking) -> None:
        self.model = model
        wanted = {model._meta.pk.attname, *tracking.fields}
        self.fields = [f for f in model._meta.concrete_fields if f.attname in wanted]
        self.names = tuple(f.attname for f in self.fields)
        self.links: list[tuple[Any, list[Any]]] = []
        """Foreign keys, each with the fields that are read of its target."""
        for link in [f for f in model._meta.concrete_fields if f.is_relation]:
            known = link.remote_field.model._meta.concrete_fields  # type: ignore[union-attr]
            followed = [f for f in known if f"{link.name}__{f.attname}" in tracking.related]
            if followed:
                self.links.append((link, followed))
        self.unknown = {*wanted, *tracking.related} - {*self.paths}
        """What was declared and does not exist."""
        self.converters: dict[int, Any] | None = None
        """Of `all_fields`, by index, as Django's compilers know them; None until one has asked."""

    @cached_property
    def all_fields(self) -> list[Any]:
        """The fields behind `columns`, in its order."""
        return [*self.fields, *(f for _, followed in self.links for f in followed)]

    @cached_property
    def columns(self) -> list[str]:
        """SQL expressions over the model's table, those of related rows as subqueries."""
        table = _quoted(self.model._meta.db_table)
        own = [f"{table}.{_quoted(f.column)}{cast_of(f)}" for f in self.fields]
        return own + [
            f"(SELECT related.{_quoted(f.column)}{cast_of(f)}"  # noqa: S608 (names of columns)
            f" FROM {_quoted(f.model._meta.db_table)} related"
            f" WHERE related.{_quoted(link.target_field.column)} = {table}.{_quoted(link.column)})"
            for link, followed in self.links
            for f in followed
        ]

    @property
    def paths(self) -> list[str]:
        """`all_fields` as a queryset's values_list() names them."""
        return [*self.names, *(f"{link.name}__{f.attname}" for link, fs in self.links for f in fs)]

    def is_written_by(self, names: Collection[str]) -> bool:
        """Say whether an update of these columns, by attribute name, can change a tracked one."""
        return any(f.generated or f.attname in names for f in self.fields)

    def state(self, values: Sequence[Any]) -> State:
        """Return the values of `fields`, which come first in `values`, by name."""
        return dict(zip(self.names, values, strict=False))

    def row(self, values: Sequence[Any], using: str) -> Any:
        """Return an instance that holds the values of `all_fields`; it reads all others anew."""
        row = self.model.from_db(using, self.names, values[: len(self.names)])
        start = len(self.names)
        for link, followed in self.links:
            end = start + len(followed)
            key = getattr(row, link.attname)
            if key is not None:
                names = [link.target_field.attname, *(f.attname for f in followed)]
                related = link.remote_field.model.from_db(using, names, [key, *values[start:end]])
                link.set_cached_value(row, related)
            start = end
        return row


def cast_of(field: Any) -> str:
    """Return the SQL that frees a column of its length, or nothing where it has none.

    Postgres refuses to go on with a prepared statement once the type of a result has changed, and
    a migration that makes a column longer must not stop the saves of running processes.
    """
    declared = field.db_type(connections[DEFAULT_DB_ALIAS])
    free = re.sub(r"\(.*?\)", "", declared).replace("varchar", "text")
    return "" if free == declared else f"::{free}"


def _quoted(name: str | None) -> str:
    connection: Any = connections[DEFAULT_DB_ALIAS]
    return str(connection.ops.quote_name(name))


def track(model: type[models.Model], tracking: Tracking) -> None:
    """Declare which events the writes of a model cause; called once, from AppConfig.ready().

    A model that cannot be tracked is a system check error (webhooks/checks/declarations.py).
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
    """Return the model whose rows these are, also for a proxy."""
    return model._meta.concrete_model or model


def tracking_of(model: type[models.Model]) -> Tracking | None:
    """Return how a model is tracked, or None where its writes cause no events."""
    return _trackings.get(concrete(model))


def row_type_of(model: type[models.Model]) -> RowType:
    """Return what is read of each row of a tracked model."""
    return _types[concrete(model)]


def tracked_models() -> Mapping[type[models.Model], Tracking]:
    """Return every tracked model with its tracking."""
    return _trackings


def clashes() -> list[type[models.Model]]:
    """Return the models that were tracked a second time; the first declaration stands."""
    return list(_clashes)


def own_transaction(using: str) -> AbstractContextManager[Any]:
    """Hold a write and its events together, without doing anything to the caller's transaction.

    In autocommit this opens a transaction; with autocommit switched off by hand, a savepoint. In
    an atomic block it does nothing: Django marks that one as broken where a write has failed.
    """
    if connections[using].in_atomic_block:
        return nullcontext()
    return transaction.atomic(using=using)


def announce(
    model: type[models.Model],
    writes: Iterable[Write],
    using: str,
    *,
    position: str | None = None,
    is_last_word: bool = False,
) -> None:
    """Send `rows_written`, a batch at a time."""
    for batch in batches(writes):
        rows_written.send(
            sender=concrete(model),
            writes=batch,
            using=using,
            position=position,
            is_last_word=is_last_word,
        )
        position = None


T = TypeVar("T")


def batches(items: Iterable[T]) -> Iterator[list[T]]:
    """Cut anything into lists of ROWS_PER_BATCH."""
    iterator = iter(items)
    while batch := list(islice(iterator, ROWS_PER_BATCH)):
        yield batch


def lock_rows(rows: models.QuerySet[Any], *, for_delete: bool = False) -> models.QuerySet[Any]:
    """Return rows as a queryset that locks them, in the order of their keys.

    Through a subquery where they are found by joins or groups, which would forbid the lock.
    """
    chosen, query = rows.order_by(), rows.query
    if query.count_active_tables() > 1 or query.distinct or query.group_by is not None:
        chosen = rows.model._base_manager.using(rows.db).filter(pk__in=chosen.values("pk"))
    return chosen.select_for_update(no_key=not for_delete, of=("self",)).order_by("pk")
