"""Build the signed request of one attempt: pure, no database, no sockets."""

from collections.abc import Sequence
from uuid import UUID

from webhooks.ids import DELIVERY_PREFIX, EVENT_PREFIX
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


def build_request(
    *,
    url: str,
    header_lines: Sequence[bytes],
    key: SigningKey,
    keys: Sequence[SigningKey | Ed25519Key],
    event_id: UUID,
    event_type: str,
    payload: bytes,
    delivery_id: UUID,
    attempt: int,
    timestamp: int,
) -> Post:
    """Return the signed request of one attempt.

    `header_lines` are the webhook's custom headers as they go out; `key` makes X-Webhook-Signature,
    `keys` make webhook-signature. `attempt` counts from 1, `timestamp` is Unix seconds.
    """
    public_id = EVENT_PREFIX + event_id.hex
    wire_id = public_id.encode()
    head = SYSTEM_HEAD % (
        USER_AGENT,
        wire_id,
        timestamp,
        sign_standard(keys, public_id, timestamp, payload).encode(),
        sign_hex(key, timestamp, payload).encode(),
        timestamp,
        wire_id,
        event_type.encode(),
        (DELIVERY_PREFIX + delivery_id.hex).encode(),
        attempt,
    )
    # System headers come last, so that no custom header replaces one.
    return Post(url, payload, HeaderBlock([*header_lines, *head.split(b"\n")]))
