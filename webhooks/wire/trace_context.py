"""The `traceparent` that an event keeps, and that of each attempt. Pure.

https://www.w3.org/TR/trace-context/: version, trace id, span id and flags as hex, 55 characters. Only
webhooks/outbox/otel.py makes them, of valid spans, so that nothing here checks them again: this runs
once or twice for each delivery.
"""

from collections.abc import Iterable
from uuid import UUID

HEADER_NAMES = {"traceparent", "tracestate"}
HALF = (1 << 64) - 1
SAMPLED = tuple("13579bdf")
"""How the flags end where a trace is recorded."""


def traceparent_of(trace_id: int, span_id: int, flags: int) -> str:
    return f"00-{trace_id:032x}-{span_id:016x}-{flags:02x}"


def parts_of(traceparent: str) -> tuple[int, int, int]:
    """Return the trace id, the span id and the flags."""
    return int(traceparent[3:35], 16), int(traceparent[36:52], 16), int(traceparent[53:], 16)


def is_sampled(traceparent: str) -> bool:
    """Say whether the spans of the trace are recorded."""
    return traceparent.endswith(SAMPLED)


def first_of(traceparents: Iterable[str | None]) -> str | None:
    """Return the first sampled of these, or the first of all; None without any."""
    known = [one for one in traceparents if one is not None]
    return next(filter(is_sampled, known), known[0] if known else None)


def of_attempt(traceparent: str, attempt_id: UUID) -> str:
    """Return that of an attempt's span, whose id follows from the attempt's."""
    # The half of a UUIDv7 that is random, but for two bits that are never both 0.
    return f"{traceparent[:36]}{attempt_id.int & HALF:016x}{traceparent[52:]}"
