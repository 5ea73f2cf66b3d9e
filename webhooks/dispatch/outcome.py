"""Turn the outcome of a request into results and a verdict: pure, no database, no sockets."""

import json
import random
from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

from django.conf import settings
from requests import PreparedRequest, Response

from webhooks.dispatch.batches import Batch, rows_of, trace_of
from webhooks.dispatch.endpoints import Endpoint
from webhooks.dispatch.flight import Sent
from webhooks.dispatch.records import Record, Traced
from webhooks.dispatch.settle import Result
from webhooks.dispatch.take import ClaimedDelivery
from webhooks.ids import new_id
from webhooks.pace.retry import SLOW_DOWN, Verdict, jittered, judge
from webhooks.wire.many import Outcome
from webhooks.wire.messages import Post, Reply
from webhooks.wire.trace_context import is_sampled

MAX_STORED_BODY_BYTES = 16 * 1024
MAX_STORED_HEAD_BYTES = 16 * 1024
MAX_ERROR_CHARACTERS = 500
MAX_STATUS_BYTES = 16
"""Of a status in the answer to a batch, with what stands around it."""
OUTAGE_RETRY_SECONDS = 30.0
"""Delay of the next try after a failure in an outage of our own network."""


def read_outcome(
    sent: Sent, outcome: Outcome, clock_offset: float, is_outage: bool, *, is_ordered: bool
) -> tuple[list[Record], Verdict]:
    """Return the results to write for the end of a request, one of each delivery, and the verdict on
    the request.

    `clock_offset` is the seconds from the monotonic clock to the database's. `is_outage` says that
    our own network is down: the attempt then spends no retry.
    """
    response, error = outcome.response, outcome.error
    started_at = outcome.started_at_monotonic + clock_offset
    rows = rows_of(sent.item)
    statuses = _statuses(response, len(rows)) if isinstance(sent.item, Batch) else None
    # The deliveries of a batch are due again together.
    spread = random.uniform(-1, 1)

    def judged(delivery: ClaimedDelivery, status: int | None) -> Verdict:
        return judge(
            sent.endpoint.policy,
            delivery.attempt_count + 1 - delivery.attempts_before_round,
            status=status,
            retry_after=_retry_after(response),
            failure=None if error is None else (error.kind, str(error)),
            now=started_at,
            spread=spread,
        )

    whole = None if response is None else response.status_code
    verdict = judged(rows[0], whole)
    shared = _shared_part(sent, outcome, started_at)
    traced = _traced(rows, whole) if settings.WEBHOOKS_TRACING else None
    records = []
    for number, delivery in enumerate(rows):
        status = statuses[number] if statuses else whole
        own = verdict if number == 0 and statuses is None else judged(delivery, status)
        delay = jittered(OUTAGE_RETRY_SECONDS, spread) if is_outage else own.delay_seconds
        result: Result = {  # type: ignore[typeddict-item]  # those missing are the shared ones
            **shared,
            "id": delivery.id.hex,
            "attempt_id": (sent.attempt_id if number == 0 else new_id()).hex,
            "number": delivery.attempt_count + 1,
            "status": _status_after(own, delay),
            "delay_seconds": delay,
            "code": status,
            "kind": "" if own.kind is None else own.kind.value,
            "error": own.error[:MAX_ERROR_CHARACTERS],
            "spends_no_retry": is_outage,
        }
        records.append(
            Record(
                result,
                # A webhook's health is that of its requests: one of them counts once.
                verdict if number == 0 else None,
                sent.item.webhook_id,
                delivery.id,
                is_ordered,
                delivery.is_of_object,
                traced if number == 0 else None,
            )
        )
    return records, verdict


def _traced(rows: Sequence[ClaimedDelivery], status: int | None) -> Traced | None:
    parent = trace_of(rows)
    if parent is None or not is_sampled(parent):
        return None
    others = dict.fromkeys(row.traceparent for row in rows)
    return Traced(parent, [one for one in others if one and one != parent], status)


def _shared_part(sent: Sent, outcome: Outcome, started_at: float) -> Any:
    """Return what the results of all deliveries of a request have in common."""
    response = outcome.response
    body = b"" if response is None else response.content
    head = response.head if isinstance(response, Reply) else b""
    return {
        "started_at": started_at,
        "duration_ms": outcome.duration_ms,
        "phases_us": [int(ms * 1000) for ms in outcome.phases],
        "url": sent.endpoint.url,
        "body_sha256": _body_sha256(outcome.request),
        "request_head": _stored_head(outcome.request, sent.endpoint),
        "response_head": b64encode(head[:MAX_STORED_HEAD_BYTES]).decode(),
        "body": b64encode(body[:MAX_STORED_BODY_BYTES]).decode(),
        "is_truncated": len(body) > MAX_STORED_BODY_BYTES or getattr(response, "truncated", False),
    }


def _statuses(response: Response | None, count: int) -> list[int] | None:
    """Return the status of each event of a batch, where the receiver took the request and answered
    with a JSON array of so many HTTP statuses; None if one status holds for all."""
    if response is None or not 200 <= response.status_code < 300:
        return None
    body = response.content
    if len(body) > MAX_STATUS_BYTES * count + 2 or not body.lstrip().startswith(b"["):
        return None
    try:
        statuses = json.loads(body)
    except (ValueError, RecursionError):
        return None
    is_fit = len(statuses) == count and all(
        type(status) is int and 100 <= status <= 599 for status in statuses
    )
    return statuses if is_fit else None


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
