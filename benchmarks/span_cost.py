"""What a span costs, without a database: `python -m benchmarks.span_cost` prints microseconds of
processor time, the least of five rounds."""

import os
import time
from collections.abc import Callable, Sequence
from uuid import UUID

import django
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased

COUNT = 2000
BATCH = 500
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Keep(SpanExporter):
    """Keeps the spans."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.spans += spans
        return SpanExportResult.SUCCESS


def least(act: Callable[[], object]) -> float:
    """Return the microseconds of one of COUNT things that `act` does."""
    costs = []
    for _ in range(5):
        before = time.process_time()
        act()
        costs.append((time.process_time() - before) / COUNT * 1e6)
    return min(costs)


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    django.setup()
    from webhooks.dispatch import spans
    from webhooks.dispatch.records import Record, Traced
    from webhooks.ids import new_id
    from webhooks.outbox import otel
    from webhooks.outbox.store import build_event
    from webhooks.wire.trace_context import of_attempt

    kept = Keep()
    processor = BatchSpanProcessor(kept, max_queue_size=10 * COUNT)

    def provide(*, is_sampled: bool) -> None:
        provider = TracerProvider(sampler=ParentBased(ALWAYS_ON if is_sampled else ALWAYS_OFF))
        provider.add_span_processor(processor)
        otel.tracer.cache_clear()
        trace._TRACER_PROVIDER = provider

    def result(delivery_id: UUID) -> dict[str, object]:
        return {
            "id": delivery_id.hex,
            "attempt_id": new_id().hex,
            "number": 1,
            "url": "https://example.com/hook",
            "started_at": 1.8e9,
            "duration_ms": 5,
        }

    def store() -> None:
        for _ in range(COUNT):
            event.traceparent = None
            with otel.storing([event]):
                pass

    event = build_event("session.message", None, b"{}")
    records = [
        Record(result(id), None, new_id(), id, False, False, Traced(TRACEPARENT, [], 200))  # type: ignore[arg-type]
        for id in (new_id() for _ in range(COUNT))
    ]
    attempt_id = new_id()
    provide(is_sampled=False)
    print(f"storing an event, not sampled  {least(store):6.1f}")
    provide(is_sampled=True)
    print(f"storing an event, sampled      {least(store):6.1f}")
    print(f"an attempt's span              {least(lambda: spans.export(records)):6.1f}")
    processor.force_flush()
    some = kept.spans[-BATCH:]
    encoding = least(
        lambda: [encode_spans(some).SerializeToString() for _ in range(COUNT // BATCH)]
    )
    print(f"encoding a span                {encoding:6.1f}")
    header = least(lambda: [of_attempt(TRACEPARENT, attempt_id).encode() for _ in range(COUNT)])
    print(f"a receiver's traceparent       {header:6.1f}")


if __name__ == "__main__":
    main()
