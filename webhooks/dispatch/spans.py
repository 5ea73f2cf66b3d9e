"""The spans of attempts, by OpenTelemetry; loaded only where WEBHOOKS_TRACING is on.

A request's span is a child of the one that stored its event (webhooks/outbox/otel.py), so that retries
and redeliveries are further spans of the same trace. It is made when the result has been written, in
one step: its id was known before, since the request may have carried it, and whether it is recorded
was decided with the event. Nothing of the URL but the host is in it: paths are often secret.
"""

import logging
from collections.abc import Iterable
from urllib.parse import urlsplit
from uuid import UUID

from opentelemetry.sdk.trace import ReadableSpan, Tracer
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from webhooks.dispatch.records import Record, Traced
from webhooks.ids import DELIVERY_PREFIX, WEBHOOK_PREFIX
from webhooks.outbox.otel import SCOPE, tracer
from webhooks.wire.trace_context import of_attempt, parts_of

logger = logging.getLogger(__name__)

FAILED = Status(StatusCode.ERROR)
OURS = InstrumentationScope(SCOPE)


def export(records: Iterable[Record]) -> None:
    """Hand the spans of these results to the exporter's queue, where their traces are sampled."""
    ours = tracer()
    if not isinstance(ours, Tracer):
        return  # another provider than the SDK's, or none: it has no queue
    try:
        for record in records:
            if record.traced is not None:
                ours.span_processor.on_end(_span_of(record, record.traced, ours))
    except Exception:  # of a deployment's own processor: the results are written
        logger.exception("The spans of some attempts are lost.")


def _span_of(record: Record, traced: Traced, ours: Tracer) -> ReadableSpan:
    result, parent, links = record.result, traced.parent, traced.links
    kind = record.verdict.kind if record.verdict else None
    url = urlsplit(result["url"])
    attributes: dict[str, str | int] = {
        "http.request.method": "POST",
        "server.address": url.hostname or "",
        "server.port": url.port or (443 if url.scheme == "https" else 80),
        "webhooks.webhook.id": WEBHOOK_PREFIX + record.webhook_id.hex,
        "webhooks.delivery.id": DELIVERY_PREFIX + result["id"],
        "webhooks.attempt.number": result["number"],
    }
    if traced.status is not None:
        attributes["http.response.status_code"] = traced.status
    if kind:
        attributes["error.type"] = kind.value
    started_ns = int(result["started_at"] * 1e9)
    return ReadableSpan(
        "POST",
        context=_context(of_attempt(parent, UUID(result["attempt_id"])), is_remote=False),
        parent=_context(parent, is_remote=True),
        resource=ours.resource,
        attributes=attributes,
        links=[Link(_context(one, is_remote=True)) for one in links],
        kind=SpanKind.CLIENT,
        status=FAILED if kind else Status(),
        start_time=started_ns,
        end_time=started_ns + result["duration_ms"] * 1_000_000,
        instrumentation_scope=OURS,
    )


def _context(traceparent: str, *, is_remote: bool) -> SpanContext:
    trace_id, span_id, flags = parts_of(traceparent)
    return SpanContext(trace_id, span_id, is_remote, TraceFlags(flags))
