"""The secrets and ed25519 keys that requests to a webhook are signed with."""

from datetime import datetime
from typing import TYPE_CHECKING

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now
from django.views.decorators.debug import sensitive_variables

from webhooks.errors import EncryptionKeyError
from webhooks.ids import new_id
from webhooks.models.encryption import decrypt, encrypt
from webhooks.wire import signing

if TYPE_CHECKING:
    from webhooks.models.webhook import Webhook


class SigningSecretQuerySet(models.QuerySet["SigningSecret"]):
    def live(self, now: datetime) -> "SigningSecretQuerySet":
        """Return the secrets that sign at this moment, the current one first."""
        return self.filter(Q(expires_at=None) | Q(expires_at__gt=now)).order_by(
            models.F("expires_at").desc(nulls_first=True), "-id"
        )


class SigningSecret(models.Model):
    class Scheme(models.TextChoices):
        """The signature version of Standard Webhooks that a secret makes."""

        HMAC = "v1", "HMAC-SHA256"
        ED25519 = "v1a", "ed25519"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    webhook = models.ForeignKey(
        "webhooks.Webhook", on_delete=models.CASCADE, related_name="secrets"
    )
    scheme = models.CharField(
        max_length=3, choices=Scheme, default=Scheme.HMAC, db_default=Scheme.HMAC, editable=False
    )
    value_encrypted = models.BinaryField(editable=False)
    expires_at = models.DateTimeField(
        null=True, blank=True, help_text="When it stops signing; empty for the current secret."
    )
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    objects = SigningSecretQuerySet.as_manager()

    class Meta:
        permissions = [("reveal_signingsecret", "Can see signing secrets in clear")]
        constraints = [
            models.UniqueConstraint(
                fields=["webhook", "scheme"],
                condition=Q(expires_at=None),
                name="one_current_secret_per_scheme",
            )
        ]

    def __str__(self) -> str:
        return f"secret of {self.webhook_id}"

    @classmethod
    @sensitive_variables()
    def build(
        cls, webhook: "Webhook", value: str | None = None, *, scheme: Scheme = Scheme.HMAC
    ) -> "SigningSecret":
        """Return an unsaved secret, random without `value`.

        Raises ValueError for a malformed value.
        """
        secret = cls(webhook=webhook, scheme=scheme)
        if scheme == cls.Scheme.ED25519:
            value = value or signing.generate_private_key()
            signing.Ed25519Key.from_text(value)
        else:
            value = value or signing.generate_secret()
            signing.SigningKey.from_secret(value)
        secret.value_encrypted = encrypt(value.encode(), secret.id)
        return secret

    @property
    def value(self) -> str:
        """Raises EncryptionKeyError."""
        return decrypt(bytes(self.value_encrypted), self.id).decode()

    @property
    def readable_value(self) -> str | None:
        """The value; None if no key can decrypt it."""
        try:
            return self.value
        except EncryptionKeyError:
            return None
