"""The custom request headers of a webhook, which are stored encrypted."""

import json
import uuid

from django.core.exceptions import ValidationError
from django.db import models
from django.views.decorators.debug import sensitive_variables

from webhooks.errors import EncryptionKeyError
from webhooks.ids import new_id
from webhooks.models.encryption import decrypt, encrypt
from webhooks.wire.header_rules import header_problems


@sensitive_variables()
def decrypt_headers(stored: bytes | memoryview | None, webhook_id: uuid.UUID) -> dict[str, str]:
    """Decrypt stored custom headers; raises EncryptionKeyError."""
    return {} if stored is None else dict(json.loads(decrypt(bytes(stored), webhook_id)))


class CustomHeaders(models.Model):
    """The part of Webhook that holds them; its id belongs to the encryption."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    headers_encrypted = models.BinaryField(null=True, editable=False)

    class Meta:
        abstract = True

    @property
    def headers(self) -> dict[str, str]:
        """Custom request headers; stored encrypted."""
        return decrypt_headers(self.headers_encrypted, self.id)

    @headers.setter
    @sensitive_variables()
    def headers(self, headers: dict[str, str]) -> None:
        """Raises ValidationError for a forbidden header and then keeps the old ones."""
        if problems := header_problems(headers):
            raise ValidationError({"headers": problems})
        text = json.dumps(headers).encode()
        self.headers_encrypted = encrypt(text, self.id) if headers else None

    @property
    def header_names(self) -> list[str] | None:
        """The names of the custom headers; None if no key can decrypt them."""
        try:
            return list(self.headers)
        except EncryptionKeyError:
            return None
