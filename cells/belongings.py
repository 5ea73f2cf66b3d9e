# ruff: noqa: S608 (names of tables and columns)
"""What belongs to owners, and so moves with them: derived from the models of `webhooks`.

A model belongs to owners if one of its columns names an owner, a user, or a row that belongs to an owner.
So a new model moves without anybody thinking of it, or a test asks why it stays. Models of other apps are
the product's, whose database is the producer's.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from django.apps import apps
from django.db.models import AutoField, Model

from webhooks.models import Delivery, Event, IdempotentAnswer, Redelivery, Webhook
from webhooks.models.owners import owner_model

STAYS = {
    "AuditEntry": "It tells what people did in this cell, and many of them own nothing here.",
    "Chore": "The schedule of this cell's housekeeping.",
    "Epoch": "It numbers the transactions of this Postgres.",
    "ExpiringPartition": "Of this database's partitions.",
    "Pause": "It stops the sending of this cell, whoever asked for it.",
    "RolledUp": "Which hours this cell has counted; cells/moving_figures.py makes the two agree.",
    "StoredForm": "Shared by all owners: the new cell gets those that it lacks.",
    "UnverifiedHost": "What this cell has sent to a host; the new cell counts its own.",
    "WorkerHeartbeat": "Of this cell's workers.",
}
"""The models of `webhooks` that do not move, with the reason."""

CONDITIONS = {
    # Noted before anything is deleted, because what it sends says whose it is: note_redeliveries().
    Redelivery: "{row}.id IN (SELECT id FROM going)",
    IdempotentAnswer: "{row}.owner_id = ANY({answers})",
}
"""Which rows belong to the owners, where no single column says it."""

OF_REDELIVERY = """
(SELECT t.scope ->> 'owner_id' AS owner WHERE t.scope ? 'owner_id'
  UNION ALL
 SELECT w.owner_id::text FROM webhooks_webhook w
  WHERE NOT t.scope ? 'owner_id' AND w.id = (t.scope ->> 'webhook_id')::uuid
  UNION ALL
 SELECT d.owner_id::text FROM webhooks_delivery d
  WHERE NOT t.scope ?| '{{owner_id,webhook_id}}'
    AND (d.event_id = (t.scope ->> 'event_id')::uuid
         OR d.id IN (SELECT id::uuid FROM jsonb_array_elements_text(
                       coalesce(t.scope -> 'delivery_ids', '[]')) AS one (id))))
"""
"""Whose deliveries the redelivery `t` sends, as one of them is named or all of an owner."""
GOING_SQL = f"""
CREATE TEMP TABLE going ON COMMIT DROP AS
SELECT t.id FROM webhooks_redelivery t
 WHERE (SELECT bool_and(of.owner = ANY({{owners}})) FROM {OF_REDELIVERY} AS of)
"""
SHARED_SQL = f"""
SELECT count(*) FROM webhooks_redelivery t
 WHERE t.status = 'running'
   AND (SELECT bool_or(of.owner = ANY({{owners}})) AND NOT bool_and(of.owner = ANY({{owners}}))
          FROM {OF_REDELIVERY} AS of)
"""
"""Counts the redeliveries that still queue deliveries of these owners and of others."""


@dataclass(frozen=True)
class Table:
    name: str
    condition: str
    """Which of its rows `t` belong to the owners, with placeholders for Owners.condition()."""
    changes: dict[str, str] = field(default_factory=dict)
    """What columns become, as expressions of the row `t`."""


CHANGES: dict[type[Model], dict[str, str]] = {
    # Who asked for it may live in another cell.
    Redelivery: {
        "requested_by_id": "CASE WHEN t.requested_by_id::text = ANY({owners})"
        " THEN t.requested_by_id END"
    },
    Event: {
        "epoch": "0::bigint",
        # Deliveries to webhooks of the platform stay where they are.
        "fanout_count": """(SELECT count(*) FROM webhooks_delivery d
            WHERE d.event_id = t.id AND d.owner_id = t.owner_id)::integer""",
    },
    Delivery: {
        "epoch": "CASE WHEN t.order_key IS NULL THEN t.epoch ELSE 0 END",
        "order_key": "(SELECT number FROM place WHERE place.id = t.id)",
        # A redelivery that goes on must not queue again what it has queued.
        "redelivery_id": "(SELECT id FROM going WHERE going.id = t.redelivery_id)",
    },
}
"""What has a meaning in one database only; `place` are the numbers of deliveries in order."""


def links_of(model: type[Model]) -> Iterator[tuple[str, type[Model]]]:
    """Yield the columns that name other rows, with the models of these, also where no key says so."""
    named = {"owner_id": owner_model(), "webhook_id": Webhook, "event_id": Event,
             "delivery_id": Delivery, "redelivery_id": Redelivery}  # fmt: skip
    for one in model._meta.concrete_fields:
        parent: Any = one.related_model or named.get(one.name)
        if parent:
            yield str(one.column), parent


def belongs(model: type[Model]) -> bool:
    """Return whether a column leads to an owner, directly or through other models."""
    return any(
        parent is owner_model() or (parent is not model and belongs(parent))
        for _, parent in links_of(model)
    )


def moving() -> list[type[Model]]:
    """Return the models whose rows move, each after those that it names."""
    found: list[type[Model]] = []

    def add(model: type[Model]) -> None:
        if model in found or model._meta.app_label != "webhooks" or not belongs(model):
            return
        if model.__name__ not in STAYS:
            for _, parent in links_of(model):
                add(parent)
            found.append(model)

    for model in apps.get_app_config("webhooks").get_models():
        add(model)
    return found


def condition_of(model: type[Model], row: str = "t") -> str:
    """Return the condition for rows of the owners: by the column of the owner, or else by the nearest
    row that has one."""
    if model in CONDITIONS:
        return CONDITIONS[model].replace("{row}", row)
    column, parent = min(links_of(model), key=lambda link: _distance(link[1]))
    if parent is owner_model():
        return f"{row}.{column}::text = ANY({{owners}})"
    inner = f"{row}{row[-1]}"
    return (
        f"EXISTS (SELECT FROM {parent._meta.db_table} {inner}"
        f" WHERE {inner}.{_key(parent)} = {row}.{column} AND {condition_of(parent, inner)})"
    )


def _distance(model: type[Model]) -> int:
    """Return over how many rows an owner is found; the user who asked for a redelivery is none."""
    if model is owner_model():
        return 0
    if model in CONDITIONS or not belongs(model):
        return 9
    return 1 + min(_distance(parent) for _, parent in links_of(model))


def _key(model: type[Model]) -> str:
    return str(model._meta.pk and model._meta.pk.column)


def numbered() -> list[type[Model]]:
    """Return the moving models whose keys are numbers of one database: a copy gets new ones."""
    return [model for model in moving() if isinstance(model._meta.pk, AutoField)]


@cache
def tables() -> tuple[Table, ...]:
    """Return what moves, parents first."""
    found = []
    for model in moving():
        changes = dict(CHANGES.get(model, {}))
        # `new_…` is made by copying.py: what became of each number.
        for column, parent in [(_key(model), model), *links_of(model)]:
            if parent in numbered():
                new = f"new_{parent._meta.db_table}"
                changes[column] = f"(SELECT {new}.id FROM {new} WHERE {new}.old = t.{column})"
        found.append(Table(model._meta.db_table, condition_of(model), changes))
    return tuple(found)
