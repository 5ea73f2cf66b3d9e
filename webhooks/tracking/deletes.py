"""Deletes of tracked rows: announced before the rows go, without loading what hangs on them.

Django's collector would load every dependent row that is tracked. Here dependents are removed by
statements over subqueries, children first; what cannot be (models that somebody's signals watch or
that untracked rows hang on, and all above them) is left to the collector. The roots are locked
before, so that nothing new can hang on to them meanwhile.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from django.db import models, transaction
from django.db.models import CASCADE, DO_NOTHING
from django.db.models.deletion import get_candidate_relations_to_delete
from django.db.models.signals import post_delete, pre_delete

from webhooks.tracking.writes import (
    ROWS_PER_BATCH,
    Tracking,
    Write,
    announce,
    concrete,
    lock_rows,
    row_type_of,
    rows_deleting,
    tracking_of,
)

Deleted = tuple[int, dict[str, int]]
"""What Django's delete() returns: how many rows in all, and of each model."""


def delete_tracked(
    rows: models.QuerySet[Any], delete: Callable[[models.QuerySet[Any]], Deleted]
) -> Deleted:
    """Announce the deletion of rows and of what goes with them, then let Django delete the rest.

    `delete` is called with the rows that were locked: one that another transaction adds meanwhile
    would go without an event. Opens a savepoint: where Django refuses (PROTECT), nothing is gone
    and nothing announced.
    """
    tracking = tracking_of(rows.model)
    if tracking is None:
        return delete(rows)
    with transaction.atomic(using=rows.db):
        rows = _lock(rows)
        removed: Counter[str] = Counter()
        _prepare(rows, tracking, removed)
        removed.update(delete(rows)[1])
    return removed.total(), dict(removed)


def _lock(rows: models.QuerySet[Any]) -> models.QuerySet[Any]:
    """Choose the rows once, and lock them: none changes, nobody else adds a dependent."""
    keys = lock_rows(rows, for_delete=True).values_list("pk", flat=True)
    locked: models.QuerySet[Any] = rows.model._base_manager.using(rows.db).filter(pk__in=list(keys))
    return locked


def _prepare(rows: models.QuerySet[Any], tracking: Tracking, removed: Counter[str]) -> None:
    """Announce rows that are about to go, and remove their tracked dependents."""
    rows_deleting.send(sender=concrete(rows.model), queryset=rows)
    if tracking.deleted is not None:
        _announce_deleted(rows)
    for dependents, dependent_tracking in _tracked_dependents(rows):
        _prepare(dependents, dependent_tracking, removed)
        if not _needs_collector(dependents.model):
            count = dependents._raw_delete(dependents.db)
            removed.update({dependents.model._meta.label: count} if count else {})


def _announce_deleted(rows: models.QuerySet[Any]) -> None:
    row_type = row_type_of(rows.model)
    found = lock_rows(rows, for_delete=True).values_list(*row_type.paths).iterator(ROWS_PER_BATCH)
    writes = (Write(row_type.row(row, rows.db), row_type.state(row), True) for row in found)
    announce(rows.model, writes, rows.db)


def _tracked_dependents(
    rows: models.QuerySet[Any],
) -> Iterator[tuple[models.QuerySet[Any], Tracking]]:
    for relation in rows.model._meta.related_objects:
        model: Any = relation.related_model
        tracking = tracking_of(model)
        if tracking is not None and relation.on_delete is CASCADE:
            chosen = {f"{relation.field.name}__in": rows.order_by()}
            yield model._base_manager.using(rows.db).filter(**chosen), tracking


def _needs_collector(model: type[models.Model]) -> bool:
    """Say whether Django has to load the rows of a model that are about to go.

    Because somebody's signals must hear of each of them, or because something hangs on them that is
    not removed here: it would be left pointing at nothing.
    """
    if pre_delete.has_listeners(model) or post_delete.has_listeners(model):
        return True
    relations = get_candidate_relations_to_delete(model._meta)
    return bool(model._meta.private_fields) or any(map(_is_left_hanging, relations))


def _is_left_hanging(relation: Any) -> bool:
    if relation.on_delete is DO_NOTHING:
        return False
    is_removed = relation.on_delete is CASCADE and tracking_of(relation.related_model) is not None
    return not is_removed or _needs_collector(relation.related_model)
