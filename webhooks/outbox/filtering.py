"""Which stored events a filter lets through, and why not the others.

Postgres evaluates the JSON path that it evaluates when it stores an event (STORE_SQL in
webhooks/outbox/store.py).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Any, NamedTuple
from uuid import UUID

from django.db.models import BooleanField, Func, QuerySet, Value

from webhooks.models import Event, Webhook
from webhooks.models.fields import JsonPathField
from webhooks.models.filters import Part, check_filter, compile_filter, field_path, parts_of
from webhooks.pace.bounds import named, shortened
from webhooks.postgres.sql import query

PREVIEWED_EVENTS = 100
SEARCHED_EVENTS = 10_000
"""How far back a preview looks for events of the webhook's types, among those of the same owner."""
MAX_VALUE_CHARACTERS = 80
"""Of a value that a reason repeats."""

ERASED = "The payload was erased, so that its filter has nothing to look at."


class LetsThrough(Func):
    """Whether a JSON path holds for an event's payload; null for an erased one."""

    template = "(nullif(convert_from(payload, 'UTF8'), '')::jsonb @@ %(expressions)s)"
    output_field = BooleanField()


def let_through(events: QuerySet[Event], webhook: Webhook) -> QuerySet[Event]:
    """Return those of these events that the webhook's filter lets through."""
    if webhook.filter_path is None:
        return events
    return events.filter(LetsThrough(Value(webhook.filter_path, output_field=JsonPathField())))


# Why not.

EXAMINE_SQL = """
SELECT e.id,
       ARRAY(SELECT coalesce(parsed.payload @@ path, false)
               FROM unnest(%(paths)s::text[]::jsonpath[]) WITH ORDINALITY AS p (path, position)
              ORDER BY position),
       ARRAY(SELECT left(jsonb_path_query_first(parsed.payload, path, '{}', true)::text, %(most)s)
               FROM unnest(%(fields)s::text[]::jsonpath[]) WITH ORDINALITY AS f (path, position)
              ORDER BY position)
  FROM unnest(%(ids)s::uuid[]) AS wanted (id)
  JOIN webhooks_event e USING (id)
 CROSS JOIN LATERAL (
        SELECT nullif(convert_from(e.payload, 'UTF8'), '')::jsonb AS payload OFFSET 0
       ) parsed
"""


class Findings(NamedTuple):
    """What Postgres says of one event."""

    verdicts: Mapping[str, bool]
    """By JSON path."""
    values: Mapping[str, str | None]
    """By dotted path, as JSON; None where there is no such field."""


def _examine(
    event_ids: Sequence[UUID], json_paths: Iterable[str], fields: Iterable[str]
) -> dict[UUID, Findings]:
    """Evaluate JSON paths for these events, and look at these fields. One statement."""
    json_paths, fields = list(dict.fromkeys(json_paths)), list(dict.fromkeys(fields))
    parameters = {
        "ids": list(event_ids),
        "paths": json_paths,
        "fields": [field_path(field) for field in fields],
        "most": MAX_VALUE_CHARACTERS + 1,
    }
    return {
        event_id: Findings(
            dict(zip(json_paths, verdicts, strict=True)), dict(zip(fields, values, strict=True))
        )
        for event_id, verdicts, values in query(EXAMINE_SQL, parameters)
    }


def reasons(
    webhooks: Sequence[Webhook], event: Event, *, with_values: bool = True
) -> dict[UUID, str]:
    """Return why filters keep this event from webhooks, by the webhook's id.

    Webhooks that get it are missing. The reasons quote the data, unless `with_values` is false. At
    most one statement.
    """
    parts = {one.id: parts_of(one.filter) for one in webhooks if one.filter_path is not None}
    if not parts:
        return {}
    if not bytes(event.payload):
        return dict.fromkeys(parts, ERASED)
    flat = list(chain.from_iterable(parts.values()))
    whole = {one.id: str(one.filter_path) for one in webhooks if one.id in parts}
    found = _examine(
        [event.id],
        [*whole.values(), *(part.json_path for part in flat)],
        chain.from_iterable(part.fields for part in flat),
    )[event.id]
    return {
        webhook_id: _reason(parts[webhook_id], found, with_values)
        for webhook_id, json_path in whole.items()
        if not found.verdicts[json_path]
    }


def _reason(parts: Sequence[Part], found: Findings, with_values: bool = True) -> str:
    failed = [part for part in parts if not found.verdicts[part.json_path]]
    fields = dict.fromkeys(chain.from_iterable(part.fields for part in failed or parts))
    if not with_values:
        return f"It is filtered by {named(fields)}."
    return f"It is filtered: {named(_in_words(one, found.values[one]) for one in fields)}."


def _in_words(field: str, value: str | None) -> str:
    return f"{field} is {'missing' if value is None else shortened(value, MAX_VALUE_CHARACTERS)}"


# What a filter would have done.


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A stored event that a filter keeps from its webhook."""

    event_id: UUID
    event_type: str
    created_at: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class Preview:
    """What a filter makes of the latest events of a webhook's types."""

    considered: int
    matched: int
    left_out: list[LeftOut]
    """Newest first."""


LATEST_SQL = """
WITH latest AS MATERIALIZED (
    SELECT id, type, created_at, octet_length(payload) > 0 AS is_whole FROM webhooks_event
     WHERE {whose}
     ORDER BY id DESC LIMIT %(searched)s
)
SELECT id, type, created_at FROM latest
 WHERE type = ANY(%(types)s) AND is_whole
 ORDER BY id DESC LIMIT %(previewed)s
"""
OF_OWNER = "owner_id = %(owner)s"
OF_PLATFORM = "NOT is_self_reported"


def preview_filter(webhook: Webhook, filter: Any = None) -> Preview:
    """Return what a filter, by default the webhook's own, makes of the last 100 events of its types.

    They are looked for among the last 10,000 events of its owner; of all owners for a platform
    webhook. Nothing is stored. Raises FilterInvalidError. Two statements.
    """
    if filter is None:
        filter = webhook.filter
    else:
        check_filter(filter, webhook.event_types)
    sql = LATEST_SQL.format(whose=OF_PLATFORM if webhook.is_platform else OF_OWNER)
    parameters = {
        "owner": webhook.owner_id,
        "types": [one.name for one in webhook.event_types],
        "searched": SEARCHED_EVENTS,
        "previewed": PREVIEWED_EVENTS,
    }
    events = query(sql, parameters)
    if filter is None:
        return Preview(len(events), len(events), [])
    whole, parts = compile_filter(filter), parts_of(filter)
    found = _examine(
        [event_id for event_id, *_ in events],
        [whole, *(part.json_path for part in parts)],
        chain.from_iterable(part.fields for part in parts),
    )
    left_out = [
        LeftOut(event_id, event_type, created_at, _reason(parts, found[event_id]))
        for event_id, event_type, created_at in events
        if event_id in found and not found[event_id].verdicts[whole]
    ]
    return Preview(len(events), len(events) - len(left_out), left_out)
