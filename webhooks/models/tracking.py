"""The base of models whose changes become events.

Every write opens its own transaction: in autocommit Django runs post_save after the row is
already committed, and an event that then fails would be lost (invariant 1).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self, TypeVar
from uuid import UUID

from django.db import models, transaction

State = Mapping[str, Any]
"""Column values of a row by attribute name, as they were when it was read."""


@dataclass(frozen=True, slots=True)
class Change:
    """An event that a write of a tracked model causes."""

    event_type: str
    owner_id: UUID
    data: dict[str, Any]
    object_reference: str


Describe = Callable[[Any, State | None, bool], Iterator[Change]]
"""(instance, its state before or None when new, whether it was deleted) -> the events."""

_describe: dict[type["TrackedModel"], Describe] = {}

ModelT = TypeVar("ModelT", bound=models.Model)


def describe_changes_of(model: type["TrackedModel"], describe: Describe) -> None:
    """Declare which events the writes of a model cause; called once, from AppConfig.ready()."""
    _describe[model] = describe


class TrackedQuerySet(models.QuerySet[ModelT]):
    """A queryset whose writes and their events commit or roll back together."""

    def update(self, **kwargs: Any) -> int:
        with transaction.atomic(using=self.db):
            return super().update(**kwargs)

    update.alters_data = True  # type: ignore[attr-defined]

    def delete(self) -> tuple[int, dict[str, int]]:
        with transaction.atomic(using=self.db):
            return super().delete()

    delete.alters_data = True  # type: ignore[attr-defined]
    delete.queryset_only = True  # type: ignore[attr-defined]

    def bulk_create(self, objs: Iterable[ModelT], *args: Any, **kwargs: Any) -> list[ModelT]:
        with transaction.atomic(using=self.db):
            return super().bulk_create(objs, *args, **kwargs)

    def bulk_update(self, objs: Iterable[ModelT], *args: Any, **kwargs: Any) -> int:
        with transaction.atomic(using=self.db):
            return super().bulk_update(objs, *args, **kwargs)


class TrackedModel(models.Model):
    """A model whose saves and deletes emit events within the same transaction."""

    objects: ClassVar[Any] = TrackedQuerySet.as_manager()

    _state_before: State | None = None

    class Meta:
        abstract = True

    def save(self, *args: Any, **kwargs: Any) -> None:
        with transaction.atomic(using=kwargs.get("using")):
            super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        with transaction.atomic(using=kwargs.get("using")):
            return super().delete(*args, **kwargs)

    @classmethod
    def from_db(cls, *args: Any, **kwargs: Any) -> Self:
        instance = super().from_db(*args, **kwargs)
        instance.remember_state()
        return instance

    def remember_state(self) -> None:
        """Take the present column values as what the next save compares itself with."""
        values = self.__dict__
        self._state_before = {
            field.attname: values[field.attname]
            for field in self._meta.concrete_fields
            if field.attname in values
        }

    def refresh_from_db(self, *args: Any, **kwargs: Any) -> None:
        super().refresh_from_db(*args, **kwargs)
        self.remember_state()

    def changes(self, *, created: bool = False, deleted: bool = False) -> list[Change]:
        """Return the events that the write just done causes."""
        describe = _describe.get(type(self))
        if describe is None:
            return []
        return list(describe(self, None if created else self._state_before, deleted))
