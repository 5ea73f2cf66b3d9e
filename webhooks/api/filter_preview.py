"""`/webhooks/{id}/filter-preview`: what a filter makes of the latest events."""

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from webhooks import service
from webhooks.api.base import ApiSerializer, ApiViewSet, PublicIdField
from webhooks.api.serializers import FilterField, TimeField
from webhooks.errors import FilterInvalidError
from webhooks.ids import EVENT_PREFIX
from webhooks.models import Webhook


class FilterPreviewSerializer(ApiSerializer):
    """The filter to try."""

    filter = FilterField(
        default=None, allow_null=True, help_text="To be tried; null for the webhook's own."
    )


class LeftOutSerializer(ApiSerializer):
    """An event that the filter keeps from the webhook."""

    event_id = PublicIdField(EVENT_PREFIX)
    event_type = serializers.CharField()
    created_at = TimeField()
    reason = serializers.CharField()


class FilterPreviewResultSerializer(ApiSerializer):
    """What the filter makes of the latest events."""

    considered = serializers.IntegerField(
        help_text="The latest events of its types, 100 at most, among the last 10,000 events."
    )
    matched = serializers.IntegerField(help_text="How many of them the filter lets through.")
    left_out = LeftOutSerializer(many=True, help_text="The others, newest first.")


class FilterPreviewAction(ApiViewSet[Webhook]):
    """The part of WebhookViewSet that tries filters."""

    @extend_schema(
        operation_id="previewFilter",
        summary="Try a filter on the latest events",
        request=FilterPreviewSerializer,
        responses=FilterPreviewResultSerializer,
    )
    @action(detail=True, methods=["post"], url_path="filter-preview")
    def filter_preview(self, request: Request, pk: str) -> Response:
        """Changes nothing."""
        webhook = self.get_object()
        wanted = self.read(FilterPreviewSerializer)["filter"]
        try:
            preview = service.preview_filter(webhook, wanted)
        except FilterInvalidError as problem:
            raise serializers.ValidationError({"filter": [str(problem)]}) from None
        return self.show(FilterPreviewResultSerializer, preview)
