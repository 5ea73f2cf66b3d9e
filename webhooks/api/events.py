"""`/events`: trigger them, look at them, follow them."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import jsonschema_rs
from django.contrib.auth import get_user_model
from django.db.models import QuerySet
from django_filters import CharFilter, IsoDateTimeFilter
from drf_spectacular.utils import (
    OpenApiParameter,
    extend_schema,
    extend_schema_field,
    extend_schema_view,
)
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.exceptions import PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response

from webhooks import feed, service
from webhooks.api.base import (
    ApiFilters,
    ApiSerializer,
    ApiViewSet,
    ListAction,
    ParametersInvalidError,
    PublicIdField,
)
from webhooks.api.deliveries import created
from webhooks.api.permissions import is_service
from webhooks.api.problems import DOMAIN_ERRORS
from webhooks.api.serializers import shared
from webhooks.errors import (
    CursorInvalidError,
    EventDataInvalidError,
    EventTypeUnknownError,
    WebhooksError,
)
from webhooks.ids import DELIVERY_PREFIX, EVENT_PREFIX, WEBHOOK_PREFIX
from webhooks.models import Event

MAX_BATCH = 1000
ITEMS = {
    "type": "array",
    "minItems": 1,
    "maxItems": MAX_BATCH,
    "description": "Each like the body of POST /events; one that is not is refused by itself.",
    "items": {},
}
OTHERS_REFUSED = "Only a service token of staff may trigger events for others; leave userId out."


class EventSerializer(ApiSerializer):
    # Not derived from the model: building its fields would take longer than the insert.
    id = PublicIdField(EVENT_PREFIX, read_only=True)
    type = serializers.CharField(read_only=True)
    created = serializers.DateTimeField(source="created_at", read_only=True)
    user_id = serializers.UUIDField(source="owner_id", read_only=True)
    webhook_count = serializers.IntegerField(
        source="fanout_count", read_only=True, help_text="How many webhooks it was stored for."
    )
    idempotency_key = serializers.CharField(read_only=True, allow_null=True)


class ConsideredSerializer(ApiSerializer):
    webhook_id = PublicIdField(WEBHOOK_PREFIX, source="webhook.id")
    matches = serializers.BooleanField(help_text="By today's settings.")
    reason = serializers.CharField()
    delivery_id = PublicIdField(
        DELIVERY_PREFIX, source="delivery.id", allow_null=True, default=None
    )


class EventDetailSerializer(EventSerializer):
    data = serializers.SerializerMethodField(  # type: ignore[assignment]
        method_name="get_data", help_text="Null once it was erased."
    )
    explanation = ConsideredSerializer(
        many=True,
        allow_null=True,
        read_only=True,
        default=None,
        help_text="With `explain`: why each webhook got it, or did not.",
    )

    def get_data(self, event: Event) -> dict[str, Any] | None:
        payload = bytes(event.payload)
        return json.loads(payload)["data"] if payload else None


class NewEventSerializer(ApiSerializer):
    type = serializers.CharField(max_length=100)
    data = serializers.DictField(  # type: ignore[assignment]
        help_text="Fits the schema of the type; sent as it is."
    )
    user_id = serializers.UUIDField(
        required=False, help_text="Whose event it is; others than yourself by service tokens only."
    )
    idempotency_key = serializers.CharField(
        max_length=255,
        required=False,
        # As in a batch: the same text is the same key.
        trim_whitespace=False,
        help_text="The same key again gives the first event.",
    )


@extend_schema_field(ITEMS)
class EventsField(serializers.ListField):
    """Anything; read by ITEM."""


class BatchSerializer(ApiSerializer):
    # Looked at one by one, so that a wrong one does not refuse the others.
    events = EventsField(
        child=serializers.JSONField(allow_null=True), min_length=1, max_length=MAX_BATCH
    )


class ItemErrorSerializer(ApiSerializer):
    code = serializers.CharField()
    message = serializers.CharField()


class ItemResultSerializer(ApiSerializer):
    id = serializers.CharField(allow_null=True, help_text="Of the event; null where refused.")
    error = ItemErrorSerializer(allow_null=True)


class BatchResultSerializer(ApiSerializer):
    """One result for each event, in their order."""

    accepted = serializers.IntegerField()
    refused = serializers.IntegerField()
    results = ItemResultSerializer(many=True)


class FeedEventSerializer(ApiSerializer):
    id = serializers.CharField()
    type = serializers.CharField()
    created = serializers.DateTimeField(source="created_at")
    payload = serializers.CharField(help_text="The exact text that webhooks get.")


class FeedSerializer(ApiSerializer):
    events = FeedEventSerializer(many=True)
    next = serializers.CharField(help_text="Pass it as `after` to go on from here.")
    has_more = serializers.BooleanField(help_text="Whether to ask again at once.")


class EventFilters(ApiFilters):
    type = CharFilter(max_length=100)
    since = IsoDateTimeFilter(method="by_time", label="Created at this time or later.")
    until = IsoDateTimeFilter(method="by_time", label="Created before this time.")

    by_index = frozenset({"since", "until"})

    def by_time(self, rows: QuerySet[Any], name: str, value: datetime) -> QuerySet[Any]:
        return created(rows, name, value)


ITEM = jsonschema_rs.Draft202012Validator(
    {
        "type": "object",
        "required": ["type", "data"],
        "additionalProperties": False,
        "properties": {
            "type": {"type": "string", "maxLength": 100},
            "data": {"type": "object"},
            "userId": {"type": "string", "format": "uuid"},
            "idempotencyKey": {"type": "string", "minLength": 1, "maxLength": 255},
        },
    },
    validate_formats=True,
)
"""One event of a batch; checked by serializers, a thousand of them would take a second."""


@extend_schema_view(list=extend_schema(summary="List events"))
class EventViewSet(ListAction, ApiViewSet[Event]):
    id_prefix = EVENT_PREFIX
    serializer_class = EventSerializer
    filterset_class = EventFilters
    action_scopes = {"create": "trigger", "batch": "trigger"}
    action_parameters = {
        "retrieve": frozenset({"explain"}),
        "feed": frozenset({"after", "types", "limit"}),
    }

    def get_queryset(self) -> QuerySet[Event]:
        rows = Event.objects.for_owner(self.user_id)
        return rows if self.action == "retrieve" else rows.defer("payload")

    @extend_schema(
        summary="Show an event with its data",
        parameters=[OpenApiParameter("explain", bool, description="Say who got it, and why.")],
        responses=EventDetailSerializer,
    )
    def retrieve(self, request: Request, pk: str) -> Response:
        event = self.get_object()
        if flag(request, "explain"):
            # The platform's webhooks are nobody's business but the staff's.
            event.explanation = [  # type: ignore[attr-defined]
                one
                for one in service.explain(event).considered
                if one.webhook.owner_id == self.user_id
            ]
        return self.show(EventDetailSerializer, event)

    @extend_schema(
        summary="Trigger an event",
        request=NewEventSerializer,
        responses={201: EventSerializer},
    )
    def create(self, request: Request) -> Response:
        """Without a service token it reaches your own webhooks, not the platform's."""
        wish = shared(NewEventSerializer).run_validation(request.data)
        owner_id = wish.get("user_id", self.user_id)
        if owner_id != self.user_id:
            self._check_service()
            if not get_user_model().objects.filter(pk=owner_id).exists():
                raise serializers.ValidationError({"userId": ["There is no user with this id."]})
        trigger = self._build_trigger(
            wish["type"], owner_id, wish["data"], wish.get("idempotency_key")
        )
        (event,) = service.trigger_events([trigger])
        return Response(shared(EventSerializer).to_representation(event), status=201)

    @extend_schema(
        summary="Trigger up to a thousand events",
        request=BatchSerializer,
        responses=BatchResultSerializer,
    )
    @action(detail=False, methods=["post"])
    def batch(self, request: Request) -> Response:
        """Without a service token they reach your own webhooks, not the platform's."""
        items = self.read(BatchSerializer)["events"]
        known = self._known_users(items)
        results = service.trigger_each([self._read_item(item, known) for item in items])
        answers = [_answer(result) for result in results]
        accepted = sum(answer["error"] is None for answer in answers)
        return Response(
            {"accepted": accepted, "refused": len(items) - accepted, "results": answers}
        )

    def _known_users(self, items: list[Any]) -> set[UUID]:
        """Return the users that are named and exist, in one statement; raises PermissionDenied."""
        named = set()
        for item in items:
            if isinstance(item, Mapping) and isinstance(item.get("userId"), str):
                try:
                    named.add(UUID(item["userId"]))
                except ValueError:
                    continue  # the item is refused by itself
        others = named - {self.user_id}
        if not others:
            return {self.user_id}
        self._check_service()
        users = get_user_model().objects.filter(pk__in=others)
        return {self.user_id, *users.values_list("pk", flat=True)}

    def _read_item(self, item: Any, known: set[UUID]) -> service.Trigger | WebhooksError:
        if not ITEM.is_valid(item):
            problems = [
                f"{'.'.join(map(str, error.instance_path)) or 'event'}: {error.message}"
                for error in ITEM.iter_errors(item)
            ]
            return EventDataInvalidError(f"{'; '.join(problems)}."[:1000])
        owner_id = UUID(item["userId"]) if "userId" in item else self.user_id
        if owner_id not in known:
            return EventDataInvalidError("There is no user with this userId.")
        return self._build_trigger(item["type"], owner_id, item["data"], item.get("idempotencyKey"))

    def _build_trigger(
        self, event_type: str, owner_id: UUID, data: Any, key: str | None
    ) -> service.Trigger:
        return service.Trigger(
            event_type, owner_id, data, key, is_self_reported=not is_service(self.request)
        )

    def _check_service(self) -> None:
        if not is_service(self.request):
            raise PermissionDenied(OTHERS_REFUSED)

    @extend_schema(
        summary="Follow events in their order, without gaps",
        parameters=[
            OpenApiParameter("after", str, description="`next` of the answer before."),
            OpenApiParameter(
                "types", str, description="Patterns, comma-separated; by default `*`."
            ),
            OpenApiParameter(
                "limit", {"type": "integer", "minimum": 1, "maximum": 100, "default": 100}
            ),
        ],
        responses=FeedSerializer,
        filters=False,
    )
    @action(detail=False, pagination_class=None)
    def feed(self, request: Request) -> Response:
        patterns = request.query_params.get("types", "*").split(",")
        try:
            page = feed.read(
                request.query_params.get("after"),
                owner_id=self.user_id,
                patterns=patterns,
                limit=number(request, "limit", default=100, most=100),
            )
        except CursorInvalidError as problem:
            raise ParametersInvalidError({"after": [str(problem)]}) from None
        except EventTypeUnknownError as problem:
            raise ParametersInvalidError({"types": [str(problem)]}) from None
        shown = [
            {"id": one.id, "type": one.type, "created_at": one.created_at,
             "payload": one.payload.decode()}
            for one in page.events
        ]  # fmt: skip
        return self.show(
            FeedSerializer, {"events": shown, "next": page.next, "has_more": page.has_more}
        )


def _answer(result: Event | WebhooksError) -> dict[str, Any]:
    if isinstance(result, Event):
        return {"id": result.public_id, "error": None}
    code = DOMAIN_ERRORS[type(result)][1]
    return {"id": None, "error": {"code": code, "message": str(result)}}


def flag(request: Request, name: str) -> bool:
    """Return a query parameter that is `true` or `false`."""
    text = request.query_params.get(name, "false")
    if text not in ("true", "false"):
        raise ParametersInvalidError({name: ["This is true or false."]})
    return text == "true"


def number(request: Request, name: str, *, default: int, most: int) -> int:
    """Return a query parameter that is a whole number from 1 to `most`."""
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and 1 <= int(text) <= most):
        raise ParametersInvalidError({name: [f"This is a number from 1 to {most}."]})
    return int(text)
