"""Verify a RemoteDevAI webhook. Needs nothing but Python 3.10 or newer."""

import base64
import hashlib
import hmac
import os
import sys
import time
from collections.abc import Mapping, Sequence

TOLERANCE_SECONDS = 300


def verify(
    secrets: Sequence[str], headers: Mapping[str, str], body: bytes, now: float | None = None
) -> bool:
    """Say whether `body`, the bytes as they came in, was signed with one of the secrets.

    `headers` has lower-case names. While a secret is rotated give the old and the new one.
    """
    event_id = headers.get("webhook-id", "")
    timestamp = headers.get("webhook-timestamp", "")
    signatures = headers.get("webhook-signature", "")
    if not event_id or not f"{event_id}{timestamp}{signatures}".isascii():
        return False
    if not timestamp.isdigit() or len(timestamp) > 12:
        return False
    if abs((time.time() if now is None else now) - int(timestamp)) > TOLERANCE_SECONDS:
        return False
    content = f"{event_id}.{timestamp}.".encode() + body
    given = signatures.split(" ")
    for secret in secrets:
        key = base64.b64decode(secret.removeprefix("whsec_"))
        digest = hmac.new(key, content, hashlib.sha256).digest()
        expected = b"v1," + base64.b64encode(digest)
        if any(hmac.compare_digest(expected, one.encode()) for one in given):
            return True
    return False


if __name__ == "__main__":
    environment = os.environ
    is_valid = verify(
        environment["WEBHOOK_SECRET"].split(" "),
        {
            "webhook-id": environment["WEBHOOK_ID"],
            "webhook-timestamp": environment["WEBHOOK_TIMESTAMP"],
            "webhook-signature": environment["WEBHOOK_SIGNATURE"],
        },
        sys.stdin.buffer.read(),
        now=float(environment["WEBHOOK_NOW"]) if "WEBHOOK_NOW" in environment else None,
    )
    sys.exit("invalid" if not is_valid else 0)
