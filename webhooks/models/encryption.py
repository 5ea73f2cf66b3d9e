"""Values at rest: AES-256-GCM, bound to the id of their row so that rows cannot be swapped.

Layout: version (1 byte), key id (4 bytes, start of the key's SHA-256), nonce (12), ciphertext.
The first key of WEBHOOKS_ENCRYPTION_KEYS encrypts; every key listed decrypts.
"""

import hashlib
import secrets
import uuid

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from django.conf import settings
from django.views.decorators.debug import sensitive_variables

from webhooks.errors import EncryptionKeyError

VERSION = b"\x01"
NONCE_BYTES = 12
HEADER_BYTES = 5
"""Version and key id."""


@sensitive_variables()
def encrypt(plain: bytes, row_id: uuid.UUID) -> bytes:
    """Return `plain` encrypted for the row `row_id`."""
    key = settings.WEBHOOKS_ENCRYPTION_KEYS[0]
    nonce = secrets.token_bytes(NONCE_BYTES)
    return VERSION + _key_id(key) + nonce + AESGCM(key).encrypt(nonce, plain, row_id.bytes)


@sensitive_variables()
def decrypt(stored: bytes, row_id: uuid.UUID) -> bytes:
    """Decrypt a value of the row `row_id`.

    Raises EncryptionKeyError if no key fits or the value belongs to another row.
    """
    key_id, nonce, ciphertext = stored[1:5], stored[5:17], stored[17:]
    for key in settings.WEBHOOKS_ENCRYPTION_KEYS:
        if stored[:1] == VERSION and _key_id(key) == key_id:
            try:
                return AESGCM(key).decrypt(nonce, ciphertext, row_id.bytes)
            except (InvalidTag, ValueError):  # a ValueError where the value was cut short
                break
    raise EncryptionKeyError


@sensitive_variables()
def reencrypt(stored: bytes, row_id: uuid.UUID) -> bytes:
    """Return the same value encrypted with the first key; raises EncryptionKeyError."""
    return encrypt(decrypt(stored, row_id), row_id)


@sensitive_variables()
def header_of_current_key() -> bytes:
    """Return the first bytes of every value encrypted with the first key."""
    return VERSION + _key_id(settings.WEBHOOKS_ENCRYPTION_KEYS[0])


@sensitive_variables()
def headers_of_known_keys() -> list[bytes]:
    """Return the first bytes of all values that can be decrypted."""
    return [VERSION + _key_id(key) for key in settings.WEBHOOKS_ENCRYPTION_KEYS]


@sensitive_variables()
def _key_id(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()[:4]
