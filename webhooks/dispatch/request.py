"""Build the request of one attempt and read its outcome: pure, no database, no sockets."""

from base64 import b64encode
from uuid import UUID

from requests import PreparedRequest, Response

from webhooks.choices import DeliveryStatus, FailureKind
from webhooks.dispatch.claim import ClaimedDelivery
from webhooks.dispatch.endpoints import Endpoint
from webhooks.dispatch.settle import Result
from webhooks.ids import DELIVERY_PREFIX, EVENT_PREFIX
from webhooks.retry import delay_before_retry
from webhooks.signing import sign_hex, sign_standard
from webhooks.transport import HeaderBlock, header_dict

USER_AGENT = "RemoteDevAI-Webhooks/1.0"
MAX_STORED_BODY_BYTES = 16 * 1024
MAX_STORED_HEADER_CHARACTERS = 16 * 1024
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
            ("X-Webhook-Signature", sign_hex(endpoint.key, timestamp, body)),
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
    return {
        "id": delivery.id.hex,
        "attempt_id": attempt_id.hex,
        "number": number,
        "status": status.value,
        "delay_seconds": delay,
        "started_at": started_at,
        "duration_ms": duration_ms,
        "url": endpoint.url,
        "request_headers": _without_custom_values(request, endpoint),
        "code": code,
        "response_headers": {} if response is None else _storable(response),
        "body": b64encode(body[:MAX_STORED_BODY_BYTES]).decode(),
        "is_truncated": len(body) > MAX_STORED_BODY_BYTES or getattr(response, "truncated", False),
        "kind": "" if failure is None else failure[0].value,
        "error": "" if failure is None else failure[1][:MAX_ERROR_CHARACTERS],
    }


def _storable(response: Response) -> dict[str, str]:
    """Return an answer's headers as Postgres can store them: jsonb has no NUL."""
    headers = header_dict(response)
    if getattr(response, "header_bytes", 0) > MAX_STORED_HEADER_CHARACTERS:
        headers = _cut(headers)
    return {
        name.replace("\0", "\ufffd"): value.replace("\0", "\ufffd")
        for name, value in headers.items()
    }


def _cut(headers: dict[str, str]) -> dict[str, str]:
    """Return the first headers, cut so that they fit their column."""
    room = MAX_STORED_HEADER_CHARACTERS
    kept = {}
    for name, value in headers.items():
        kept[name[:room]] = value[: max(0, room - len(name))]
        room -= len(name) + len(value)
        if room <= 0:
            break
    return kept


def _without_custom_values(request: PreparedRequest, endpoint: Endpoint) -> dict[str, str]:
    """Custom headers often carry credentials: their names are recorded, their values are not."""
    headers = header_dict(request)
    for name, _ in endpoint.headers:
        headers[name] = "(hidden)"
    return headers
