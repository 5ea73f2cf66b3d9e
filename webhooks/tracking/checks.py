"""System checks E001 to E017 and I001: developers' declarations.

E001 to E004 and E015 are about the catalogue, E005 to E014, E016 and E017 about tracked models: `manage.py check`
reports any model that seems to be tracked but has writes without events.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import jsonschema_rs
from django.apps import apps
from django.core.checks import CheckMessage, Error, Info, register
from django.db import DEFAULT_DB_ALIAS, models, router
from django.db.models.options import Options

from webhooks import catalog
from webhooks.errors import EventDataInvalidError
from webhooks.tracking import TrackedModel, TrackedQuerySet, Tracking
from webhooks.tracking.declaration import declarations
from webhooks.tracking.writes import clashes, concrete, row_type_of, tracked_models, tracking_of

KEEPING = (models.CASCADE, models.PROTECT, models.RESTRICT, models.DO_NOTHING)
"""Values of on_delete that do not change a column of the dependent rows."""

NAME_PATTERN = re.compile(r"[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*")


@register("webhooks")
def check_catalogue(app_configs: Sequence[Any] | None, **_: Any) -> list[CheckMessage]:
    return [
        *(
            Error(
                f"The event type {event_type.name!r} has two different declarations.",
                hint="Rename one of the event types, or use the same declaration.",
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
            f"The event type {name!r} is not a name of the form <group>.<action> in lower case.",
            hint="Filters such as project.* select event types by the part before the dot.",
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
            hint="Developers of receivers rely on the example: make it valid data.",
            obj=name,
            id="webhooks.E003",
        )
        return
    if wrong := _version_problem(event_type):
        yield Error(
            f"The versions of {name} are wrong: {wrong}",
            hint="List the versions before, the newest first, each with a function from the next newer one.",
            obj=name,
            id="webhooks.E015",
        )


def _version_problem(event_type: catalog.EventType) -> str:
    dates = event_type.versions
    if sorted(set(dates), reverse=True) != dates:
        return "their dates are not in order."
    for one in event_type.older:
        try:
            example = event_type.example_at(one.date)
            validator = jsonschema_rs.Draft202012Validator(dict(one.schema), validate_formats=True)
            validator.validate(example)
        except Exception as problem:  # of the declaration's own function, too
            return f"of the example, {one.date} makes what does not fit its schema: {problem}"
    return ""


@register("webhooks")
def check_tracked_models(app_configs: Sequence[Any] | None, **_: Any) -> list[CheckMessage]:
    return [
        *(
            Error(
                f"{model._meta.label} is tracked twice; the second declaration is ignored.",
                hint="Call track() once per table; a proxy shares the tracking of its model.",
                obj=model,
                id="webhooks.E011",
            )
            for model in clashes()
        ),
        *(problem for model in _candidates() for problem in _model_problems(model)),
    ]


@register("webhooks")
def check_declarations(app_configs: Sequence[Any] | None, **_: Any) -> list[CheckMessage]:
    """E016: a declaration of tracked() is wrong. I001: what is not seen of another app's model."""
    found: list[CheckMessage] = []
    for one in declarations():
        found += [
            Error(
                f"{one.model._meta.label} is declared by tracked(), but {problem}.",
                hint="Correct the declaration; until then the model's writes cause no events.",
                obj=one.model,
                id="webhooks.E016",
            )
            for problem in one.problems
        ]
        if one.is_adopted and not one.problems:
            found.append(
                Info(
                    f"{one.model._meta.label} is another app's model: its writes by save(), delete(), "
                    "querysets and cascades of this project's code cause events; raw SQL and rows of "
                    "many-to-many tables do not.",
                    hint="Add webhooks.I001 to SILENCED_SYSTEM_CHECKS, once you know.",
                    obj=one.model,
                    id="webhooks.I001",
                )
            )
    return found


@register("webhooks")
def check_database(app_configs: Sequence[Any] | None, **_: Any) -> list[CheckMessage]:
    """E014: the routers send tracked models, or the rows of this app, to another database."""
    own = list(apps.get_app_config("webhooks").get_models())
    choices = [
        *((model, router.db_for_write(model)) for model in [*tracked_models(), *own]),
        # Workers read what they have just written.
        *((model, router.db_for_read(model)) for model in own),
    ]
    return [
        Error(
            f"DATABASE_ROUTERS send {model._meta.label} to the database {alias!r}.",
            hint=f"Tracked models and their events live in one database, {DEFAULT_DB_ALIAS!r}.",
            obj=model,
            id="webhooks.E014",
        )
        for model, alias in dict.fromkeys(choices)
        if alias != DEFAULT_DB_ALIAS
    ]


