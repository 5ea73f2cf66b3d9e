"""A registered URL with what it receives, its policy and secrets."""

import uuid
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.db.models import Q, Value
from django.db.models.functions import Now
from django.utils import timezone

from webhooks.choices import BreakerState, Order
from webhooks.errors import UrlRefusedError
from webhooks.ids import WEBHOOK_PREFIX
from webhooks.models.custom_headers import CustomHeaders
from webhooks.models.endpoint_proof import EndpointProof
from webhooks.models.selection import Selection
from webhooks.models.sending import Sending
from webhooks.models.signing_secret import SigningSecret
from webhooks.pace import retry
from webhooks.wire import signing
from webhooks.wire.url_rules import MAX_URL_LENGTH, accept_url

if TYPE_CHECKING:
    from webhooks.models.event import Event

UID_PATTERN = "[A-Za-z0-9._:-]{1,100}"
UID_RULE = "A uid has 1 to 100 letters, digits, dots, colons, hyphens and underscores."
MAX_METADATA = 50
MAX_METADATA_NAME = 40
MAX_METADATA_TEXT = 500
MAX_RETRIES = 20
MAX_LIVE_SECRETS = 10
"""The maximum live secrets of one webhook and scheme: each signs every request."""


SETTINGS: dict[str, tuple[str, ...]] = {
    "": ("name", "url", "description", "events", "filter"),
    "Retries": ("max_retries", "retry_delay_seconds", "retry_schedule"),
    "Sending": (
        "form",
        "data_fields",
        "version",
        "timeout_seconds",
        "rate_limit",
        "order",
        "debounce_seconds",
    ),
    "Batches": ("batch_events", "batch_bytes", "batch_milliseconds"),
}
"""The settings that an owner may change, by the heading of the admin's form.

Type, limits, default and help text are those of the model's field. The service, the API and the admin
take the rest from here. A setting that the sender needs is also read in
webhooks/dispatch/endpoints.py.
"""
SETTING_NAMES = tuple(name for names in SETTINGS.values() for name in names)


def api_name(setting: str) -> str:
    """Return a setting's name in the API, in snake case and without its unit, seconds."""
    return setting.removesuffix("_seconds")


def metadata_problem(metadata: Any) -> str | None:
    """Return what is wrong with the metadata of a webhook."""
    if (
        isinstance(metadata, dict)
        and len(metadata) <= MAX_METADATA
        and all(isinstance(name, str) and 0 < len(name) <= MAX_METADATA_NAME for name in metadata)
        and all(
            isinstance(text, str) and len(text) <= MAX_METADATA_TEXT for text in metadata.values()
        )
    ):
        return None
    return (
        f"Metadata are at most {MAX_METADATA} texts of at most {MAX_METADATA_TEXT} characters, their "
        f"names of at most {MAX_METADATA_NAME}."
    )


ORDER_AND_DEBOUNCE = (
    "A webhook that sends in order cannot wait for later updates: what waits would hold everything "
    "behind it."
)


class WebhookQuerySet(models.QuerySet["Webhook"]):
    def for_owner(self, owner_id: uuid.UUID | None) -> "WebhookQuerySet":
        """Return the owner's webhooks that are not deleted."""
        return self.filter(owner_id=owner_id, deleted_at=None)

    def receiving(self, event: "Event") -> "WebhookQuerySet":
        """Return the active webhooks that may receive an event.

        These are its owner's and, unless it is self-reported, the platform's.
        """
        hearing = Q(owner_id__in=[event.owner_id] if event.owner_id else [])
        if not event.is_self_reported:
            hearing |= Q(is_platform=True)
        return self.filter(hearing, active=True, deleted_at=None)


