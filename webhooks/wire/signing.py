"""Make and verify the signatures of both header families (docs/architecture.md).

Standard Webhooks: over `id.timestamp.body`, `v1` a base64 HMAC-SHA256 keyed with the decoded
secret, `v1a` a base64 ed25519 signature. X-Webhook-*: hex HMAC-SHA256 of `timestamp.body`, keyed
with the secret's text as shown.

A receiver written in Django verifies a request with verify_request(). No text, repr or exception
made here contains a secret.
"""

import base64
import binascii
import hmac
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from django.http import HttpRequest
from django.views.decorators.debug import sensitive_variables

SECRET_PREFIX = "whsec_"
PRIVATE_KEY_PREFIX = "whsk_"
PUBLIC_KEY_PREFIX = "whpk_"
SECRET_BYTES = 32
TOLERANCE_SECONDS = 300
"""How old or how far ahead a timestamp may be; the Standard Webhooks libraries use the same."""


def generate_secret() -> str:
    """Return a new signing secret, `whsec_` and base64 of 32 random bytes."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def generate_private_key() -> str:
    """Return a new ed25519 key: `whsk_` and base64 of its 32 bytes followed by its public key's."""
    key = Ed25519PrivateKey.generate()
    pair = key.private_bytes_raw() + key.public_key().public_bytes_raw()
    return PRIVATE_KEY_PREFIX + base64.b64encode(pair).decode()


class Key(Protocol):
    """A key that signs for Standard Webhooks, with any algorithm."""

    def sign_standard(self, content: bytes) -> str:
        """Return one signature with its version, such as `v1,…`."""


INNER_PAD = bytes(byte ^ 0x36 for byte in range(256))
OUTER_PAD = bytes(byte ^ 0x5C for byte in range(256))


class Mac:
    """HMAC-SHA256 (RFC 2104) with one key, whose two blocks are hashed only once.

    It takes a third of the time of a copied `hmac` object, or of hmac.digest(), which also hands the
    interpreter to another thread each time.
    """

    __slots__ = ("_inner", "_outer")
    BLOCK_BYTES = 64

    @sensitive_variables()
    def __init__(self, key: bytes) -> None:
        if len(key) > self.BLOCK_BYTES:
            key = sha256(key).digest()
        block = key.ljust(self.BLOCK_BYTES, b"\0")
        self._inner = sha256(block.translate(INNER_PAD))
        self._outer = sha256(block.translate(OUTER_PAD))

    def digest(self, content: bytes) -> bytes:
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(content)
        outer.update(inner.digest())
        return outer.digest()


class SigningKey:
    """One secret, ready to sign in both families."""

    __slots__ = ("_decoded", "_text")

    @sensitive_variables()
    def __init__(self, decoded: bytes, text: bytes) -> None:
        self._decoded, self._text = Mac(decoded), Mac(text)

    @classmethod
    @sensitive_variables()
    def from_secret(cls, secret: str) -> "SigningKey":
        """Return the key of a secret; raises ValueError unless it is `whsec_` and base64 of 24 to 64
        bytes."""
        decoded = _decode(secret, SECRET_PREFIX)
        if not 24 <= len(decoded) <= 64:
            raise ValueError("A signing secret holds 24 to 64 bytes.")
        return cls(decoded, secret.encode())

    def __repr__(self) -> str:
        return "SigningKey(…)"

    def sign_standard(self, content: bytes) -> str:
        """Return `v1,…` over the signed content of Standard Webhooks."""
        digest = self._decoded.digest(content)
        return "v1," + binascii.b2a_base64(digest, newline=False).decode()

    def sign_hex(self, content: bytes) -> str:
        """Return the lower-case hex of X-Webhook-Signature over its signed content."""
        return self._text.digest(content).hex()


class Ed25519Key:
    """An ed25519 key pair, ready to sign `v1a`: receivers hold only the public half."""

    __slots__ = ("_private",)

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private

    @classmethod
    @sensitive_variables()
    def from_text(cls, text: str) -> "Ed25519Key":
        """Return the key pair of a text; raises ValueError unless it is `whsk_` and base64 of one."""
        pair = _decode(text, PRIVATE_KEY_PREFIX)
        if len(pair) != 64:
            raise ValueError("An ed25519 signing secret holds 64 bytes.")
        private = Ed25519PrivateKey.from_private_bytes(pair[:32])
        if private.public_key().public_bytes_raw() != pair[32:]:
            raise ValueError("The halves of this ed25519 signing secret do not fit.")
        return cls(private)

    def __repr__(self) -> str:
        return "Ed25519Key(…)"

    @property
    def public_text(self) -> str:
        """The public key for receivers, `whpk_` and base64 of 32 bytes; not secret."""
        public = self._private.public_key().public_bytes_raw()
        return PUBLIC_KEY_PREFIX + base64.b64encode(public).decode()

    def sign_standard(self, content: bytes) -> str:
        """Return `v1a,…` over the signed content of Standard Webhooks."""
        return "v1a," + base64.b64encode(self._private.sign(content)).decode()


