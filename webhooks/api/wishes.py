"""The bodies of `POST /events` and `/events/batch`: their validation, and the storing of events.

The view and the door (webhooks/api/door.py) both use this module.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NotRequired, TypedDict, cast

import jsonschema_rs
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.exceptions import PermissionDenied

from webhooks import catalog
from webhooks.api import throttles
from webhooks.api.authentication import owners
from webhooks.api.base import ApiSerializer, PublicIdField
from webhooks.api.permissions import Asker, is_service, owner_id_of
from webhooks.api.problems import DOMAIN_ERRORS, wire_code
from webhooks.api.serializers import TimeField, owner_key_field, shared
from webhooks.doors import allowances
from webhooks.doors.owners import owner_of
from webhooks.errors import EventDataInvalidError, EventTypeUnknownError, WebhooksError
from webhooks.ids import EVENT_PREFIX
from webhooks.models import Event
from webhooks.models.owner_keys import owner_key_schema, parse_owner_key, plain_owner_key
from webhooks.models.owners import owner_key
from webhooks.outbox import committer
from webhooks.outbox.batch import build_each
from webhooks.outbox.store import MAX_REFERENCE_CHARACTERS, Trigger, build_trigger
from webhooks.pace.bounds import MAX_PROBLEMS, shortened

MAX_BATCH = 1000
MAX_LATER_CHARACTERS = 40
"""The maximum length of a message about an event of a batch, after the first few messages."""
ITEMS = {
    "type": "array",
    "minItems": 1,
    "maxItems": MAX_BATCH,
    "description": "Each like the body of POST /events; one that is not is refused by itself.",
    "items": {},
}
OTHERS_REFUSED = "Only staff may name a userId. Use a service token of theirs, or leave userId out."


class EventSerializer(ApiSerializer):
    """One fact, which never changes."""

    # Not derived from the model: building its fields would take longer than the insert.
    id = PublicIdField(EVENT_PREFIX, read_only=True)
    type = serializers.CharField(read_only=True)
    created_at = TimeField(read_only=True)
    user_id = owner_key_field(source="owner_id", read_only=True)
    webhook_count = serializers.SerializerMethodField(
        method_name="get_webhook_count",
        help_text="The number of your webhooks with a delivery of it, while deliveries are kept.",
    )
    idempotency_key = serializers.CharField(read_only=True, allow_null=True)
    object = serializers.SerializerMethodField(
        method_name="get_object", help_text="What the event is about; null where nothing was named."
    )

    def get_object(self, event: Event) -> str | None:
        return event.object_reference or None

    def get_webhook_count(self, event: Event) -> int:
        own: int = getattr(event, "own_webhook_count", event.fanout_count)
        return own


class NewEventSerializer(ApiSerializer):
    """A fact to be told to webhooks."""

    type = serializers.CharField(max_length=100)
    data = serializers.DictField(  # type: ignore[assignment]
        help_text="Must fit the schema of the type; sent unchanged."
    )
    user_id = owner_key_field(
        required=False,
        help_text="The owner of the event; only service tokens may name other users.",
    )
    idempotency_key = serializers.CharField(
        max_length=255,
        required=False,
        # As in a batch: the same text is the same key.
        trim_whitespace=False,
        help_text="The same key again returns the first event.",
    )
    object = serializers.CharField(
        max_length=MAX_REFERENCE_CHARACTERS,
        required=False,
        trim_whitespace=False,
        help_text="What the event is about. Webhooks with order per object receive the events of "
        "one object one after the other; an event without an object waits for none.",
    )


@extend_schema_field(ITEMS)
class EventsField(serializers.ListField):
    """Anything; read by ITEM."""


class EventBatchSerializer(ApiSerializer):
    """Up to a thousand events."""

    # Looked at one by one, so that a wrong one does not refuse the others.
    events = EventsField(
        child=serializers.JSONField(allow_null=True), min_length=1, max_length=MAX_BATCH
    )


ITEM = jsonschema_rs.Draft202012Validator(
    {
        "type": "object",
        "required": ["type", "data"],
        "additionalProperties": False,
        "properties": {
            "type": {"type": "string", "maxLength": 100},
            "data": {"type": "object"},
            "userId": owner_key_schema(),
            "idempotencyKey": {"type": "string", "minLength": 1, "maxLength": 255},
            "object": {"type": "string", "minLength": 1, "maxLength": MAX_REFERENCE_CHARACTERS},
        },
    },
    validate_formats=True,
)
"""One event of a batch; checked by serializers, a thousand of them would take a second."""


def trigger_one(asker: Asker, body: Any) -> dict[str, Any]:
    """Store the event of a body and return its representation; raises API exceptions."""
    wish = _read_wish(body)
    named = wish.get("user_id")
    own_id = _own_id(asker, is_needed=named is None)
    if named not in (None, own_id):
        _check_service(asker)
        if not owners.get_many([named]):
            raise serializers.ValidationError({"userId": ["There is no user with this id."]})
    event = build_trigger(_trigger_of(asker, own_id if named is None else named, wish))
    _spend(asker, own_id, 1)
    (result,) = committer.committer.store([event])
    if isinstance(result, WebhooksError):
        raise result
    _spend_deliveries(asker, own_id, [result])
    return show(result)


def show(event: Event) -> dict[str, Any]:
    """Return what EventSerializer shows of an event, in a tenth of its time."""
    return {
        "id": event.public_id,
        "type": event.type,
        "createdAt": event.created_at.isoformat().replace("+00:00", "Z"),
        "userId": plain_owner_key(event.owner_id),
        "webhookCount": event.fanout_count,
        "idempotencyKey": event.idempotency_key,
        "object": event.object_reference or None,
    }


class Wish(TypedDict):
    """An event of a body: what NewEventSerializer makes of it."""

    type: str
    data: dict[str, Any]
    user_id: NotRequired[Any]
    idempotency_key: NotRequired[str]
    object: NotRequired[str]


def _wish_of(item: dict[str, Any]) -> Wish:
    """Return the wish of an item that fits ITEM."""
    wish: Wish = {"type": item["type"], "data": item["data"]}
    if "userId" in item:
        wish["user_id"] = parse_owner_key(item["userId"])
    if "idempotencyKey" in item:
        wish["idempotency_key"] = item["idempotencyKey"]
    if "object" in item:
        wish["object"] = item["object"]
    return wish


def _read_wish(body: Any) -> Wish:
    if ITEM.is_valid(body) and body["type"] and body["type"] == body["type"].strip():
        # For a valid value this equals the serializer's result, in a tenth of the time.
        return _wish_of(body)
    try:
        return cast(Wish, shared(NewEventSerializer).run_validation(body))
    except serializers.ValidationError as refusal:
        detail = cast(dict[str, Any], refusal.detail)
        raise serializers.ValidationError(detail | _catalog_problems(body)) from None


def _catalog_problems(body: Any) -> dict[str, Any]:
    """Return what the catalogue has against an event whose form is wrong already."""
    if not isinstance(body, Mapping) or not isinstance(body.get("type"), str):
        return {}
    try:
        catalog.get_type(body["type"])
        if isinstance(body.get("data"), Mapping):
            catalog.validate_data(body["type"], body["data"])
    except EventTypeUnknownError as problem:
        return {"type": [str(problem)]} if body["type"] else {}
    except EventDataInvalidError as problem:
        return {"data": [str(problem)]}
    return {}


def trigger_many(asker: Asker, body: Any) -> dict[str, Any]:
    """Store the valid events of a batch, and return a result for each event."""
    items = _read_batch(body)
    is_needed = any(not isinstance(item, Mapping) or "userId" not in item for item in items)
    own_id = _own_id(asker, is_needed=is_needed)
    known = _known_owners(asker, own_id, items)
    _spend(asker, own_id, len(items))
    results = committer.committer.store(
        [build_each(_read_item(asker, own_id, item, known)) for item in items]
    )
    _spend_deliveries(asker, own_id, results)
    answers = [_answer(result) for result in results]
    refusals = [answer["error"] for answer in answers if answer["error"]]
    for refusal in refusals[MAX_PROBLEMS:]:
        refusal["message"] = shortened(refusal["message"], MAX_LATER_CHARACTERS)
    accepted = len(items) - len(refusals)
    return {"accepted": accepted, "refused": len(refusals), "results": answers}


def _own_id(asker: Asker, *, is_needed: bool) -> Any:
    """Return the id of the owner for whom the request acts; None where it needs none."""
    if is_needed or not is_service(asker):
        return owner_id_of(asker)
    return owner_key(owner_of(asker))


def _spend(asker: Asker, own_id: Any, count: int) -> None:
    """Spend the owner's quota for self-reported events; the product's events are not limited.

    Raises QuotaExceededError: nothing was stored.
    """
    if is_service(asker):
        return
    throttles.spend("events", own_id, count)
    throttles.spend("deliveries", own_id, 0)


def _spend_deliveries(asker: Asker, own_id: Any, results: list[Event | WebhooksError]) -> None:
    """Spend the quota for the stored deliveries; the next request finds it used up."""
    count = sum(one.fanout_count for one in results if isinstance(one, Event))
    if count and not is_service(asker):
        allowances.spend("deliveries", own_id, count)


def _read_batch(body: Any) -> list[Any]:
    items = body.get("events") if isinstance(body, dict) and len(body) == 1 else None
    if isinstance(items, list) and 1 <= len(items) <= MAX_BATCH:
        return items
    serializer = EventBatchSerializer(data=body)
    serializer.is_valid(raise_exception=True)
    return serializer.validated_data["events"]  # type: ignore[no-any-return]


def _known_owners(asker: Asker, own_id: Any, items: list[Any]) -> set[Any]:
    """Return the existing ones of the named owners; raises PermissionDenied."""
    named = set()
    for item in items:
        if isinstance(item, Mapping) and "userId" in item:
            with suppress(ValueError):  # the item is refused by itself
                named.add(parse_owner_key(item["userId"]))
    others = named - {own_id}
    if not others:
        return {own_id}
    _check_service(asker)
    return {own_id, *owners.get_many(others)}


def _read_item(asker: Asker, own_id: Any, item: Any, known: set[Any]) -> Trigger | WebhooksError:
    if not ITEM.is_valid(item):
        problems = [
            f"{'.'.join(map(str, error.instance_path)) or 'event'}: {error.message}"
            for error in ITEM.iter_errors(item)
        ]
        return EventDataInvalidError(f"{'; '.join(problems)}."[:1000])
    wish = _wish_of(item)
    owner_id = wish.get("user_id", own_id)
    if owner_id not in known:
        return EventDataInvalidError("There is no user with this userId.")
    return _trigger_of(asker, owner_id, wish)


def _trigger_of(asker: Asker, owner_id: Any, wish: Wish) -> Trigger:
    return Trigger(
        wish["type"],
        owner_id,
        wish["data"],
        wish.get("idempotency_key"),
        wish.get("object", ""),
        is_self_reported=not is_service(asker),
    )


def _check_service(asker: Asker) -> None:
    if not is_service(asker):
        raise PermissionDenied(OTHERS_REFUSED)


def _answer(result: Event | WebhooksError) -> dict[str, Any]:
    if isinstance(result, Event):
        return {"id": result.public_id, "error": None}
    code = wire_code(DOMAIN_ERRORS[type(result)][1])
    return {"id": None, "error": {"code": code, "message": str(result)}}
