"""`/events`: trigger, show and follow events."""

import json
import threading
import time
from collections.abc import Callable
from typing import Any

from django.db import transaction
from django.db.models import Count, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import (
    OpenApiParameter,
    extend_schema,
    extend_schema_view,
)
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from webhooks import service
from webhooks.api import wishes
from webhooks.api.base import (
    ApiFilters,
    ApiSerializer,
    ApiViewSet,
    ListAction,
    ParametersInvalidError,
    PublicIdField,
)
from webhooks.api.filters import EventTypesFilter, in_utc
from webhooks.api.rendering import RenderedSerializer, rendered_as
from webhooks.api.serializers import TimeField
from webhooks.api.wishes import EventBatchSerializer, EventSerializer, NewEventSerializer
from webhooks.choices import Form
from webhooks.doors.limits import READ_SECONDS
from webhooks.errors import (
    CursorInvalidError,
    EventTypeUnknownError,
)
from webhooks.ids import DELIVERY_PREFIX, EVENT_PREFIX, WEBHOOK_PREFIX
from webhooks.models import Delivery, Event
from webhooks.outbox import feed
from webhooks.postgres.sql import limit_statements

MAX_WAIT_SECONDS = 20
POLL_SECONDS = 0.25
MAX_WAITING = 8
"""Requests that wait in one process; each of them keeps a thread of the server."""
waiting = threading.BoundedSemaphore(MAX_WAITING)


class ExplanationSerializer(ApiSerializer):
    """Why one webhook got an event, or did not."""

    webhook_id = PublicIdField(WEBHOOK_PREFIX, source="webhook.id")
    matches = serializers.BooleanField(help_text="According to the current settings.")
    reason = serializers.CharField()
    delivery_id = PublicIdField(
        DELIVERY_PREFIX, source="delivery.id", allow_null=True, default=None
    )


class EventDetailSerializer(EventSerializer):
    """An event with its data."""

    data = serializers.SerializerMethodField(  # type: ignore[assignment]
        method_name="get_data", help_text="Null after it was erased."
    )
    explanation = ExplanationSerializer(
        many=True,
        allow_null=True,
        read_only=True,
        default=None,
        help_text="With `explain`: why each webhook received it, or did not.",
    )

    def get_data(self, event: Event) -> dict[str, Any] | None:
        payload = bytes(event.payload)
        return json.loads(payload)["data"] if payload else None


class BatchRefusalSerializer(ApiSerializer):
    """Why an event of a batch was refused."""

    code = serializers.CharField()
    message = serializers.CharField()


class BatchItemSerializer(ApiSerializer):
    """What became of one event of a batch."""

    id = serializers.CharField(allow_null=True, help_text="Of the event; null where refused.")
    error = BatchRefusalSerializer(allow_null=True)


class BatchResultSerializer(ApiSerializer):
    """One result for each event, in their order."""

    accepted = serializers.IntegerField()
    refused = serializers.IntegerField()
    results = BatchItemSerializer(many=True)


class FeedEventSerializer(ApiSerializer):
    """An event as webhooks get it."""

    id = serializers.CharField()
    type = serializers.CharField()
    created_at = TimeField()
    payload = serializers.CharField(help_text="The exact text that webhooks get.")


class FeedSerializer(ApiSerializer):
    """The next events, and where to go on."""

    events = FeedEventSerializer(many=True)
    next = serializers.CharField(help_text="Pass it as `after` to continue from here.")
    has_more = serializers.BooleanField(help_text="Whether to ask again at once.")


class EventFilters(ApiFilters):
    type = EventTypesFilter()


