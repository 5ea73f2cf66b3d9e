"""Track a model of somebody else's, which does not derive from TrackedModel."""

from typing import Any

from django.db import models
from django.db.models.fields.related_descriptors import ReverseManyToOneDescriptor

from webhooks.tracking.tracked import TrackedModel, TrackedQuerySet, keep_base_manager


def adopt(model: type[models.Model]) -> None:
    """Have a model of another app announce its writes as if it derived from TrackedModel.

    Call it before track(), from AppConfig.ready(). All code of this project that writes through the
    model is seen: save(), bulk_create(), QuerySet.update(), deletes and their cascades. Raw SQL,
    rows of many-to-many tables (`group.permissions.add()`) and querysets that were made before are
    not. Raises TypeError for a model that derives from anything but models.Model.
    """
    if issubclass(model, TrackedModel):
        return
    if model.__bases__ != (models.Model,):
        raise TypeError(
            f"{model._meta.label} derives from more than models.Model, so it cannot be adopted: "
            "derive a model of your own from TrackedModel, or call trigger_event()."
        )
    # The class itself changes, because other apps write through it, not through a subclass.
    adopted: Any = model
    adopted.__bases__ = (TrackedModel,)
    adopted._is_adopted = True
    known = model._meta.apps.get_models(include_auto_created=True)
    for each in known:
        if issubclass(each, model):  # the model or a proxy
            keep_base_manager(each)
            # Django copies the managers of a class whenever it forgets the copies that it has made.
            for manager in (*each._meta.local_managers, *each._meta.managers):
                _track_writes(manager)
            each._meta._expire_cache(reverse=False)  # type: ignore[attr-defined]
    for descriptor in [value for each in known for value in vars(each).values()]:
        if isinstance(descriptor, ReverseManyToOneDescriptor):
            # A class that derives from the class of the manager as it was.
            vars(descriptor).pop("related_manager_cls", None)


def _track_writes(manager: Any) -> None:
    """Change the class of a manager, because managers of relations derive from it.

    It keeps the name of the class, and equals managers of that class: migrations name and compare
    the managers of other apps.
    """
    queryset = manager._queryset_class
    kind: Any = type(manager)
    if issubclass(queryset, TrackedQuerySet):
        return
    tracked: Any = TrackedQuerySet
    if queryset is not models.QuerySet:
        tracked = _named_like(queryset, (TrackedQuerySet, queryset))
    manager.__class__ = _named_like(
        kind,
        (kind,),
        _queryset_class=tracked,
        __eq__=lambda self, other: kind.__eq__(other, self),
        __hash__=kind.__hash__,
    )


def _named_like(kind: Any, bases: tuple[Any, ...], **members: Any) -> Any:
    return type(kind.__name__, bases, {"__module__": kind.__module__} | members)
