"""`/event-types`: the catalogue."""

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response

from webhooks import catalog
from webhooks.api.base import ApiSerializer, ApiViewSet
from webhooks.api.filters import NoFilters
from webhooks.api.pagination import CatalogPages
from webhooks.api.serializers import DayField
from webhooks.errors import EventTypeUnknownError
from webhooks.models import Event


class EventTypeVersionSerializer(ApiSerializer):
    """What webhooks get that pin this version, or a later date before the next one."""

    date = DayField()
    schema = serializers.JSONField(help_text="JSON Schema 2020-12 of `data`.")
    example = serializers.JSONField(help_text="The same example, in this version.")
    deprecated = DayField(
        allow_null=True, help_text="Since when you are asked to leave it; null if you are not."
    )


class EventTypeSerializer(ApiSerializer):
    """A type of the catalogue: what causes it, and what its data holds."""

    name = serializers.CharField()
    group = serializers.CharField(help_text="`project` for `project.created`.")
    description = serializers.CharField()
    since = serializers.CharField(help_text="The version that introduced it.")
    schema = serializers.JSONField(help_text="JSON Schema 2020-12 of `data`.")
    example = serializers.JSONField(help_text="An example of `data`.")
    version = DayField(help_text="Since when data has had this shape.")
    older = EventTypeVersionSerializer(
        many=True, source="older_examples", help_text="The versions before, the newest first."
    )


class EventTypeViewSet(ApiViewSet[Event]):
    lookup_field = "name"
    filterset_class = NoFilters
    pagination_class = CatalogPages
    unlimited_actions = frozenset({"list", "retrieve"})  # no statement at all

    def get_queryset(self) -> QuerySet[Event]:
        return Event.objects.none()

    @extend_schema(summary="List event types", responses=EventTypeSerializer(many=True))
    def list(self, request: Request) -> Response:
        pages = CatalogPages()
        found = pages.paginate(catalog.all_types(), request)
        shown = EventTypeSerializer(found, many=True, context=self.get_serializer_context())
        return pages.get_paginated_response(shown.data)

    @extend_schema(summary="Show an event type", responses=EventTypeSerializer)
    def retrieve(self, request: Request, name: str) -> Response:
        try:
            found = catalog.get_type(name)
        except EventTypeUnknownError as problem:
            raise NotFound(str(problem)) from None
        return self.show(EventTypeSerializer, found)
