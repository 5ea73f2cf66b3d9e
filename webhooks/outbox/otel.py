"""Traces by OpenTelemetry, as far as the outbox: the span of storing events, kept with them.

The attempts' spans are its children (webhooks/dispatch/spans.py). Spans go to the provider that the
deployment has set up, such as that of `opentelemetry-instrument`; without one, to a provider made
here, whose exporter and sampler OpenTelemetry's own variables configure (OTEL_EXPORTER_OTLP_ENDPOINT,
OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER and so on). It exports in batches on a thread of its own, and
drops spans where the collector does not keep up: nothing waits for it.
"""

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache

from opentelemetry import context, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from webhooks.ids import EVENT_PREFIX
from webhooks.models import Event
from webhooks.wire.trace_context import traceparent_of

logger = logging.getLogger(__name__)

SCOPE = "webhooks"
STOP_SECONDS = 2.0
"""How long a process that ends waits for the collector."""
KNOWN_FLAGS = 3
"""Sampled, and random trace id."""
PROPAGATOR = TraceContextTextMapPropagator()

_making = threading.Lock()


class Processor(BatchSpanProcessor):
    """The SDK's processor, but for its end: that waits for a dead collector for half a minute."""

    def shutdown(self) -> None:
        self._batch_processor.shutdown(timeout_millis=int(STOP_SECONDS * 1000))


@cache  # the SDK's get_tracer() changes the filters of warnings each time
def tracer() -> trace.Tracer:
    """Return the tracer of this app, of a provider made now if the process has none."""
    with _making:
        if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
            trace.set_tracer_provider(_new_provider())
    return trace.get_tracer(SCOPE)


def _new_provider() -> trace.TracerProvider:
    try:
        provider = TracerProvider()
        provider.add_span_processor(Processor(OTLPSpanExporter()))
    except ValueError:
        # No save may fail for it.
        logger.exception("No spans are exported: a variable OTEL_… has a value that is refused.")
        return trace.NoOpTracerProvider()
    return provider


@contextmanager
def storing(events: Sequence[Event]) -> Iterator[None]:
    """Make a span round the storing of events, a child of the current one, and note it on the events.

    Events that have their span already keep it, and if all do, there is no other.
    """
    new = [event for event in events if event.traceparent is None]
    if not new:
        yield
        return
    types = {event.type for event in new}
    attributes: dict[str, str | int] = {
        "messaging.system": "webhooks",
        "messaging.operation.type": "create",
        "messaging.destination.name": types.pop() if len(types) == 1 else "several types",
    }
    if len(new) == 1:
        attributes["messaging.message.id"] = EVENT_PREFIX + new[0].id.hex
    else:
        attributes["messaging.batch.message_count"] = len(new)
    span = tracer().start_span(
        f"create {attributes['messaging.destination.name']}",
        kind=SpanKind.PRODUCER,
        attributes=attributes,
    )
    traceparent = _traceparent_of(span.get_span_context())
    for event in new:
        event.traceparent = traceparent
    try:
        # The exception's text is not recorded: it may hold values of columns.
        with trace.use_span(span, record_exception=False, set_status_on_exception=False):
            yield
    except BaseException as problem:
        span.set_attribute("error.type", type(problem).__qualname__)
        span.set_status(Status(StatusCode.ERROR))
        raise
    finally:
        span.end()


def _traceparent_of(span: SpanContext) -> str | None:
    if not span.is_valid:
        return None
    return traceparent_of(span.trace_id, span.span_id, span.trace_flags & KNOWN_FLAGS)


@contextmanager
def continuing(traceparent: str) -> Iterator[None]:
    """Make the span that a request's `traceparent` names the current one.

    Nothing changes where a span is current, which the deployment's own instrumentation has made, or
    where the header has another form than the standard says.
    """
    if trace.get_current_span().get_span_context().is_valid:
        yield
        return
    token = context.attach(PROPAGATOR.extract({"traceparent": traceparent}))
    try:
        yield
    finally:
        context.detach(token)


def finish() -> None:
    """Export what is left, for STOP_SECONDS at most with a provider of ours."""
    provider = trace.get_tracer_provider()
    if isinstance(provider, TracerProvider):
        provider.shutdown()