def _candidates() -> list[type[models.Model]]:
    """Return all tracked models and all subclasses of TrackedModel, including proxies."""
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
    """Yield the problems of a TrackedModel without a track() call of its own."""
    if any(tracking_of(parent) for parent in model._meta.all_parents):
        yield from _table_problems(model)
    else:
        yield Error(
            f"{model._meta.label} derives from TrackedModel, but is not tracked.",
            hint="Declare its events with track(), or derive it from models.Model.",
            obj=model,
            id="webhooks.E009",
        )


def _table_problems(model: type[models.Model]) -> Iterator[CheckMessage]:
    if model._meta.concrete_model._meta.parents:  # type: ignore[union-attr]
        yield Error(
            f"Writes of {model._meta.label} go to several tables (multi-table inheritance) and cause no events.",
            hint="Use an abstract base model, a proxy or a OneToOneField instead.",
            obj=model,
            id="webhooks.E010",
        )


def _manager_problems(model: type[models.Model]) -> Iterator[CheckMessage]:
    for manager in {*model._meta.managers, model._meta.base_manager}:
        if not isinstance(manager.get_queryset(), TrackedQuerySet):
            yield Error(
                f"The manager {manager.name!r} of {model._meta.label} causes no events.",
                hint="Derive it with from_queryset(TrackedQuerySet).",
                obj=model,
                id="webhooks.E005",
            )
    base = model._meta.base_manager
    if base.get_queryset().query.where:
        # Django would insert such a row again instead of updating it.
        yield Error(
            f"The base manager {base.name!r} of {model._meta.label} hides rows.",
            hint="Name a manager of all rows in Meta.base_manager_name: TrackedQuerySet.as_manager().",
            obj=model,
            id="webhooks.E017",
        )


def _declared_problems(model: type[models.Model]) -> Iterator[CheckMessage]:
    for name in sorted(row_type_of(model).unknown):
        yield Error(
            f"{model._meta.label} is tracked by {name!r}, which is not a column of it.",
            hint="Use attribute names (owner_id), and owner__email for columns of related rows.",
            obj=model,
            id="webhooks.E012",
        )


def _relation_problems(model: type[models.Model], tracking: Tracking) -> Iterator[CheckMessage]:
    causes = _causes(model, {})
    if (model, True) in causes:
        yield Error(
            f"Deletes of {model._meta.label} cascade to rows of the same model.",
            hint="Use an on_delete other than CASCADE, and delete the tree level by level.",
            obj=model,
            id="webhooks.E007",
        )
    for cause, is_announced in causes:
        if tracking.deleted and not is_announced:
            label = cause._meta.label
            yield Error(
                f"Deleting a {label} deletes {model._meta.label} without events.",
                hint=f"Track {label} too, use an on_delete other than CASCADE, or have no GenericRelation.",
                obj=model,
                id="webhooks.E006",
            )
    for field in model._meta.concrete_fields:
        if not field.is_relation:
            continue
        target: Any = field.related_model
        on_delete = field.remote_field.on_delete  # type: ignore[union-attr]
        if on_delete not in KEEPING and field.attname in tracking.fields:
            yield Error(
                f"Deleting a {target._meta.label} changes {model._meta.label} without events.",
                hint="Use CASCADE, PROTECT or RESTRICT, and update the rows before the delete.",
                obj=field,
                id="webhooks.E013",
            )


Causes = dict[tuple[type[models.Model], bool], None]


def _causes(model: type[models.Model], found: Causes) -> Causes:
    """Return the models whose deletes cascade to rows of this one, and whether they announce that.

    A tracked model announces what it deletes over foreign keys, but not over a GenericRelation:
    those rows cannot be locked against new ones. What lies behind an unannounced delete is left out.
    """
    keys = [field for field in model._meta.concrete_fields if field.is_relation]
    relations = model._meta.get_fields(include_hidden=True)
    direct: list[tuple[Any, bool]] = [
        *(
            (concrete(field.related_model), tracking_of(field.related_model) is not None)  # type: ignore[arg-type]
            for field in keys
            if field.remote_field.on_delete is models.CASCADE  # type: ignore[union-attr]
        ),
        *(
            (relation.related_model, False)
            for relation in relations
            if hasattr(getattr(relation, "field", None), "bulk_related_objects")
        ),
    ]
    for cause in direct:
        if cause not in found:
            found[cause] = None
            if cause[1]:
                _causes(cause[0], found)
    return found
