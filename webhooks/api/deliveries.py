"""`/deliveries`: events owed to webhooks, with every attempt."""

from functools import reduce
from operator import or_
from typing import ClassVar

from django.db import transaction
from django.db.models import F, Prefetch, QuerySet
from django_filters import CharFilter
from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from webhooks import service
from webhooks.api import throttles
from webhooks.api.base import (
    ApiFilters,
    ApiModelSerializer,
    ApiViewSet,
    ConflictError,
    ListAction,
    NoInput,
    ParametersInvalidError,
    PublicIdField,
    RetrieveAction,
)
from webhooks.api.filters import (
    AnyOfFilter,
    EventTypesFilter,
    OneOfFilter,
    parse_parameter,
)
from webhooks.api.pagination import PARAMETERS
from webhooks.api.redeliveries import StartedRedeliverySerializer
from webhooks.api.serializers import DayField, FailureKindField
from webhooks.choices import DeliveryStatus, Form
from webhooks.figures.pages import RESPONSE_CLASSES
from webhooks.ids import (
    ATTEMPT_PREFIX,
    DELIVERY_PREFIX,
    EVENT_PREFIX,
    WEBHOOK_PREFIX,
)
from webhooks.models import Attempt, Delivery

MAX_ATTEMPTS_SHOWN = 100
"""The number of latest attempts that a delivery shows; redeliveries can add any number."""
MAX_ATTEMPTS_LISTED = 20
"""Those of each delivery on a page of deliveries."""


class BodyDigestField(serializers.CharField):
    """What the body of a request can be compared with."""

    def __init__(self) -> None:
        super().__init__(
            source="body_digest",
            read_only=True,
            allow_null=True,
            help_text="SHA-256 of the body sent, as hex; null where no request was made, and for "
            "attempts that are older than this field.",
        )


class AttemptSummarySerializer(ApiModelSerializer):
    """One request that was sent, without headers and bodies."""

    id = PublicIdField(ATTEMPT_PREFIX, read_only=True)
    body_sha256 = BodyDigestField()
    failure_kind = FailureKindField(read_only=True, help_text="Empty after a success.")

    class Meta:
        model = Attempt
        fields = [
            "id", "number", "started_at", "duration_ms", "body_sha256", "response_code", "failure_kind", "error",
        ]  # fmt: skip
        read_only_fields = fields


class DeliverySerializer(ApiModelSerializer):
    """What is owed to one webhook of one event, and how far it has come."""

    id = PublicIdField(DELIVERY_PREFIX, read_only=True)
    event_id = PublicIdField(EVENT_PREFIX, read_only=True)
    webhook_id = PublicIdField(WEBHOOK_PREFIX, read_only=True)
    failure_kind = FailureKindField(
        read_only=True, help_text="Why the last attempt failed; empty if it did not."
    )
    attempts = AttemptSummarySerializer(
        many=True,
        read_only=True,
        allow_null=True,
        source="latest_attempts",
        help_text=f"With `include=attempts`, the latest {MAX_ATTEMPTS_LISTED}, the latest one first.",
    )

    form = serializers.ChoiceField(
        choices=Form.choices,
        source="form_name",
        read_only=True,
        help_text="Its webhook's when the event was stored; it never changes.",
    )

    class Meta:
        model = Delivery
        fields = [
            "id", "event_id", "webhook_id", "event_type", "form", "status", "attempt_count", "round",
            "next_attempt_at", "response_code", "failure_kind", "error", "created_at",
            "delivered_at", "finished_at", "attempts",
        ]  # fmt: skip
        read_only_fields = fields


class PhasesSerializer(serializers.Serializer[Attempt]):
    """Milliseconds that each phase of a request took; 0 for one that it did not need or reach."""

    dns = serializers.FloatField(help_text="Waiting for the look-up of the host's name.")
    connect = serializers.FloatField()
    tls = serializers.FloatField()
    send = serializers.FloatField()
    wait = serializers.FloatField(
        help_text="From the last byte of the request to the first of the response."
    )
    receive = serializers.FloatField()


class AttemptSerializer(ApiModelSerializer):
    """One request that was sent, and its answer."""

    id = PublicIdField(ATTEMPT_PREFIX, read_only=True)
    phases = PhasesSerializer(
        read_only=True,
        allow_null=True,
        help_text="Null for attempts that are older than this field.",
    )
    body_sha256 = BodyDigestField()
    request_headers = serializers.SerializerMethodField(method_name="get_request_headers")
    response_headers = serializers.SerializerMethodField(method_name="get_response_headers")
    response_body = serializers.SerializerMethodField(
        method_name="get_response_body", help_text="Bytes that are not UTF-8 are replaced."
    )
    failure_kind = FailureKindField(read_only=True, help_text="Empty after a success.")

    class Meta:
        model = Attempt
        fields = [
            "id", "number", "started_at", "duration_ms", "phases", "url", "body_sha256", "request_headers",
            "response_code", "response_headers", "response_body", "is_truncated", "failure_kind",
            "error",
        ]  # fmt: skip
        read_only_fields = fields

    def get_request_headers(self, attempt: Attempt) -> list[list[str]]:
        return [list(pair) for pair in attempt.request_headers]

    def get_response_headers(self, attempt: Attempt) -> list[list[str]]:
        return [list(pair) for pair in attempt.response_headers]

    def get_response_body(self, attempt: Attempt) -> str:
        return bytes(attempt.response_body or b"").decode("utf-8", "replace")


