"""Send one real request to a webhook now, so that its owner sees what the receiver makes of it.

Signed, addressed and guarded like every delivery, but of an event that is not stored: nothing is
retried and nothing counts. The answer tells what the transport's messages tell, which is the same
for a closed port and a silent one: nobody scans a network with it.
"""

import json
import time
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.utils import timezone
from requests import Response

from webhooks import catalog
from webhooks.addresses import AddressPolicy
from webhooks.choices import FailureKind
from webhooks.database import run
from webhooks.dispatch.claim import ClaimedDelivery
from webhooks.dispatch.endpoints import Endpoint, Endpoints
from webhooks.dispatch.request import build_request
from webhooks.errors import WebhookNotSendingError
from webhooks.ids import EVENT_PREFIX, new_id
from webhooks.models import Webhook
from webhooks.retry import judge
from webhooks.wire.failures import TransportError
from webhooks.wire.messages import HeaderBlock, Post

MAX_SECONDS = 15
"""Somebody waits for the answer, and a thread of the server with them."""
EXCERPT_BYTES = 4096
TEST_HEADER = b"X-Webhook-Test: true"
"""Tells receivers that nothing has happened; like all headers but two, it is not signed."""
SIGNATURE_HEADERS = frozenset(
    {"webhook-id", "webhook-timestamp", "webhook-signature", "x-webhook-signature"}
    | {"x-webhook-timestamp", "x-webhook-id", "x-webhook-event", "x-webhook-test"}
)


@dataclass(frozen=True, slots=True)
class Tryout:
    """What came of a test request."""

    event_id: str
    """As the receiver saw it; there is no such event."""
    succeeded: bool
    response_code: int | None
    duration_ms: int
    failure_kind: str
    """A FailureKind, or empty after a success."""
    error: str
    response_excerpt: str
    """The start of the answer's body; what is not text is replaced."""
    is_truncated: bool
    signature_headers: dict[str, str]
    """As they were sent."""


def send_test(webhook: Webhook, event_type: str = "webhook.test") -> Tryout:
    """Send the example of an event type to a webhook and return what came back.

    Blocks for the webhook's timeout, at most 15 s; call it outside of transactions. Raises
    EventTypeUnknownError, and WebhookNotSendingError where nothing may be sent (invariant 12).
    """
    example = catalog.get_type(event_type).example
    if event_type == "webhook.test":
        example = {"webhookId": webhook.public_id, "message": "It works."}
    endpoints = Endpoints()
    endpoints.load([webhook.id])
    endpoint = endpoints.get(webhook.id)
    if endpoint is None:
        raise WebhookNotSendingError
    event_id = new_id()
    request = _build_request(endpoint, webhook, event_id, event_type, example)
    response, problem, duration_ms = _send(request, endpoint)
    return _read(EVENT_PREFIX + event_id.hex, request, response, problem, duration_ms, endpoint)


def _build_request(
    endpoint: Endpoint, webhook: Webhook, event_id: Any, event_type: str, example: Any
) -> Post:
    envelope = {
        "id": EVENT_PREFIX + event_id.hex,
        "type": event_type,
        "created": catalog.wire_time(timezone.now()),
        "data": example,
    }
    payload = json.dumps(envelope, ensure_ascii=False, separators=(",", ":")).encode()
    delivery = ClaimedDelivery(
        id=new_id(),
        webhook_id=webhook.id,
        event_id=event_id,
        attempt_count=0,
        attempts_before_round=0,
        event_type=event_type,
        payload=payload,
    )
    # As a claim reads it: a cast to a whole number would round up, into the receiver's future.
    rows = run("SELECT extract(epoch FROM clock_timestamp())::float8", {}).fetchall()
    signed = build_request(delivery, endpoint, int(rows[0][0]))
    return Post(signed.url or "", payload, HeaderBlock([*signed.headers.lines, TEST_HEADER]))


def _send(
    request: Post, endpoint: Endpoint
) -> tuple[Response | None, tuple[FailureKind, str] | None, int]:
    # Here, so that web processes load libcurl with their first test send only.
    from webhooks.wire.one import CurlAdapter

    adapter = CurlAdapter(AddressPolicy(settings.WEBHOOKS_ALLOWED_NETWORKS))
    started_at = time.monotonic()
    response, problem = None, None
    try:
        response = adapter.send(request, timeout=min(endpoint.timeout_seconds, MAX_SECONDS))
    except TransportError as failure:
        problem = failure.kind, str(failure)
    return response, problem, int((time.monotonic() - started_at) * 1000)


def _read(
    event_id: str,
    request: Post,
    response: Response | None,
    problem: tuple[FailureKind, str] | None,
    duration_ms: int,
    endpoint: Endpoint,
) -> Tryout:
    code = None if response is None else response.status_code
    body = b"" if response is None else response.content
    verdict = judge(endpoint.policy, 1, status=code, failure=problem)
    return Tryout(
        event_id=event_id,
        succeeded=verdict.succeeded,
        response_code=code,
        duration_ms=duration_ms,
        failure_kind="" if verdict.kind is None else verdict.kind.value,
        # The webhook stays as it is, whatever the receiver says.
        error=verdict.error.removesuffix(", so the webhook was disabled."),
        response_excerpt=body[:EXCERPT_BYTES].decode("utf-8", "replace").replace("\0", "\ufffd"),
        is_truncated=len(body) > EXCERPT_BYTES or getattr(response, "truncated", False),
        signature_headers={
            name: value
            for name, value in request.headers.items()
            if name.lower() in SIGNATURE_HEADERS
        },
    )