class Webhook(CustomHeaders, Selection, Sending, EndpointProof):
    owner = models.ForeignKey(
        settings.WEBHOOKS_OWNER_MODEL,
        # Deleting an owner soft-deletes the webhooks; a cascade would block producers' inserts.
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        db_index=False,
        related_name="webhooks",
        help_text="Whose events it receives. Empty only for platform webhooks.",
    )
    is_platform = models.BooleanField(
        default=False, help_text="Made by staff; receives every owner's events."
    )
    name = models.CharField(max_length=200)
    url = models.CharField("URL", max_length=MAX_URL_LENGTH)
    description = models.TextField(blank=True)
    active = models.BooleanField(default=True)
    uid = models.CharField(  # noqa: DJ001 (null = none, as often as one likes)
        max_length=100,
        null=True,
        editable=False,
        validators=[RegexValidator(rf"^{UID_PATTERN}\Z", UID_RULE)],
        help_text="A name that its owner's programs know it by; unique among his webhooks.",
    )
    metadata = models.JSONField(
        default=dict,
        db_default=Value({}, models.JSONField()),
        blank=True,
        editable=False,
        help_text="Texts of its owner's, for his programs.",
    )
    max_retries = models.PositiveSmallIntegerField(
        default=10,
        validators=[MaxValueValidator(MAX_RETRIES)],
        help_text="How often a failed delivery is retried, 0 to 20.",
    )
    retry_delay_seconds = models.PositiveIntegerField(
        default=60,
        validators=[MinValueValidator(1), MaxValueValidator(3600)],
        help_text="Seconds before the first retry; doubled for each further one.",
    )
    retry_schedule = ArrayField(
        models.PositiveIntegerField(
            validators=[MinValueValidator(1), MaxValueValidator(retry.MAX_DELAY_SECONDS)]
        ),
        size=MAX_RETRIES,
        null=True,
        blank=True,
        help_text="Seconds before each retry, instead of the two settings above.",
    )
    timeout_seconds = models.PositiveSmallIntegerField(
        default=15,
        validators=[MinValueValidator(1), MaxValueValidator(30)],
        help_text="Seconds that one attempt may take.",
    )
    rate_limit = models.FloatField(
        null=True,
        blank=True,
        validators=[MinValueValidator(0.001), MaxValueValidator(10_000)],
        help_text="Requests per second, fractions too; empty for no limit.",
    )
    disabled_reason = models.CharField(max_length=500, blank=True, editable=False)
    disabled_at = models.DateTimeField(null=True, editable=False)
    # When the owner's mail about an automatic disabling is due; null after it was sent.
    notice_due_at = models.DateTimeField(null=True, editable=False)
    notice_failures = models.PositiveSmallIntegerField(default=0, db_default=0, editable=False)
    # Why it could not be sent or, without a due time, why it was given up.
    notice_error = models.CharField(
        max_length=500, blank=True, default="", db_default="", editable=False
    )
    failing_since = models.DateTimeField(null=True, editable=False)
    breaker_state = models.CharField(
        max_length=9, choices=BreakerState, default=BreakerState.CLOSED, editable=False
    )
    breaker_failures = models.PositiveIntegerField(default=0, editable=False)
    breaker_probes = models.PositiveIntegerField(default=0, editable=False)
    breaker_changed_at = models.DateTimeField(null=True, editable=False)
    breaker_probe_at = models.DateTimeField(null=True, editable=False)
    # No request before this time, from the receiver's Retry-After.
    held_until = models.DateTimeField(null=True, editable=False)
    # When the allowance of its rate limit is full again (webhooks/pace/rate.py).
    rate_ready_at = models.DateTimeField(null=True, editable=False)
    deleted_at = models.DateTimeField(null=True, editable=False)
    revision = models.PositiveBigIntegerField(default=1, editable=False)
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    updated_at = models.DateTimeField(auto_now=True)

    objects = WebhookQuerySet.as_manager()

    class Meta:
        constraints = [
            models.CheckConstraint(
                # A deleted owner leaves soft-deleted webhooks without an owner.
                condition=Q(is_platform=True, owner=None)
                | Q(is_platform=False, owner__isnull=False)
                | Q(deleted_at__isnull=False),
                name="webhook_owner_or_platform",
                violation_error_message="A webhook has an owner, or is a platform webhook.",
            ),
            models.UniqueConstraint(
                fields=["owner", "uid"],
                condition=Q(uid__isnull=False, deleted_at=None),
                name="webhook_uid_of_owner",
                violation_error_message="You have a webhook with this uid.",
            ),
            models.CheckConstraint(
                # Whoever writes one without the other would change nothing, or everything.
                condition=Q(filter__isnull=True, filter_path__isnull=True)
                | Q(filter__isnull=False, filter_path__isnull=False),
                name="webhook_filter_is_compiled",
            ),
        ]
        indexes = [
            # STORE_SQL (webhooks/outbox/store.py) and for_owner(): the fan-out and the owner's list.
            models.Index(
                fields=["owner", "id"], name="webhook_owner", condition=Q(deleted_at=None)
            ),
            models.Index(fields=["id"], name="webhook_platform", condition=Q(is_platform=True)),
            # The claim: recently enabled or recovered webhooks.
            models.Index(
                fields=["breaker_changed_at"],
                name="webhook_resumed",
                condition=Q(breaker_changed_at__isnull=False),
            ),
            # Housekeeping: whether most webhooks fail, and which owners get a mail.
            models.Index(
                fields=["failing_since"],
                name="webhook_failing",
                condition=Q(failing_since__isnull=False),
            ),
            models.Index(
                fields=["notice_due_at"],
                name="webhook_notice",
                condition=Q(notice_due_at__isnull=False),
            ),
            # Housekeeping: which receivers get a challenge.
            models.Index(
                fields=["proof_due_at"],
                name="webhook_proof",
                condition=Q(proof_due_at__isnull=False, deleted_at=None),
            ),
        ]

    _secret: str | None = None

    def __str__(self) -> str:
        return self.name

    def __getstate__(self) -> dict[str, Any]:
        """Leave the secret out of pickles and copies."""
        state: dict[str, Any] = super().__getstate__()
        state.pop("_secret", None)
        return state

    @property
    def public_id(self) -> str:
        return WEBHOOK_PREFIX + self.id.hex

    @property
    def secret(self) -> str:
        """The signing secret, readable only on the instance that created or rotated it."""
        if self._secret is None:
            raise AttributeError(
                "The secret is shown once, by create_webhook() and rotate_secret()."
            )
        return self._secret

    @property
    def ed25519(self) -> bool:
        """Whether requests are signed `v1a` as well."""
        return self.secrets.filter(scheme=SigningSecret.Scheme.ED25519, expires_at=None).exists()

    @property
    def public_keys(self) -> list[str]:
        """The public keys for `v1a` signatures, the current one first; they are no secrets.

        Leaves out keys that cannot be decrypted, because they sign nothing.
        """
        live = self.secrets.filter(scheme=SigningSecret.Scheme.ED25519).live(timezone.now())
        values = [secret.readable_value for secret in live]
        return [signing.Ed25519Key.from_text(value).public_text for value in values if value]

    def clean(self) -> None:
        """Normalize the URL; raises ValidationError with every invalid field."""
        problems: dict[str, str] = {}
        try:
            self.url = accept_url(self.url)
        except UrlRefusedError as problem:
            problems["url"] = str(problem)
        problems |= self.clean_selection()
        if problem_of_batches := self.batch_problem(self.form):
            problems["batch_events"] = problem_of_batches
        if self.order != Order.NONE and self.debounce_seconds:
            problems["debounce_seconds"] = ORDER_AND_DEBOUNCE
        if problem_of_metadata := metadata_problem(self.metadata):
            problems["metadata"] = problem_of_metadata
        if problems:
            raise ValidationError(problems)
