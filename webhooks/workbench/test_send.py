"""Send one real request to a webhook now, so that its owner sees what the receiver makes of it.

The answer tells what the transport's messages tell: nothing of addresses that the policy forbids, so
that nobody scans our network with it.
"""

import time
from dataclasses import dataclass
from typing import Any

from requests import Response

from webhooks import catalog
from webhooks.dispatch.single import SingleRequest
from webhooks.models import Webhook
from webhooks.pace.retry import judge
from webhooks.registry.switch import close_breaker
from webhooks.wire.failures import TransportError

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

    event_type: str
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

    @property
    def facts(self) -> dict[str, Any]:
        """What the audit log keeps of it: it is stored nowhere else."""
        return {
            "event_type": self.event_type,
            "event_id": self.event_id,
            "response_code": self.response_code,
            "duration_ms": self.duration_ms,
            "error": self.error,
        }


def send_test(
    webhook: Webhook, event_type: str = "webhook.test", *, may_be_inactive: bool = False
) -> Tryout:
    """Send the example of an event type to a webhook and return what came back.

    A success closes the webhook's breaker, like that of a probe.
    Blocks for the webhook's timeout, at most 15 s; call it outside of transactions. Raises
    EventTypeUnknownError, and WebhookNotSendingError where nothing may be sent (invariant 12);
    `may_be_inactive` allows a webhook that is only disabled.
    """
    example = catalog.get_type(event_type).example
    if event_type == "webhook.test":
        example = {"webhookId": webhook.public_id, "message": "It works."}
    stored_version = catalog.stored_version(event_type)
    recorded = webhook.recorded_form(stored_version)
    request = SingleRequest(
        webhook.pk,
        event_type,
        example,
        extra_lines=[TEST_HEADER],
        form=recorded.form,
        spec=recorded.spec,
        stored_version=stored_version,
        may_be_inactive=may_be_inactive,
    )
    started_at = time.monotonic()
    response, problem = None, None
    try:
        response = request.send(MAX_SECONDS)
    except TransportError as failure:
        problem = failure
    tryout = _read(
        request, event_type, response, problem, int((time.monotonic() - started_at) * 1000)
    )
    if tryout.succeeded:
        close_breaker(webhook)
    return tryout


def _read(
    request: SingleRequest,
    event_type: str,
    response: Response | None,
    problem: TransportError | None,
    duration_ms: int,
) -> Tryout:
    code = None if response is None else response.status_code
    body = b"" if response is None else response.content
    failure = None if problem is None else (problem.kind, str(problem))
    verdict = judge(request.endpoint.policy, 1, status=code, failure=failure)
    return Tryout(
        event_type=event_type,
        event_id=request.event_id,
        succeeded=verdict.succeeded,
        response_code=code,
        duration_ms=duration_ms,
        failure_kind="" if verdict.kind is None else verdict.kind.value,
        error=verdict.error,
        response_excerpt=body[:EXCERPT_BYTES].decode("utf-8", "replace").replace("\0", "\ufffd"),
        is_truncated=len(body) > EXCERPT_BYTES or getattr(response, "truncated", False),
        signature_headers={
            name: value
            for name, value in (() if request.post is None else request.post.headers.items())
            if name.lower() in SIGNATURE_HEADERS
        },
    )
