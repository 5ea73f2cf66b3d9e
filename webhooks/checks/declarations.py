"""What a developer declared wrongly.

E001 to E004 are about the catalogue, E005 to E007 about tracked models.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from django.core.checks import CheckMessage, Error, register
from django.db import models

from webhooks import catalog
from webhooks.errors import EventDataInvalidError
from webhooks.models.tracking import TrackedModel, TrackedQuerySet
from webhooks.models.writes import tracked_models, tracking_of

NAME_PATTERN = re.compile(r"[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*")


@register("webhooks")
def check_catalogue(app_configs: Sequence[Any] | None, **_: Any) -> list[CheckMessage]:
    return [
        *(
            Error(
                f"The event type {event_type.name!r} is declared twice, differently.",
                hint="Rename one of the two declarations, or share one.",
                obj=event_type.name,
                id="webhooks.E001",
            )
            for event_type in catalog.clashes()
        ),
        *(problem for event_type in catalog.all_types() for problem in _type_problems(event_type)),
    ]


def _type_problems(event_type: catalog.EventType) -> Iterator[CheckMessage]:
    name = event_type.name
    if not NAME_PATTERN.fullmatch(name):
        yield Error(
            f"The event type {name!r} is not named <group>.<what>, in lower case.",
            hint="Patterns such as project.* select by the part before the dot.",
            obj=name,
            id="webhooks.E004",
        )
    try:
        catalog.compile_schema(event_type)
    except ValueError as problem:
        yield Error(
            f"The schema of {name} is not valid JSON Schema: {str(problem).splitlines()[0]}",
            hint="Build it with webhooks.catalog.object_schema().",
            obj=name,
            id="webhooks.E002",
        )
        return
    try:
        catalog.validate_data(name, event_type.example)
    except EventDataInvalidError as problem:
        yield Error(
            f"The example of {name} does not fit its schema: {problem}",
            hint="Receivers build on the example: make it a payload that could be sent.",
            obj=name,
            id="webhooks.E003",
        )


@register("webhooks")
def check_tracked_models(app_configs: Sequence[Any] | None, **_: Any) -> list[CheckMessage]:
    return [problem for model in tracked_models() for problem in _model_problems(model)]


def _model_problems(model: type[models.Model]) -> Iterator[CheckMessage]:
    if not issubclass(model, TrackedModel):
        return
    managers = {*model._meta.managers, model._meta.base_manager}
    for manager in managers:
        if not issubclass(getattr(manager, "_queryset_class", models.QuerySet), TrackedQuerySet):
            yield Error(
                f"The manager {manager.name!r} of {model._meta.label} writes without events.",
                hint="Derive it with from_queryset(TrackedQuerySet).",
                obj=model,
                id="webhooks.E005",
            )
    tracking = tracking_of(model)
    for field in model._meta.concrete_fields:
        target: Any = field.related_model
        is_cascade = target and field.remote_field.on_delete is models.CASCADE  # type: ignore[union-attr]
        if is_cascade and target is model:
            yield Error(
                f"Deletes of {model._meta.label} cascade onto itself, however deep.",
                hint="Use another on_delete than CASCADE, and delete the tree level by level.",
                obj=field,
                id="webhooks.E007",
            )
        if tracking and tracking.deleted and is_cascade and tracking_of(target) is None:
            yield Error(
                f"Deleting a {target._meta.label} deletes {model._meta.label} without events.",
                hint=f"Track {target._meta.label} too, or use another on_delete than CASCADE.",
                obj=field,
                id="webhooks.E006",
            )