class DeliveryDetailSerializer(DeliverySerializer):
    """A delivery with its attempts."""

    attempts = AttemptSerializer(  # type: ignore[assignment]  # in full here
        many=True, read_only=True, source="latest_attempts", help_text="Latest first."
    )
    data_fields = serializers.ListField(
        child=serializers.CharField(),
        read_only=True,
        allow_null=True,
        help_text="The chosen fields of its form `fields`; null for other forms.",
    )
    version = DayField(
        read_only=True,
        allow_null=True,
        help_text="The version that its webhook pinned, where the event was of a newer one.",
    )

    class Meta(DeliverySerializer.Meta):
        fields = [*DeliverySerializer.Meta.fields, "data_fields", "version"]
        read_only_fields = fields


class DeliveryFilters(ApiFilters):
    include = OneOfFilter([("attempts", "attempts")], method="with_attempts")
    status = AnyOfFilter(choices=[(value, value) for value in DeliveryStatus.values])
    webhook = CharFilter(method="by_id", label="`whk_…`")
    event = CharFilter(method="by_id", label="`evt_…`")
    eventType = EventTypesFilter(field_name="event_type")
    responseClass = AnyOfFilter(
        choices=[(name, name) for name in RESPONSE_CLASSES],
        method="by_response_class",
        label="Of the last attempt; `none` where no answer came.",
    )
    search = CharFilter(
        method="by_any_id", max_length=40, label="The id of a delivery, an event or a webhook."
    )

    by_index = ApiFilters.by_index | {"webhook", "event", "search", "include"}
    parameters: ClassVar[frozenset[str]] = frozenset()

    def with_attempts(self, rows: QuerySet[Delivery], *_: str) -> QuerySet[Delivery]:
        latest = Attempt.objects.filter(
            number__gt=F("delivery__attempt_count") - MAX_ATTEMPTS_LISTED
        ).defer("request_head", "response_head", "response_body")
        return rows.prefetch_related(
            Prefetch("attempts", latest.order_by("-number"), to_attr="latest_attempts")
        )

    def by_id(self, rows: QuerySet[Delivery], name: str, value: str) -> QuerySet[Delivery]:
        prefix = {"webhook": WEBHOOK_PREFIX, "event": EVENT_PREFIX}[name]
        return rows.filter(**{f"{name}_id": parse_parameter(name, value, prefix)})

    def by_any_id(self, rows: QuerySet[Delivery], name: str, value: str) -> QuerySet[Delivery]:
        fields = {DELIVERY_PREFIX: "id", EVENT_PREFIX: "event_id", WEBHOOK_PREFIX: "webhook_id"}
        for prefix, field in fields.items():
            if value.startswith(prefix):
                return rows.filter(**{field: parse_parameter(name, value, prefix)})
        raise ParametersInvalidError(
            {name: ["Search for the id of a delivery, an event or a webhook (del_, evt_, whk_)."]}
        )

    def by_response_class(
        self, rows: QuerySet[Delivery], name: str, values: list[str]
    ) -> QuerySet[Delivery]:
        return rows.filter(reduce(or_, (RESPONSE_CLASSES[value] for value in values)))


DeliveryFilters.parameters = PARAMETERS | DeliveryFilters.base_filters.keys()


@extend_schema_view(
    list=extend_schema(summary="List deliveries"),
    retrieve=extend_schema(
        summary="Show a delivery with its attempts", responses=DeliveryDetailSerializer
    ),
)
class DeliveryViewSet(ListAction, RetrieveAction, ApiViewSet[Delivery]):
    id_prefix = DELIVERY_PREFIX
    serializer_class = DeliverySerializer
    filterset_class = DeliveryFilters

    def get_queryset(self) -> QuerySet[Delivery]:
        asked = self.request.query_params
        if "webhook" in asked or asked.get("search", "").startswith(WEBHOOK_PREFIX):
            # The same rows. With the owner's own column in the query Postgres may walk all of the
            # owner's deliveries instead of the webhook's.
            return Delivery.objects.filter(webhook__owner_id=self.owner_id)
        return Delivery.objects.for_owner(self.owner_id)

    def retrieve(self, request: Request, pk: str) -> Response:
        delivery = self.get_object()
        latest = delivery.attempts.order_by("-number")[:MAX_ATTEMPTS_SHOWN]
        delivery.latest_attempts = latest  # type: ignore[attr-defined]
        return self.show(DeliveryDetailSerializer, delivery)

    @extend_schema(
        summary="Cancel a delivery that waits", request=NoInput, responses=DeliverySerializer
    )
    @action(detail=True, methods=["post"])
    @transaction.atomic
    def cancel(self, request: Request, pk: str) -> Response:
        delivery = self.get_object()
        self.read()
        was = delivery.status
        if not service.cancel(delivery, "Cancelled by its owner."):
            raise ConflictError("This delivery does not wait: it is in flight or has ended.")
        delivery.refresh_from_db()
        self.note("delivery.cancel", delivery, status=[was, delivery.status])
        return self.show(DeliverySerializer, delivery)

    @extend_schema(
        summary="Send a delivery once more",
        request=NoInput,
        responses={202: StartedRedeliverySerializer},
    )
    @action(detail=True, methods=["post"])
    @transaction.atomic
    def redeliver(self, request: Request, pk: str) -> Response:
        delivery = self.get_object()
        self.read()
        throttles.spend("redeliveries", self.owner_id, 1)
        asked = service.redeliver_one(delivery, requested_by=request.user)
        self.note("delivery.redeliver", delivery, redelivery=asked.public_id)
        return self.show(StartedRedeliverySerializer, asked, 202)
