"""Build the signed request of one attempt: pure, no database, no sockets."""

from collections.abc import Sequence
from datetime import date
from typing import Any, Protocol
from uuid import UUID

from webhooks.ids import DELIVERY_PREFIX, EVENT_PREFIX
from webhooks.wire.forms import render
from webhooks.wire.messages import HeaderBlock, Post
from webhooks.wire.signing import Ed25519Key, SigningKey, sign_hex, sign_standard

USER_AGENT = b"RemoteDevAI-Webhooks/1.0"

SYSTEM_HEAD = b"""\
Content-Type: application/json
User-Agent: %b
webhook-id: %b
webhook-timestamp: %d
webhook-signature: %b
X-Webhook-Signature: %b
X-Webhook-Timestamp: %d
X-Webhook-ID: %b
X-Webhook-Event: %b
X-Webhook-Delivery: %b
X-Webhook-Attempt: %d"""


class Destination(Protocol):
    """The URL of a request, its custom headers and its keys."""

    @property
    def url(self) -> str: ...

    @property
    def header_lines(self) -> Sequence[bytes]:
        """Custom headers, as sent."""

    @property
    def key(self) -> SigningKey:
        """The key of X-Webhook-Signature."""

    @property
    def keys(self) -> Sequence[SigningKey | Ed25519Key]:
        """The keys of webhook-signature."""


def build_request(
    to: Destination,
    *,
    event_id: UUID,
    event_type: str,
    payload: bytes,
    delivery_id: UUID,
    attempt: int,
    timestamp: int,
) -> Post:
    """Return the signed request of one attempt.

    `attempt` counts from 1, `timestamp` is Unix seconds.
    """
    public_id = EVENT_PREFIX + event_id.hex
    wire_id = public_id.encode()
    head = SYSTEM_HEAD % (
        USER_AGENT,
        wire_id,
        timestamp,
        sign_standard(to.keys, public_id, timestamp, payload).encode(),
        sign_hex(to.key, timestamp, payload).encode(),
        timestamp,
        wire_id,
        event_type.encode(),
        (DELIVERY_PREFIX + delivery_id.hex).encode(),
        attempt,
    )
    # System headers come last, so that no custom header replaces one.
    return Post(to.url, payload, HeaderBlock([*to.header_lines, *head.split(b"\n")]))


def build_formed_request(
    to: Destination,
    *,
    form: str | None,
    object_reference: str,
    spec: str | None,
    stored_version: date | None,
    payload: bytes,
    **attempt: Any,
) -> Post:
    """Return the signed request of one attempt whose event is sent in another form than the standard.

    `payload` is the stored one; render() has the first arguments, build_request() the others. Never
    raises.
    """
    rendered = render(form, payload, object_reference, spec, stored_version)
    post = build_request(to, payload=rendered.body, **attempt)
    lines = [*post.headers.lines, *rendered.header_lines]
    lines[len(to.header_lines)] = b"Content-Type: " + rendered.content_type
    return Post(to.url, rendered.body, HeaderBlock(lines))
