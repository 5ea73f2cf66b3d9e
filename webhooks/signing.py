"""Signatures of both families, made and checked (DESIGN.md section 6).

Standard Webhooks: base64 HMAC-SHA256 of `id.timestamp.body`, keyed with the decoded secret.
X-Webhook-*: hex HMAC-SHA256 of `timestamp.body`, keyed with the secret's text as shown.
"""

import base64
import binascii
import hmac
import secrets
from collections.abc import Iterable, Mapping

SECRET_PREFIX = "whsec_"
SECRET_BYTES = 32
TOLERANCE_SECONDS = 300
"""How old or how far ahead a timestamp may be; the Standard Webhooks libraries use the same."""


def generate_secret() -> str:
    """Return a new signing secret, `whsec_` and base64 of 32 random bytes."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


class SigningKey:
    """One secret, ready to sign in both families.

    Holds keyed HMACs that are copied for each signature: half the cost of starting anew, and the
    interpreter lock is kept, which hmac.digest() would hand to another thread each time.
    """

    __slots__ = ("_decoded", "_text")

    def __init__(self, decoded: bytes, text: bytes) -> None:
        self._decoded = hmac.new(decoded, None, "sha256")
        self._text = hmac.new(text, None, "sha256")

    @classmethod
    def from_secret(cls, secret: str) -> "SigningKey":
        """Raises ValueError when the secret is not `whsec_` and base64 of 24 to 64 bytes."""
        if not secret.startswith(SECRET_PREFIX):
            raise ValueError("A signing secret starts with whsec_.")
        try:
            decoded = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
        except ValueError:
            raise ValueError("A signing secret is whsec_ and base64.") from None
        if not 24 <= len(decoded) <= 64:
            raise ValueError("A signing secret holds 24 to 64 bytes.")
        return cls(decoded, secret.encode())

    def __repr__(self) -> str:
        return "SigningKey(…)"

    def sign_standard(self, content: bytes) -> str:
        """Return `v1,…` over the signed content of Standard Webhooks."""
        mac = self._decoded.copy()
        mac.update(content)
        return "v1," + binascii.b2a_base64(mac.digest(), newline=False).decode()

    def sign_hex(self, content: bytes) -> str:
        """Return the lower-case hex of X-Webhook-Signature over its signed content."""
        mac = self._text.copy()
        mac.update(content)
        return mac.hexdigest()


def sign_standard(keys: Iterable[SigningKey], event_id: str, timestamp: int, body: bytes) -> str:
    """Return the `webhook-signature` header: one `v1,…` per key, space-separated."""
    content = b"%s.%d.%s" % (event_id.encode(), timestamp, body)
    return " ".join([key.sign_standard(content) for key in keys])


def sign_hex(key: SigningKey, timestamp: int, body: bytes) -> str:
    """Return the `X-Webhook-Signature` header."""
    return key.sign_hex(b"%d.%s" % (timestamp, body))


def verify_standard(secret: str, headers: Mapping[str, str], body: bytes, *, now: float) -> bool:
    """Say whether a request carries a fresh, valid Standard Webhooks signature.

    `headers` has lower-case names; `now` is Unix seconds.
    """
    event_id = headers.get("webhook-id", "")
    timestamp = _fresh_timestamp(headers.get("webhook-timestamp", ""), now)
    if not event_id or timestamp is None:
        return False
    expected = sign_standard([SigningKey.from_secret(secret)], event_id, timestamp, body)
    given = headers.get("webhook-signature", "").split(" ")
    # A list: how many were compared must not depend on which one fits.
    return any([hmac.compare_digest(expected.encode(), one.encode()) for one in given])  # noqa: C419


def verify_hex(secret: str, headers: Mapping[str, str], body: bytes, *, now: float) -> bool:
    """Say whether a request carries a fresh, valid X-Webhook-Signature (lower-case header names)."""
    timestamp = _fresh_timestamp(headers.get("x-webhook-timestamp", ""), now)
    if timestamp is None:
        return False
    expected = sign_hex(SigningKey.from_secret(secret), timestamp, body)
    return hmac.compare_digest(expected.encode(), headers.get("x-webhook-signature", "").encode())


def _fresh_timestamp(value: str, now: float) -> int | None:
    # isdecimal alone accepts other scripts' digits; ASCII digits only.
    if not (value.isascii() and value.isdecimal() and len(value) <= 12):
        return None
    timestamp = int(value)
    return timestamp if abs(now - timestamp) <= TOLERANCE_SECONDS else None
