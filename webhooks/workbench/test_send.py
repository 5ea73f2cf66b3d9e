"""Send one real request to a webhook now, so that its owner sees what the receiver makes of it.

Signed, addressed and guarded like every delivery, but of an event that is not stored: nothing is
retried and nothing counts. The answer tells what the transport's messages tell, which is the same
for a closed port and a silent one: nobody scans a network with it.
"""

import json
import time
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.conf import settings
from django.utils import timezone
from requests import Response

from webhooks import catalog
from webhooks.dispatch.endpoints import Endpoint, Endpoints
from webhooks.errors import WebhookNotSendingError
from webhooks.ids import EVENT_PREFIX, new_id
from webhooks.models import Webhook
from webhooks.pace.retry import judge
from webhooks.postgres.sql import run
from webhooks.wire.addresses import AddressPolicy
from webhooks.wire.failures import TransportError, WithdrawnError
from webhooks.wire.messages import Draft, HeaderBlock, Post
from webhooks.wire.request import build_request

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
    """As they were sent; none where no request was made, as the host was not found."""


def send_test(webhook: Webhook, event_type: str = "webhook.test") -> Tryout:
    """Send the example of an event type to a webhook and return what came back.

    Blocks for the webhook's timeout, at most 15 s; call it outside of transactions. Raises
    EventTypeUnknownError, and WebhookNotSendingError where nothing may be sent (invariant 12).
    """
    example = catalog.get_type(event_type).example
    if event_type == "webhook.test":
        example = {"webhookId": webhook.public_id, "message": "It works."}
    event_id = new_id()
    payload = _example_payload(event_id, event_type, example)
    request = _TestRequest(webhook.id, event_id, event_type, payload)
    response, problem, duration_ms = _send(request)
    return _read(event_id, request, response, problem, duration_ms)


def _example_payload(event_id: UUID, event_type: str, example: Any) -> bytes:
    envelope = {
        "id": EVENT_PREFIX + event_id.hex,
        "type": event_type,
        "created": catalog.wire_time(timezone.now()),
        "data": example,
    }
    return json.dumps(envelope, ensure_ascii=False, separators=(",", ":")).encode()


class _TestRequest:
    """A test request, signed when it goes out with what the database knows of its webhook then."""

    def __init__(self, webhook_id: UUID, event_id: UUID, event_type: str, payload: bytes) -> None:
        self._webhook_id = webhook_id
        self._event_id = event_id
        self._event_type = event_type
        self._payload = payload
        self._endpoints = Endpoints()
        endpoint = self._read()
        if endpoint is None:
            raise WebhookNotSendingError
        self.endpoint = endpoint
        """As it was when the request was built."""
        self.post: Post | None = None
        """The request, once it was built."""

    def draft(self) -> Draft:
        return Draft(self.endpoint.url, self._build, lambda: self._read() == self.endpoint)

    def _read(self) -> Endpoint | None:
        self._endpoints.load([self._webhook_id])
        return self._endpoints.get(self._webhook_id)

    def _build(self) -> Post | None:
        endpoint = self._read()
        if endpoint is None:
            return None
        self.endpoint = endpoint
        # As a claim reads it: a cast to a whole number would round up, into the receiver's future.
        rows = run("SELECT extract(epoch FROM clock_timestamp())::float8", {}).fetchall()
        signed = build_request(
            url=endpoint.url,
            header_lines=endpoint.header_lines,
            key=endpoint.key,
            keys=endpoint.keys,
            event_id=self._event_id,
            event_type=self._event_type,
            payload=self._payload,
            delivery_id=new_id(),
            attempt=1,
            timestamp=int(rows[0][0]),
        )
        self.post = Post(
            endpoint.url, self._payload, HeaderBlock([*signed.headers.lines, TEST_HEADER])
        )
        return self.post


def _send(request: _TestRequest) -> tuple[Response | None, TransportError | None, int]:
    # Here, so that web processes load libcurl with their first test send only.
    from webhooks.wire.one import CurlAdapter

    adapter = CurlAdapter(AddressPolicy(settings.WEBHOOKS_ALLOWED_NETWORKS))
    started_at = time.monotonic()
    response, problem = None, None
    try:
        response = adapter.send(
            request.draft(), timeout=min(request.endpoint.timeout_seconds, MAX_SECONDS)
        )
    except WithdrawnError:
        raise WebhookNotSendingError from None
    except TransportError as failure:
        problem = failure
    return response, problem, int((time.monotonic() - started_at) * 1000)


def _read(
    event_id: UUID,
    request: _TestRequest,
    response: Response | None,
    problem: TransportError | None,
    duration_ms: int,
) -> Tryout:
    code = None if response is None else response.status_code
    body = b"" if response is None else response.content
    failure = None if problem is None else (problem.kind, str(problem))
    verdict = judge(request.endpoint.policy, 1, status=code, failure=failure)
    return Tryout(
        event_id=EVENT_PREFIX + event_id.hex,
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
            for name, value in (() if request.post is None else request.post.headers.items())
            if name.lower() in SIGNATURE_HEADERS
        },
    )
