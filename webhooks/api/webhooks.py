"""`/webhooks`: registered URLs and the operations on them."""

from datetime import timedelta
from typing import Any, cast

from django.db import transaction
from django.db.models import QuerySet
from django_filters import CharFilter
from drf_spectacular.utils import (
    OpenApiParameter,
    extend_schema,
    extend_schema_serializer,
    extend_schema_view,
)
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.reverse import reverse

from webhooks import service
from webhooks.api.base import (
    ApiFilters,
    ApiModelSerializer,
    ApiSerializer,
    ApiViewSet,
    BooleanFilter,
    CreateAction,
    DeleteAction,
    ListAction,
    NoInput,
    PublicIdField,
    RetrieveAction,
    UpdateAction,
)
from webhooks.api.deliveries import DeliveryFilters, DeliverySerializer
from webhooks.api.figures import StatsQuery, WebhookStatsSerializer, stats_of
from webhooks.api.serializers import BoundedDictField, FailureKindField
from webhooks.errors import UrlRefusedError
from webhooks.ids import WEBHOOK_PREFIX
from webhooks.models import SigningSecret, Webhook
from webhooks.models.webhook import (
    MAX_METADATA,
    MAX_METADATA_TEXT,
    MAX_RETRIES,
    SETTING_NAMES,
    SETTINGS,
    UID_PATTERN,
    UID_RULE,
    api_name,
    events_problem,
    metadata_problem,
)
from webhooks.pace.bounds import MAX_PATTERNS
from webhooks.pace.retry import MAX_DELAY_SECONDS
from webhooks.registry.changes import policy_problem
from webhooks.wire.header_rules import MAX_HEADERS, header_problems
from webhooks.wire.signing import jwk_of
from webhooks.wire.url_rules import accept_url

API_NAMES = [api_name(name) for name in SETTING_NAMES]
FIRST = len(SETTINGS[""])
RENAMED = {
    api_name(field.name): {"source": field.name, "default": field.default}
    for field in Webhook._meta.fields
    if field.name in SETTING_NAMES and api_name(field.name) != field.name
}


MAX_SECRET = 200
SECRET_HELP = (
    "A secret of yours, `whsec_` and base64 of 24 to 64 bytes; without it one is generated."
)
WAITING = ["recent", "all", "none"]
"""Which of the deliveries that waited are sent."""


class WebhookSerializer(ApiModelSerializer):
    """A registered URL: what is sent to it, and how."""

    id = PublicIdField(WEBHOOK_PREFIX, read_only=True)
    events = serializers.ListField(
        child=serializers.CharField(max_length=100),
        max_length=MAX_PATTERNS,
        help_text="Event types or patterns: `project.created`, `project.*`, `*`.",
    )
    headers = BoundedDictField(
        max_length=MAX_HEADERS,
        child=serializers.CharField(max_length=4096, allow_blank=True, trim_whitespace=False),
        write_only=True,
        required=False,
        help_text="Sent with every request. Replaces all previous headers; values are never shown.",
    )
    header_names = serializers.ListField(
        child=serializers.CharField(),
        read_only=True,
        allow_null=True,
        help_text="Null if they cannot be decrypted; the webhook then receives nothing until they "
        "are replaced.",
    )
    retry_schedule = serializers.ListField(
        child=serializers.IntegerField(min_value=1, max_value=MAX_DELAY_SECONDS),
        max_length=MAX_RETRIES,
        allow_null=True,
        required=False,
        help_text="Seconds before each retry, instead of `maxRetries` and `retryDelay`.",
    )
    description = serializers.CharField(
        max_length=10_000, allow_blank=True, required=False, default=""
    )

    metadata = BoundedDictField(
        max_length=MAX_METADATA,
        child=serializers.CharField(
            max_length=MAX_METADATA_TEXT, allow_blank=True, trim_whitespace=False
        ),
        required=False,
        help_text="Texts of your own, for your programs. Replaces all earlier ones.",
    )

    class Meta:
        model = Webhook
        fields = [
            "id", "uid", *API_NAMES[:FIRST], "metadata", "active", "headers", "header_names", *API_NAMES[FIRST:],
            "disabled_reason", "disabled_at", "failing_since", "breaker_state", "verified",
            "created_at", "updated_at",
        ]  # fmt: skip
        read_only_fields = [
            "uid", "active", "disabled_reason", "disabled_at", "failing_since", "breaker_state",
            "verified", "created_at", "updated_at",
        ]  # fmt: skip
        extra_kwargs = RENAMED

    # What the service would refuse as well, but only once all of the above is right.

    def validate_url(self, url: str) -> str:
        try:
            return accept_url(url)
        except UrlRefusedError as problem:
            raise serializers.ValidationError(str(problem)) from None

    def validate_events(self, events: list[str]) -> list[str]:
        if problem := events_problem(events):
            raise serializers.ValidationError(problem)
        return events

    def validate_metadata(self, metadata: dict[str, str]) -> dict[str, str]:
        if problem := metadata_problem(metadata):
            raise serializers.ValidationError(problem)
        return metadata

    def validate_headers(self, headers: dict[str, str]) -> dict[str, str]:
        if problems := header_problems(headers):
            raise serializers.ValidationError(problems)
        return headers

    def validate_retrySchedule(self, schedule: list[int] | None) -> list[int] | None:
        retries = self.initial_data.get("maxRetries")
        if problem := policy_problem({"retry_schedule": schedule, "max_retries": retries}):
            raise serializers.ValidationError(problem)
        return schedule


