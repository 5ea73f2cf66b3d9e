"""Delete tracked rows: announce them first, and do not load their dependent rows.

Django's collector would load every tracked dependent row. This module deletes dependents by
statements over subqueries, children first. It leaves to the collector the models that have delete
signal receivers or untracked dependents, and all models above those. It locks rows before it looks
at their dependents, so that no transaction can add a dependent meanwhile.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Any

from django.db import DEFAULT_DB_ALIAS, models, transaction
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
"""The result of Django's delete(): the number of rows in all, and per model label."""


def delete_tracked(
    rows: models.QuerySet[Any], delete: Callable[[models.QuerySet[Any]], Deleted]
) -> Deleted:
    """Announce the deletion of rows and their dependents, then delete them.

    Calls `delete` with the locked rows only: a row that another transaction adds meanwhile would be
    deleted without an event. Opens a savepoint, so that nothing is deleted or announced where
    Django refuses. Returns the counts of all deleted rows. Raises ProtectedError and
    RestrictedError like Django's delete().
    """
    tracking = tracking_of(rows.model)
    if tracking is None:
        return delete(rows)
    with transaction.atomic():
        rows = _lock(rows)
        counts: Counter[str] = Counter()
        _prepare(rows, tracking, counts, is_locked=True)
        counts.update(delete(rows)[1])
    return counts.total(), dict(counts)


def _lock(rows: models.QuerySet[Any]) -> models.QuerySet[Any]:
    """Lock the rows and return a queryset of exactly these, by primary key."""
    keys = lock_rows(rows, for_delete=True).values_list("pk", flat=True)
    locked: models.QuerySet[Any] = rows.model._base_manager.using(DEFAULT_DB_ALIAS).filter(
        pk__in=list(keys)
    )
    return locked


def _prepare(
    rows: models.QuerySet[Any],
    tracking: Tracking,
    counts: Counter[str],
    *,
    is_locked: bool = False,
) -> None:
    """Announce rows before their deletion, and delete their tracked dependents."""
    rows_deleting.send(sender=concrete(rows.model), queryset=rows)
    if tracking.deleted is not None:
        _announce_deleted(rows)
    elif not is_locked and _has_dependents(rows.model):
        # Or somebody adds a row below one of these between its dependents' deletion and its own.
        _lock_each(rows)
    for dependents, dependent_tracking in _tracked_dependents(rows):
        _prepare(dependents, dependent_tracking, counts)
        if not needs_collector(dependents.model):
            count = dependents._raw_delete(DEFAULT_DB_ALIAS)
            counts.update({dependents.model._meta.label: count} if count else {})


def _has_dependents(model: type[models.Model]) -> bool:
    relations: Any = get_candidate_relations_to_delete(model._meta)
    return any(relation.on_delete is CASCADE for relation in relations)


def _lock_each(rows: models.QuerySet[Any]) -> None:
    keys = lock_rows(rows, for_delete=True).values_list("pk").iterator(ROWS_PER_BATCH)
    deque(keys, maxlen=0)


def _announce_deleted(rows: models.QuerySet[Any]) -> None:
    row_type = row_type_of(rows.model)
    locked = lock_rows(rows, for_delete=True).values_list(*row_type.paths).iterator(ROWS_PER_BATCH)
    writes = (Write(row_type.row(row), row_type.state(row), True) for row in locked)
    announce(rows.model, writes)


def _tracked_dependents(
    rows: models.QuerySet[Any],
) -> Iterator[tuple[models.QuerySet[Any], Tracking]]:
    # Unlike related_objects, these are also relations without a name (related_name="+").
    relations: Any = get_candidate_relations_to_delete(rows.model._meta)
    for relation in relations:
        model: Any = relation.related_model
        tracking = tracking_of(model)
        if tracking is not None and relation.on_delete is CASCADE:
            condition = {f"{relation.field.name}__in": rows.order_by()}
            yield model._base_manager.using(DEFAULT_DB_ALIAS).filter(**condition), tracking


def needs_collector(model: type[models.Model]) -> bool:
    """Return whether Django's collector must load and delete the rows of a model.

    It must where a delete signal needs each instance, or where rows depend on them that this module
    does not delete: their foreign keys would dangle.
    """
    if pre_delete.has_listeners(model) or post_delete.has_listeners(model):
        return True
    relations = get_candidate_relations_to_delete(model._meta)
    return bool(model._meta.private_fields) or any(map(_relation_needs_collector, relations))


def _relation_needs_collector(relation: Any) -> bool:
    if relation.on_delete is DO_NOTHING:
        return False
    is_deleted_here = (
        relation.on_delete is CASCADE and tracking_of(relation.related_model) is not None
    )
    return not is_deleted_here or needs_collector(relation.related_model)
