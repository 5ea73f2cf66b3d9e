"""Track a model of somebody else's, which does not derive from TrackedModel."""

from typing import Any

from django.db import models

from webhooks.tracking.tracked import TrackedModel, TrackedQuerySet


def adopt(model: type[models.Model]) -> None:
    """Have a model of another app announce its writes as if it derived from TrackedModel.

    Call it before track(), from AppConfig.ready(). All code of this project that writes through the
    model is seen: save(), bulk_create(), QuerySet.update(), deletes and their cascades. Raw SQL and
    rows of many-to-many tables (`group.permissions.add()`) are not. Raises TypeError for a model
    that derives from anything but models.Model.
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
    managers: list[Any] = [*model._meta.managers, model._base_manager]
    for manager in managers:
        queryset = manager._queryset_class
        if not issubclass(queryset, TrackedQuerySet):
            name = f"Tracked{queryset.__name__}"
            manager._queryset_class = type(name, (TrackedQuerySet, queryset), {})
