"""Build the request of one attempt and read its outcome: pure, no database, no sockets."""

import json
from uuid import UUID

from requests import PreparedRequest, Response

from webhooks.choices import DeliveryStatus, FailureKind
from webhooks.dispatch.claim import ClaimedDelivery
from webhooks.dispatch.endpoints import Endpoint
from webhooks.dispatch.settle import Result, headers_as_json
from webhooks.ids import DELIVERY_PREFIX, EVENT_PREFIX
from webhooks.retry import delay_before_retry
from webhooks.signing import sign_hex, sign_standard
from webhooks.transport import HeaderBlock

USER_AGENT = "RemoteDevAI-Webhooks/1.0"
MAX_STORED_BODY_BYTES = 16 * 1024
MAX_ERROR_CHARACTERS = 500


def build_request(delivery: ClaimedDelivery, endpoint: Endpoint, timestamp: int) -> PreparedRequest:
    """Return the signed request of the next attempt; `timestamp` is its time in Unix seconds."""
    event_id = EVENT_PREFIX + delivery.event_id.hex
    body = delivery.payload
    request = PreparedRequest()
    request.method = "POST"
    request.url = endpoint.url
    request.body = body
    # System headers come last, so that no custom header replaces one.
    request.headers = HeaderBlock(
        (
            *endpoint.headers,
            ("Content-Type", "application/json"),
            ("User-Agent", USER_AGENT),
            ("webhook-id", event_id),
            ("webhook-timestamp", str(timestamp)),
            ("webhook-signature", sign_standard(endpoint.keys, event_id, timestamp, body)),
            ("X-Webhook-Signature", sign_hex(endpoint.keys[0], timestamp, body)),
            ("X-Webhook-Timestamp", str(timestamp)),
            ("X-Webhook-ID", event_id),
            ("X-Webhook-Event", delivery.event_type),
            ("X-Webhook-Delivery", DELIVERY_PREFIX + delivery.id.hex),
            ("X-Webhook-Attempt", str(delivery.attempt_count + 1)),
        )
    )
    return request


def read_outcome(
    delivery: ClaimedDelivery,
    endpoint: Endpoint,
    attempt_id: UUID,
    *,
    request: PreparedRequest,
    response: Response | None,
    failure: tuple[FailureKind, str] | None,
    started_at: float,
    duration_ms: int,
) -> Result:
    """Turn what came back into the row to write: success, another try later, or failed."""
    number = delivery.attempt_count + 1
    code = None if response is None else response.status_code
    if code is not None and not 200 <= code < 300:
        failure = (FailureKind.HTTP_STATUS, f"The receiver answered {code}.")
    status, delay = DeliveryStatus.SUCCESS, None
    if failure is not None:
        wait = delay_before_retry(
            number - delivery.attempts_before_round,
            max_retries=endpoint.max_retries,
            retry_delay_seconds=endpoint.retry_delay_seconds,
            schedule=endpoint.retry_schedule,
        )
        status = DeliveryStatus.FAILED if wait is None else DeliveryStatus.RETRYING
        delay = None if wait is None else wait.total_seconds()
    body = b"" if response is None else response.content
    return Result(
        delivery_id=delivery.id,
        attempt_id=attempt_id,
        number=number,
        status=status.value,
        retry_delay_seconds=delay,
        started_at=started_at,
        duration_ms=duration_ms,
        url=endpoint.url,
        request_headers=json.dumps(_without_custom_values(request, endpoint)),
        response_code=code,
        response_headers="{}" if response is None else headers_as_json(dict(response.headers)),
        response_body=body[:MAX_STORED_BODY_BYTES],
        is_truncated=len(body) > MAX_STORED_BODY_BYTES or getattr(response, "truncated", False),
        failure_kind="" if failure is None else failure[0].value,
        error="" if failure is None else failure[1][:MAX_ERROR_CHARACTERS],
    )


def _without_custom_values(request: PreparedRequest, endpoint: Endpoint) -> dict[str, str]:
    """Custom headers often carry credentials: their names are recorded, their values are not."""
    headers = dict(request.headers)
    for name, _ in endpoint.headers:
        headers[name] = "(hidden)"
    return headers