@extend_schema_serializer(component_name="Webhook")
class WebhookSettingsSerializer(WebhookSerializer):
    """What is sent where, and how."""

    ed25519 = serializers.BooleanField(
        required=False,
        write_only=True,
        help_text="Whether requests are signed `v1a` as well, with a key of their own.",
    )

    class Meta(WebhookSerializer.Meta):
        fields = [*WebhookSerializer.Meta.fields, "ed25519"]


@extend_schema_serializer(component_name="NewWebhook")
class NewWebhookSerializer(WebhookSettingsSerializer):
    """What is sent where, and how."""

    uid = serializers.RegexField(
        rf"^{UID_PATTERN}$",
        required=False,
        error_messages={"invalid": UID_RULE},
        help_text="A name that your programs know it by, unique among your webhooks.",
    )
    secret = serializers.CharField(
        max_length=MAX_SECRET, required=False, write_only=True, help_text=SECRET_HELP
    )

    class Meta(WebhookSettingsSerializer.Meta):
        fields = [*WebhookSettingsSerializer.Meta.fields, "secret"]
        read_only_fields = [
            name for name in WebhookSettingsSerializer.Meta.read_only_fields if name != "uid"
        ]


class WebhookDetailSerializer(WebhookSerializer):
    """A webhook, with what may be unexpected of it."""

    public_keys = serializers.ListField(
        child=serializers.CharField(),
        read_only=True,
        help_text="What `v1a` signatures are verified with, the current one first.",
    )

    warnings = serializers.SerializerMethodField(
        method_name="get_warnings",
        help_text="Settings that are allowed but rarely meant, such as a second webhook with the same URL.",
    )

    class Meta(WebhookSerializer.Meta):
        fields = [*WebhookSerializer.Meta.fields, "public_keys", "warnings"]

    def get_warnings(self, webhook: Webhook) -> list[str]:
        return service.warnings_of(webhook)


class WebhookWithSecretSerializer(WebhookDetailSerializer):
    """A webhook with its signing secret, which is shown this once."""

    secret = serializers.SerializerMethodField(
        method_name="get_secret",
        help_text="What receivers check signatures with; shown this once. Null where an ed25519 key "
        "was replaced.",
    )

    def get_secret(self, webhook: Webhook) -> str | None:
        return webhook._secret

    class Meta(WebhookDetailSerializer.Meta):
        fields = [*WebhookDetailSerializer.Meta.fields, "secret"]


class RotateSecretSerializer(ApiSerializer):
    """How the old secret goes out of use."""

    overlap_hours = serializers.FloatField(
        min_value=0,
        max_value=168,
        default=24,
        help_text="Hours for which the old secret signs beside the new one; 0 revokes it at once.",
    )

    secret = serializers.CharField(max_length=MAX_SECRET, required=False, help_text=SECRET_HELP)
    scheme = serializers.ChoiceField(
        choices=SigningSecret.Scheme.choices,
        default=SigningSecret.Scheme.HMAC,
        help_text="`v1` replaces the secret, `v1a` the ed25519 key.",
    )


class PublicKeySerializer(ApiSerializer):
    """An ed25519 key as RFC 8037 writes it."""

    kty = serializers.CharField()
    crv = serializers.CharField()
    alg = serializers.CharField()
    use = serializers.CharField()
    kid = serializers.CharField(help_text="The key as `publicKeys` of the webhook has it.")
    x = serializers.CharField()


class PublicKeysSerializer(ApiSerializer):
    """A JSON Web Key Set (RFC 7517)."""

    keys = PublicKeySerializer(many=True)  # as the RFC calls it


class EnableWebhookSerializer(ApiSerializer):
    """What becomes of the deliveries that waited."""

    send = serializers.ChoiceField(
        choices=WAITING,
        default="recent",
        help_text="Which pending deliveries to send; `recent` means less than three days old.",
    )


class EnableResultSerializer(ApiSerializer):
    """What is sent of that which waited."""

    waiting = serializers.IntegerField(help_text="How many deliveries go out now.")


class DisableWebhookSerializer(ApiSerializer):
    """Why nothing shall be sent."""

    reason = serializers.CharField(max_length=500, allow_blank=True, default="")


class RevokeResultSerializer(ApiSerializer):
    """What was taken out of use."""

    revoked = serializers.IntegerField(help_text="How many older secrets no longer sign.")


class SendTestSerializer(ApiSerializer):
    """What is sent as a test."""

    event_type = serializers.CharField(
        max_length=100, default="webhook.test", help_text="The event type whose example is sent."
    )


