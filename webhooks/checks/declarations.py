"""What a developer declared wrongly.

E001 to E004 are about the catalogue, E005 to E013 about tracked models: what looks tracked tells
every write, or `manage.py check` says why not.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from django.core.checks import CheckMessage, Error, register
from django.db import models
from django.db.models.options import Options

from webhooks import catalog
from webhooks.errors import EventDataInvalidError
from webhooks.tracking import TrackedModel, TrackedQuerySet, Tracking
from webhooks.tracking.writes import clashes, row_type_of, tracked_models, tracking_of

KEEPING = (models.CASCADE, models.PROTECT, models.RESTRICT, models.DO_NOTHING)
"""The values of on_delete that change no column."""

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
    return [
        *(
            Error(
                f"{model._meta.label} is tracked twice; the second declaration is ignored.",
                hint="Call track() once for each table; a proxy is tracked with its model.",
                obj=model,
                id="webhooks.E011",
            )
            for model in clashes()
        ),
        *(problem for model in _candidates() for problem in _model_problems(model)),
    ]


def _candidates() -> list[type[models.Model]]:
    """Return every model that is tracked or looks so, proxies and children included."""
    installed = [
        model
        for model in Options.default_apps.get_models()
        if issubclass(model, TrackedModel) or tracking_of(model)
    ]
    return list(dict.fromkeys([*tracked_models(), *installed]))


def _model_problems(model: type[models.Model]) -> Iterator[CheckMessage]:
    tracking = tracking_of(model)
    if tracking is None:
        yield from _untracked_problems(model)
    elif tracking.is_announced_by_hand:
        yield from _declared_problems(model)
    elif not issubclass(model, TrackedModel) or model._meta.abstract:
        yield Error(
            f"{model._meta.label} is tracked, but its writes cause no events.",
            hint="Track a concrete model that derives from TrackedModel.",
            obj=model,
            id="webhooks.E008",
        )
    else:
        yield from _manager_problems(model)
        yield from _table_problems(model)
        if not model._meta.proxy:
            yield from _declared_problems(model)
            yield from _relation_problems(model, tracking)


def _untracked_problems(model: type[models.Model]) -> Iterator[CheckMessage]:
    """Find what a TrackedModel without a track() of its own lacks."""
    if any(tracking_of(parent) for parent in model._meta.all_parents):
        yield from _table_problems(model)
    else:
        yield Error(
            f"{model._meta.label} derives from TrackedModel, but is not tracked.",
            hint="Say in track() which events its writes cause, or derive it from Model.",
            obj=model,
            id="webhooks.E009",
        )


def _table_problems(model: type[models.Model]) -> Iterator[CheckMessage]:
    if model._meta.concrete_model._meta.parents:  # type: ignore[union-attr]
        yield Error(
            f"Writes of {model._meta.label} are spread over several tables and cause no events.",
            hint="Share columns through an abstract model, or use a proxy or a OneToOneField.",
            obj=model,
            id="webhooks.E010",
        )


def _manager_problems(model: type[models.Model]) -> Iterator[CheckMessage]:
    for manager in {*model._meta.managers, model._meta.base_manager}:
        if not isinstance(manager.get_queryset(), TrackedQuerySet):
            yield Error(
                f"The manager {manager.name!r} of {model._meta.label} writes without events.",
                hint="Derive it with from_queryset(TrackedQuerySet).",
                obj=model,
                id="webhooks.E005",
            )


def _declared_problems(model: type[models.Model]) -> Iterator[CheckMessage]:
    for name in sorted(row_type_of(model).unknown):
        yield Error(
            f"{model._meta.label} is tracked by {name!r}, which it does not have.",
            hint="Name columns as attributes (owner_id), and those of others as owner__email.",
            obj=model,
            id="webhooks.E012",
        )


def _relation_problems(model: type[models.Model], tracking: Tracking) -> Iterator[CheckMessage]:
    for field in model._meta.concrete_fields:
        if not field.is_relation:
            continue
        target: Any = field.related_model
        on_delete = field.remote_field.on_delete  # type: ignore[union-attr]
        if on_delete is models.CASCADE and target is model:
            yield Error(
                f"Deletes of {model._meta.label} cascade onto itself, however deep.",
                hint="Use another on_delete than CASCADE, and delete the tree level by level.",
                obj=field,
                id="webhooks.E007",
            )
        if on_delete is models.CASCADE and tracking.deleted and tracking_of(target) is None:
            yield Error(
                f"Deleting a {target._meta.label} deletes {model._meta.label} without events.",
                hint=f"Track {target._meta.label} too, or use another on_delete than CASCADE.",
                obj=field,
                id="webhooks.E006",
            )
        if on_delete not in KEEPING and field.attname in tracking.fields:
            yield Error(
                f"Deleting a {target._meta.label} changes {model._meta.label} without events.",
                hint="Use CASCADE, PROTECT or RESTRICT, and change the rows before the delete.",
                obj=field,
                id="webhooks.E013",
            )
