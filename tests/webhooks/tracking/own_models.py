"""Models that one test declares, with their tables."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connection, models

from webhooks.tracking import TrackedModel, TrackedQuerySet, tracked


def make_model(name: str, base: Any = TrackedModel, **members: Any) -> Any:
    """Return a model with a name; make it under isolate_apps()."""
    meta = type("Meta", (getattr(base, "Meta", object),), {"app_label": "projects"})
    members = {"name": models.CharField(max_length=10), "Meta": meta} | members
    return type(base)(name, (base,), members | {"__module__": "projects.models"})


def declare(*declared: type[models.Model]) -> None:
    for model in declared:
        tracked(owner=None, fields=["name"])(model)


class Living(models.Manager.from_queryset(TrackedQuerySet)):  # type: ignore[misc]
    """A manager that hides rows."""

    def get_queryset(self) -> models.QuerySet[Any]:
        return super().get_queryset().exclude(name="gone")  # type: ignore[no-any-return]


@contextmanager
def tables_of(*created: type[models.Model]) -> Iterator[None]:
    """Create the models' tables, those before that others refer to, and drop them afterwards."""
    with connection.schema_editor() as editor:
        for model in created:
            editor.create_model(model)
    try:
        yield
    finally:
        with connection.schema_editor() as editor:
            for model in reversed(created):
                editor.delete_model(model)
