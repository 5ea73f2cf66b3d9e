"""`/webhooks`: registered URLs and the operations on them."""

from typing import Any, cast

from django.db import transaction
from django.db.models import QuerySet
from django_filters import CharFilter
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_view
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.reverse import reverse

from webhooks import service
from webhooks.api.base import (
    ApiFilters,
    BooleanFilter,
    CreateAction,
    DeleteAction,
    ListAction,
    NoInput,
    RetrieveAction,
    UpdateAction,
)
from webhooks.api.deliveries import DeliveryFilters, DeliverySerializer
from webhooks.api.figures import StatsQuery, WebhookStatsSerializer, stats_of
from webhooks.api.filter_preview import FilterPreviewAction
from webhooks.api.webhook_secrets import SecretActions
from webhooks.api.webhook_serializers import (
    NewWebhookSerializer,
    SendTestSerializer,
    TestResultSerializer,
    VerifyResultSerializer,
    WebhookDetailSerializer,
    WebhookSerializer,
    WebhookSettingsSerializer,
    WebhookWithSecretSerializer,
)
from webhooks.api.webhook_switch import SwitchActions
from webhooks.ids import WEBHOOK_PREFIX
from webhooks.models import Webhook
from webhooks.models.webhook import UID_PATTERN


class WebhookFilters(ApiFilters):
    active = BooleanFilter()
    uid = CharFilter(max_length=100)

    by_index = ApiFilters.by_index | {"active", "uid"}  # there are at most a hundred per owner


@extend_schema_view(
    list=extend_schema(summary="List webhooks"),
    retrieve=extend_schema(summary="Show a webhook", responses=WebhookDetailSerializer),
    partial_update=extend_schema(
        summary="Change a webhook",
        request=WebhookSettingsSerializer,
        responses=WebhookDetailSerializer,
    ),
    destroy=extend_schema(summary="Delete a webhook; its pending deliveries are cancelled"),
)
class WebhookViewSet(
    ListAction,
    RetrieveAction,
    CreateAction,
    UpdateAction,
    DeleteAction,
    SecretActions,
    FilterPreviewAction,
    SwitchActions,
):
    id_prefix = WEBHOOK_PREFIX
    serializer_class = WebhookSerializer
    changes_serializer_class = WebhookSettingsSerializer
    detail_serializer_class = WebhookDetailSerializer
    filterset_class = WebhookFilters
    action_scopes = {"filter_preview": ("read",)}
    action_limits = {
        "test": "test",
        "verify": "test",
        "rotate_secret": "secret",
        "create": "secret",
        "by_uid": "secret",
    }
    action_parameters = {
        "deliveries": DeliveryFilters.parameters - {"webhook"},
        "stats": frozenset(StatsQuery.base_filters),
    }
    non_atomic_actions = frozenset({"test", "verify"})

    def get_queryset(self) -> QuerySet[Webhook]:
        return cast(QuerySet[Webhook], service.get_webhooks(self.owner_id))

    @extend_schema(
        summary="Create a webhook",
        request=NewWebhookSerializer,
        responses={201: WebhookWithSecretSerializer},
    )
    @transaction.atomic
    def create(self, request: Request) -> Response:
        values = self.read(NewWebhookSerializer)
        webhook = service.create_webhook(self.owner_id, **values)
        values.pop("secret", None)
        self.note("webhook.create", webhook, **values)
        return self.show(WebhookWithSecretSerializer, webhook, 201)

    @extend_schema(
        operation_id="putWebhook",
        summary="Have a webhook with this uid, as described",
        request=WebhookSettingsSerializer,
        responses={200: WebhookDetailSerializer, 201: WebhookWithSecretSerializer},
        parameters=[
            OpenApiParameter(
                "uid", {"type": "string", "pattern": f"^{UID_PATTERN}$"}, OpenApiParameter.PATH
            )
        ],
    )
    @action(detail=False, methods=["put"], url_path=f"by-uid/(?P<uid>{UID_PATTERN})")
    @transaction.atomic
    def by_uid(self, request: Request, uid: str) -> Response:
        """Settings that are left out get their defaults. The same again changes nothing."""
        values = self.read(WebhookSettingsSerializer)
        webhook, changes = service.put_webhook(self.owner_id, uid, **values)
        if changes is not None:
            if changes:
                self.note("webhook.change", webhook, **{k: list(v) for k, v in changes.items()})
            return self.show(WebhookDetailSerializer, webhook)
        self.note("webhook.create", webhook, uid=uid, **values)
        response = self.show(WebhookWithSecretSerializer, webhook, 201)
        response["Location"] = f"{reverse('webhook-list')}/{webhook.public_id}"
        return response

    def etag_of(self, value: Any) -> str | None:
        if not isinstance(value, Webhook):
            return None
        # Not what becomes of it by itself, such as failingSince.
        return f'"{value.revision}-{int(value.active)}"'

    def perform_update(self, webhook: Webhook, values: dict[str, Any]) -> None:
        service.update_webhook(webhook, **values)

    def perform_destroy(self, webhook: Webhook) -> bool:
        return service.delete_webhook(webhook)

    @extend_schema(
        operation_id="sendTest",
        summary="Send one real request now",
        request=SendTestSerializer,
        responses=TestResultSerializer,
    )
    @action(detail=True, methods=["post"])
    def test(self, request: Request, pk: str) -> Response:
        webhook = self.get_object()
        event_type = self.read(SendTestSerializer)["event_type"]
        tryout = service.test_webhook(webhook, event_type)
        self.note("webhook.test", webhook, **tryout.facts)
        return self.show(TestResultSerializer, tryout)

    @extend_schema(
        summary="Prove that the receiver wants our requests",
        request=NoInput,
        responses=VerifyResultSerializer,
    )
    @action(detail=True, methods=["post"])
    def verify(self, request: Request, pk: str) -> Response:
        """Sends a signed challenge; the receiver must return it as the body of its response."""
        webhook = self.get_object()
        self.read()
        was = webhook.verified
        proof = service.prove(webhook)
        self.note("webhook.verify", webhook, verified=[was, webhook.verified])
        return self.show(VerifyResultSerializer, proof)

    @extend_schema(
        operation_id="listWebhookDeliveries",
        summary="List a webhook's deliveries",
        responses=DeliverySerializer(many=True),
    )
    @action(detail=True, filterset_class=DeliveryFilters)
    def deliveries(self, request: Request, pk: str) -> Response:
        found = service.get_deliveries(self.get_object(), self.owner_id)
        return self.page(found, DeliverySerializer, DeliveryFilters)

    @extend_schema(
        operation_id="getWebhookStats",
        summary="What became of a webhook's deliveries",
        responses=WebhookStatsSerializer,
        filters=True,
    )
    @action(detail=True, filterset_class=StatsQuery, pagination_class=None)
    def stats(self, request: Request, pk: str) -> Response:
        webhook = self.get_object()
        return self.show(WebhookStatsSerializer, stats_of(webhook, request))
