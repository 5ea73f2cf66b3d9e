"""Turn the outcome of one attempt into a result and a verdict: pure, no database, no sockets."""

from base64 import b64encode
from hashlib import sha256

from requests import PreparedRequest, Response

from webhooks.dispatch.endpoints import Endpoint
from webhooks.dispatch.flight import Sent
from webhooks.dispatch.settle import Result
from webhooks.pace.retry import SLOW_DOWN, Verdict, jittered, judge
from webhooks.wire.many import Outcome
from webhooks.wire.messages import Post, Reply

MAX_STORED_BODY_BYTES = 16 * 1024
MAX_STORED_HEAD_BYTES = 16 * 1024
MAX_ERROR_CHARACTERS = 500
OUTAGE_RETRY_SECONDS = 30.0
"""Delay of the next try after a failure in an outage of our own network."""


def read_outcome(
    sent: Sent, outcome: Outcome, *, clock_offset: float, is_outage: bool
) -> tuple[Result, Verdict]:
    """Return the result to write for the end of a request, and its verdict.

    `clock_offset` is the seconds from the monotonic clock to the database's. `is_outage` says that
    our own network is down: the attempt then spends no retry.
    """
    delivery, endpoint = sent.delivery, sent.endpoint
    response, error = outcome.response, outcome.error
    number = delivery.attempt_count + 1
    status = None if response is None else response.status_code
    started_at = outcome.started_at_monotonic + clock_offset
    verdict = judge(
        endpoint.policy,
        number - delivery.attempts_before_round,
        status=status,
        retry_after=_retry_after(response),
        failure=None if error is None else (error.kind, str(error)),
        now=started_at,
    )
    delay = jittered(OUTAGE_RETRY_SECONDS) if is_outage else verdict.delay_seconds
    body = b"" if response is None else response.content
    head = response.head if isinstance(response, Reply) else b""
    result: Result = {
        "id": delivery.id.hex,
        "attempt_id": sent.attempt_id.hex,
        "number": number,
        "status": _status_after(verdict, delay),
        "delay_seconds": delay,
        "started_at": started_at,
        "duration_ms": outcome.duration_ms,
        "phases_us": [int(ms * 1000) for ms in outcome.phases],
        "url": endpoint.url,
        "body_sha256": _body_sha256(outcome.request),
        "request_head": _stored_head(outcome.request, endpoint),
        "code": status,
        "response_head": b64encode(head[:MAX_STORED_HEAD_BYTES]).decode(),
        "body": b64encode(body[:MAX_STORED_BODY_BYTES]).decode(),
        "is_truncated": len(body) > MAX_STORED_BODY_BYTES or getattr(response, "truncated", False),
        "kind": "" if verdict.kind is None else verdict.kind.value,
        "error": verdict.error[:MAX_ERROR_CHARACTERS],
        "spends_no_retry": is_outage,
    }
    return result, verdict


def _status_after(verdict: Verdict, delay: float | None) -> str:
    if verdict.succeeded:
        return "SUCCESS"
    return "FAILED" if delay is None else "RETRYING"


def _retry_after(response: Response | None) -> str | None:
    if response is None or response.status_code not in SLOW_DOWN:
        return None
    return response.headers.get("Retry-After")


def _body_sha256(request: PreparedRequest | None) -> str | None:
    return sha256(request.body).hexdigest() if isinstance(request, Post) else None


def _stored_head(request: PreparedRequest | None, endpoint: Endpoint) -> str:
    """Return the header lines to record: custom headers without their values, which may be
    credentials; nothing for a request that was never built because its host was not found."""
    if not isinstance(request, Post):
        return ""
    system_lines = request.headers.lines[len(endpoint.header_lines) :]
    return b"\n".join([*endpoint.hidden_lines, *system_lines]).decode()