def jwk_of(public_text: str) -> dict[str, str]:
    """Return a public key, `whpk_…`, as a JSON Web Key (RFC 8037)."""
    raw = base64.b64decode(public_text.removeprefix(PUBLIC_KEY_PREFIX))
    x = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
    return {
        "kty": "OKP",
        "crv": "Ed25519",
        "alg": "EdDSA",
        "use": "sig",
        "kid": public_text,
        "x": x,
    }


@sensitive_variables()
def load_key(secret: str) -> SigningKey | Ed25519Key:
    """Return the key of a stored secret; raises ValueError if it is malformed."""
    if secret.startswith(PRIVATE_KEY_PREFIX):
        return Ed25519Key.from_text(secret)
    return SigningKey.from_secret(secret)


def sign_standard(keys: Iterable[Key], event_id: str, timestamp: int, body: bytes) -> str:
    """Return the `webhook-signature` header: one signature per key, space-separated."""
    content = _standard_content(event_id, timestamp, body)
    return " ".join([key.sign_standard(content) for key in keys])


def sign_hex(key: SigningKey, timestamp: int, body: bytes) -> str:
    """Return the `X-Webhook-Signature` header."""
    return key.sign_hex(b"%d.%s" % (timestamp, body))


# For receivers.


STANDARD_HEADERS = ("webhook-signature", "webhook-id", "webhook-timestamp")


@sensitive_variables()
def verify_request(request: HttpRequest, secrets: str | Sequence[str]) -> bool:
    """Say whether a Django request carries a fresh signature made with one of the secrets.

    Verifies `webhook-signature` if any Standard Webhooks header is present, else
    `X-Webhook-Signature`: a weaker signature never makes up for a wrong one. Pass the old and the new
    secret during a rotation; a `whpk_…` public key counts as a secret too.
    """
    given = [secrets] if isinstance(secrets, str) else secrets
    now = time.time()
    # Lists, because the time must not depend on which secret fits.
    if any(name in request.headers for name in STANDARD_HEADERS):
        return any([verify_standard(one, request.headers, request.body, now=now) for one in given])  # noqa: C419
    secret = [one for one in given if not one.startswith(PUBLIC_KEY_PREFIX)]
    return any([verify_hex(one, request.headers, request.body, now=now) for one in secret])  # noqa: C419


@sensitive_variables()
def verify_standard(secret: str, headers: Mapping[str, str], body: bytes, *, now: float) -> bool:
    """Say whether a request carries a fresh, valid Standard Webhooks signature.

    `secret` is `whsec_…`, or the public key `whpk_…` for `v1a`. `headers` has lower-case names or
    ignores case; `now` is Unix seconds. Raises ValueError if the secret is malformed.
    """
    event_id = headers.get("webhook-id", "")
    timestamp = _fresh_timestamp(headers.get("webhook-timestamp", ""), now)
    if not event_id or timestamp is None:
        return False
    content = _standard_content(event_id, timestamp, body)
    given = headers.get("webhook-signature", "").split(" ")
    if secret.startswith(PUBLIC_KEY_PREFIX):
        return _fits_public_key(secret, content, given)
    expected = SigningKey.from_secret(secret).sign_standard(content)
    # A list, because the number of comparisons must not depend on which signature fits.
    return any([hmac.compare_digest(expected.encode(), one.encode()) for one in given])  # noqa: C419


@sensitive_variables()
def verify_hex(secret: str, headers: Mapping[str, str], body: bytes, *, now: float) -> bool:
    """Say whether a request carries a fresh, valid X-Webhook-Signature (header names as above)."""
    timestamp = _fresh_timestamp(headers.get("x-webhook-timestamp", ""), now)
    if timestamp is None:
        return False
    expected = sign_hex(SigningKey.from_secret(secret), timestamp, body)
    return hmac.compare_digest(expected.encode(), headers.get("x-webhook-signature", "").encode())


def _fits_public_key(text: str, content: bytes, given: list[str]) -> bool:
    public = Ed25519PublicKey.from_public_bytes(_decode(text, PUBLIC_KEY_PREFIX))
    for one in given:
        version, _, signature = one.partition(",")
        if version == "v1a":
            try:
                public.verify(base64.b64decode(signature, validate=True), content)
            except (InvalidSignature, ValueError):
                continue
            return True
    return False


def _standard_content(event_id: str, timestamp: int, body: bytes) -> bytes:
    return b"%s.%d.%s" % (event_id.encode(), timestamp, body)


@sensitive_variables()
def _decode(text: str, prefix: str) -> bytes:
    if not text.startswith(prefix):
        raise ValueError(f"This signing secret does not start with {prefix}.")
    try:
        return base64.b64decode(text.removeprefix(prefix), validate=True)
    except ValueError:
        raise ValueError(f"This signing secret is not {prefix} and base64.") from None


def _fresh_timestamp(value: str, now: float) -> int | None:
    # isdecimal() alone would accept digits of other scripts.
    if not (value.isascii() and value.isdecimal() and len(value) <= 12):
        return None
    timestamp = int(value)
    return timestamp if abs(now - timestamp) <= TOLERANCE_SECONDS else None