@extend_schema_view(list=extend_schema(summary="List events"))
class EventViewSet(ListAction, ApiViewSet[Event]):
    id_prefix = EVENT_PREFIX
    serializer_class = EventSerializer
    filterset_class = EventFilters
    # What is triggered commits together with that of others (webhooks/outbox/committer.py).
    # What waits must not hold a transaction.
    unlimited_actions = frozenset({"create", "batch", "feed"})
    action_scopes = {"create": ("trigger",), "batch": ("trigger",)}
    action_parameters = {
        "retrieve": frozenset({"explain"}),
        "rendered": frozenset({"form", "version", "dataFields"}),
        "feed": frozenset({"after", "since", "types", "limit", "wait"}),
    }

    def get_queryset(self) -> QuerySet[Event]:
        own = Delivery.objects.filter(event=OuterRef("pk"), webhook__owner_id=self.owner_id)
        counted = own.order_by().values("event").annotate(count=Count("*")).values("count")
        # Not fanout_count: owners must not learn the number of platform webhooks.
        rows = Event.objects.for_owner(self.owner_id).annotate(
            own_webhook_count=Coalesce(Subquery(counted), 0)
        )
        return rows if self.action in ("retrieve", "rendered") else rows.defer("payload")

    @extend_schema(
        summary="Show an event with its data",
        parameters=[
            OpenApiParameter(
                "explain", bool, description="Say which webhooks received it, and why."
            )
        ],
        responses=EventDetailSerializer,
    )
    def retrieve(self, request: Request, pk: str) -> Response:
        event = self.get_object()
        if flag(request, "explain"):
            # Only staff may see platform webhooks.
            event.explanation = [  # type: ignore[attr-defined]
                one
                for one in service.explain(event).considered
                if one.webhook.owner_id == self.owner_id
            ]
        return self.show(EventDetailSerializer, event)

    @extend_schema(
        operation_id="renderEvent",
        summary="Show an event as a webhook would get it",
        parameters=[
            OpenApiParameter("form", str, enum=Form.values, description="`standard` by default."),
            OpenApiParameter(
                "version",
                str,
                description="Dates that a webhook may pin, comma-separated; by default all versions of "
                "its type.",
            ),
            OpenApiParameter(
                "dataFields", str, description="For `fields`: dotted paths, comma-separated."
            ),
        ],
        responses=RenderedSerializer,
        filters=False,
    )
    @action(detail=True, pagination_class=None)
    def rendered(self, request: Request, pk: str) -> Response:
        event = self.get_object()
        return self.show(RenderedSerializer, rendered_as(event, request.query_params))

    @extend_schema(
        operation_id="triggerEvent",
        summary="Trigger an event",
        request=NewEventSerializer,
        responses={201: EventSerializer},
    )
    def create(self, request: Request) -> Response:
        """Without a service token it reaches your own webhooks, not the platform's."""
        shown = wishes.trigger_one(request, request.data)
        return Response(shown, status=201, headers={"Location": f"{request.path}/{shown['id']}"})

    @extend_schema(
        operation_id="triggerEvents",
        summary="Trigger up to a thousand events",
        request=EventBatchSerializer,
        responses=BatchResultSerializer,
    )
    @action(detail=False, methods=["post"])
    def batch(self, request: Request) -> Response:
        """Without a service token they reach your own webhooks, not the platform's."""
        return Response(wishes.trigger_many(request, request.data))

    @extend_schema(
        operation_id="followEvents",
        summary="Follow events in their order, without gaps",
        parameters=[
            OpenApiParameter("after", str, description="`next` of the previous response."),
            OpenApiParameter(
                "since",
                OpenApiTypes.DATETIME,
                description="Instead of `after`: begin with the events of this time.",
            ),
            OpenApiParameter(
                "wait",
                {"type": "integer", "minimum": 1, "maximum": MAX_WAIT_SECONDS},
                description="Seconds to wait for an event where there is none yet. The answer may come "
                "earlier and empty.",
            ),
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
        limit = number(request, "limit", default=100, most=100)
        wait = number(request, "wait", default=0, most=MAX_WAIT_SECONDS)

        def read(after: str | None) -> feed.Page:
            with transaction.atomic():
                limit_statements(READ_SECONDS)
                return feed.read(after, owner_id=self.owner_id, patterns=patterns, limit=limit)

        def read_again(after: str | None) -> feed.Page:
            # The token may be revoked, and its user deactivated, while it waits.
            if request.successful_authenticator is not None:
                request.successful_authenticator.authenticate(request)
            return read(after)

        try:
            page = read(self._after())
            if wait and not page.events and waiting.acquire(blocking=False):
                try:
                    page = poll(read_again, page, wait)
                finally:
                    waiting.release()
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

    def _after(self) -> str | None:
        asked = self.request.query_params
        if "since" not in asked:
            return asked.get("after")
        if "after" in asked:
            raise ParametersInvalidError({"since": ["Give either since or after."]})
        try:
            moment = TimeField().to_internal_value(asked["since"])
        except serializers.ValidationError as problem:
            raise ParametersInvalidError({"since": problem.detail}) from None
        return feed.since(in_utc("since", moment), self.owner_id).to_text()


def poll(read: Callable[[str], feed.Page], page: feed.Page, seconds: int) -> feed.Page:
    """Read until there is an event, for so many seconds; keeps no transaction meanwhile."""
    ends_at = time.monotonic() + seconds
    while not page.events and time.monotonic() < ends_at:
        time.sleep(POLL_SECONDS)
        page = read(page.next)
    return page


def flag(request: Request, name: str) -> bool:
    """Return a query parameter that is `true` or `false`."""
    text = request.query_params.get(name, "false")
    if text not in ("true", "false"):
        raise ParametersInvalidError({name: ["This is true or false."]})
    return text == "true"


def number(request: Request, name: str, *, default: int, most: int) -> int:
    """Return a query parameter that is a whole number from 1 to `most`."""
    if name not in request.query_params:
        return default
    text = request.query_params[name]
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and 1 <= int(text) <= most):
        raise ParametersInvalidError({name: [f"This is a number from 1 to {most}."]})
    return int(text)
