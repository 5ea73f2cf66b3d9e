"""What the API reads and shows of a webhook."""

from typing import Any

from drf_spectacular.utils import extend_schema_serializer
from rest_framework import serializers

from webhooks import service
from webhooks.api.base import ApiModelSerializer, ApiSerializer, PublicIdField
from webhooks.api.serializers import BoundedDictField, FailureKindField, FilterField
from webhooks.errors import FilterInvalidError, UrlRefusedError
from webhooks.ids import REDELIVERY_PREFIX, WEBHOOK_PREFIX
from webhooks.models import SigningSecret, Webhook
from webhooks.models.data_fields import MAX_FIELDS, MAX_PATH_CHARACTERS
from webhooks.models.delivery import COUNTED_AT_MOST
from webhooks.models.filters import read_filter
from webhooks.models.selection import events_problem
from webhooks.models.webhook import (
    MAX_METADATA,
    MAX_METADATA_TEXT,
    MAX_RETRIES,
    SETTING_NAMES,
    SETTINGS,
    UID_PATTERN,
    UID_RULE,
    api_name,
    metadata_problem,
)
from webhooks.pace.bounds import MAX_PATTERNS
from webhooks.pace.retry import MAX_DELAY_SECONDS
from webhooks.registry.changes import policy_problem
from webhooks.wire.header_rules import MAX_HEADERS, header_problems
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
FILTER_HELP = (
    'A condition on the data of these events, such as `{"amount": {"gte": 10000}}`; null for all of '
    "them. docs/api.md lists the operators."
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
    filter = FilterField(required=False, allow_null=True, help_text=FILTER_HELP)
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
    data_fields = serializers.ListField(
        child=serializers.CharField(max_length=MAX_PATH_CHARACTERS),
        max_length=MAX_FIELDS,
        allow_null=True,
        required=False,
        help_text="For the form `fields`: the dotted paths in `data` that are sent.",
    )
    description = serializers.CharField(
        max_length=10_000, allow_blank=True, required=False, default=""
    )

    ordered = serializers.BooleanField(
        required=False,
        help_text="Whether `order` is not `none`. Setting it is the older way to choose `all` or `none`.",
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
            "ordered", "disabled_reason", "disabled_at", "failing_since", "breaker_state", "verified",
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

    def validate_filter(self, value: Any) -> Any:
        try:
            if value is not None:
                read_filter(value)
        except FilterInvalidError as problem:
            raise serializers.ValidationError(str(problem)) from None
        return value

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


@extend_schema_serializer(component_name="CreateWebhook")
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
    send_missed = serializers.BooleanField(
        default=False, help_text="Also send the events that it missed while it was disabled."
    )
    dry_run = serializers.BooleanField(default=False, help_text="Only count.")


class EnableResultSerializer(ApiSerializer):
    """What is sent of that which waited, and what was missed."""

    waiting = serializers.IntegerField(help_text="How many deliveries go out now.")
    missed = serializers.IntegerField(
        help_text="How many events it missed while it was disabled; they are sent only with "
        f"`sendMissed`. {COUNTED_AT_MOST + 1:,} means more than {COUNTED_AT_MOST:,}."
    )
    redelivery_id = PublicIdField(
        REDELIVERY_PREFIX,
        allow_null=True,
        help_text="The redelivery that sends what was missed; null if nothing of it is sent.",
    )


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