class TestResultSerializer(ApiSerializer):
    """What the receiver answered to a test."""

    event_id = serializers.CharField(help_text="Seen by the receiver only; nothing is stored.")
    succeeded = serializers.BooleanField()
    response_code = serializers.IntegerField(allow_null=True)
    duration_ms = serializers.IntegerField()
    failure_kind = FailureKindField(allow_blank=True)
    error = serializers.CharField(allow_blank=True)
    response_excerpt = serializers.CharField(allow_blank=True)
    is_truncated = serializers.BooleanField()
    signature_headers = serializers.DictField(child=serializers.CharField())


class VerifyResultSerializer(ApiSerializer):
    """Whether the receiver has shown that it wants our requests."""

    verified = serializers.BooleanField()
    response_code = serializers.IntegerField(allow_null=True)
    error = serializers.CharField(
        allow_blank=True, help_text="Why the proof failed; empty if it succeeded."
    )


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
    ListAction, RetrieveAction, CreateAction, UpdateAction, DeleteAction, ApiViewSet[Webhook]
):
    id_prefix = WEBHOOK_PREFIX
    serializer_class = WebhookSerializer
    changes_serializer_class = WebhookSettingsSerializer
    detail_serializer_class = WebhookDetailSerializer
    filterset_class = WebhookFilters
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
        return cast(QuerySet[Webhook], service.get_webhooks(self.request.user))

    @extend_schema(
        summary="Create a webhook",
        request=NewWebhookSerializer,
        responses={201: WebhookWithSecretSerializer},
    )
    @transaction.atomic
    def create(self, request: Request) -> Response:
        values = self.read(NewWebhookSerializer)
        webhook = service.create_webhook(request.user, **values)
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
        webhook, changes = service.put_webhook(request.user, uid, **values)
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

    def perform_destroy(self, webhook: Webhook) -> None:
        service.delete_webhook(webhook)

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
        self.note("webhook.test", webhook, response_code=tryout.response_code, error=tryout.error)
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
        operation_id="rotateSecret",
        summary="Replace the signing secret",
        request=RotateSecretSerializer,
        responses=WebhookWithSecretSerializer,
    )
    @action(detail=True, methods=["post"], url_path="rotate-secret")
    @transaction.atomic
    def rotate_secret(self, request: Request, pk: str) -> Response:
        webhook = self.get_object()
        wish = self.read(RotateSecretSerializer)
        overlap = timedelta(hours=wish.pop("overlap_hours"))
        service.rotate_secret(webhook, overlap=overlap, **wish)
        self.note(
            "secret.rotate",
            webhook,
            overlap_seconds=overlap.total_seconds(),
            scheme=wish["scheme"],
        )
        return self.show(WebhookWithSecretSerializer, webhook)

    @extend_schema(
        operation_id="getPublicKeys",
        summary="Show the keys that `v1a` signatures are verified with",
        responses=PublicKeysSerializer,
        filters=False,
    )
    @action(detail=True, url_path="public-keys", pagination_class=None)
    def public_keys(self, request: Request, pk: str) -> Response:
        keys = [jwk_of(text) for text in self.get_object().public_keys]
        return self.show(PublicKeysSerializer, {"keys": keys})

    @extend_schema(
        operation_id="revokeSecrets",
        summary="Take all older secrets out of use",
        request=NoInput,
        responses=RevokeResultSerializer,
    )
    @action(detail=True, methods=["post"], url_path="revoke-secrets")
    @transaction.atomic
    def revoke_secrets(self, request: Request, pk: str) -> Response:
        webhook = self.get_object()
        self.read()
        count = service.revoke_secret(webhook)
        self.note("secret.revoke", webhook, count=count)
        return self.show(RevokeResultSerializer, {"revoked": count})

    @extend_schema(
        summary="Send to it again",
        request=EnableWebhookSerializer,
        responses=EnableResultSerializer,
    )
    @action(detail=True, methods=["post"])
    @transaction.atomic
    def enable(self, request: Request, pk: str) -> Response:
        webhook = self.get_object()
        was, reason = webhook.active, webhook.disabled_reason
        send = self.read(EnableWebhookSerializer)["send"]
        waiting = service.enable(webhook, send=send)
        self.note(
            "webhook.enable",
            webhook,
            active=[was, True],
            disabled_reason=[reason, ""],
            waiting=send,
        )
        return self.show(EnableResultSerializer, {"waiting": waiting})

    @extend_schema(
        summary="Stop sending to it; its deliveries wait",
        request=DisableWebhookSerializer,
        responses=WebhookSerializer,
    )
    @action(detail=True, methods=["post"])
    @transaction.atomic
    def disable(self, request: Request, pk: str) -> Response:
        webhook = self.get_object()
        was, reason = webhook.active, self.read(DisableWebhookSerializer)["reason"]
        service.disable(webhook, reason)
        self.note("webhook.disable", webhook, active=[was, False], reason=reason)
        return self.show(WebhookSerializer, webhook)

    @extend_schema(
        operation_id="listWebhookDeliveries",
        summary="List a webhook's deliveries",
        responses=DeliverySerializer(many=True),
    )
    @action(detail=True, filterset_class=DeliveryFilters)
    def deliveries(self, request: Request, pk: str) -> Response:
        found = service.get_deliveries(self.get_object(), request.user)
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
