"""Build the signed request of one attempt: pure, no database, no sockets."""

import hashlib
from collections.abc import Sequence
from datetime import date
from typing import Any, Protocol
from urllib.parse import quote
from uuid import UUID

from webhooks.ids import BATCH_PREFIX, DELIVERY_PREFIX, EVENT_PREFIX
from webhooks.wire.forms import HEADER_CHARACTERS, render
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


BATCH_HEAD = b"""\
Content-Type: %b
User-Agent: %b
webhook-id: %b
webhook-timestamp: %d
webhook-signature: %b
X-Webhook-Signature: %b
X-Webhook-Timestamp: %d
X-Webhook-ID: %b
X-Webhook-Batch: %d"""


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
    payload: bytes,
    spec: str | None = None,
    stored_version: date | None = None,
    object_sequence: str | None = None,
    **attempt: Any,
) -> Post:
    """Return the signed request of one attempt whose event is sent in another form than the standard,
    or in the order of its object's events, where `object_sequence` is its place.

    `payload` is the stored one; render() has the first arguments, build_request() the others. Never
    raises.
    """
    rendered = render(form, payload, object_reference, spec, stored_version)
    post = build_request(to, payload=rendered.body, **attempt)
    lines = [*post.headers.lines, *rendered.header_lines]
    if object_sequence is not None:
        lines += [
            b"X-Webhook-Object: " + quote(object_reference, HEADER_CHARACTERS).encode(),
            b"X-Webhook-Sequence: " + object_sequence.encode(),
        ]
    lines[len(to.header_lines)] = b"Content-Type: " + rendered.content_type
    return Post(to.url, rendered.body, HeaderBlock(lines))


def build_batch(
    to: Destination,
    events: Sequence[tuple[UUID, bytes, Sequence[str | None] | None]],
    *,
    content_type: bytes,
    timestamp: int,
) -> Post:
    """Return the signed request of a batch: the bodies of its events as a JSON array.

    An event is its id, its stored payload, and where it has another form than the standard the first
    arguments of render(): form, object reference, parameters and version. The request's id follows from
    the events' ids: the same events in the same order have the same one. `timestamp` is Unix seconds.
    """
    bodies = []
    for _, payload, formed in events:
        form, reference, spec, version = (None, "", None, None) if formed is None else formed[:4]
        stored_version = None if version is None else date.fromisoformat(version)
        bodies.append(render(form, payload, reference or "", spec, stored_version).body)
    body = b"[%b]" % b",".join(bodies)
    digest = hashlib.sha256(b"".join(event_id.bytes for event_id, *_ in events)).hexdigest()
    public_id = BATCH_PREFIX + digest[:32]
    wire_id = public_id.encode()
    head = BATCH_HEAD % (
        content_type,
        USER_AGENT,
        wire_id,
        timestamp,
        sign_standard(to.keys, public_id, timestamp, body).encode(),
        sign_hex(to.key, timestamp, body).encode(),
        timestamp,
        wire_id,
        len(events),
    )
    return Post(to.url, body, HeaderBlock([*to.header_lines, *head.split(b"\n")]))
