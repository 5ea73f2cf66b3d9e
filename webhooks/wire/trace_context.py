"""Traces of requests: the `traceparent` that an event keeps, and that of each attempt. Pure.

https://www.w3.org/TR/trace-context/: version, trace id, span id and flags, 55 characters.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple
from uuid import UUID

TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
HEADER_NAMES = {"traceparent", "tracestate"}
SAMPLED = 1


class TraceContext(NamedTuple):
    """A span as other processes know it."""

    trace_id: str
    """As hex, like the rest."""
    span_id: str
    flags: str

    @property
    def is_sampled(self) -> bool:
        """Whether its spans are recorded."""
        return bool(int(self.flags, 16) & SAMPLED)

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"


def read_traceparent(text: str) -> TraceContext | None:
    """Return what a `traceparent` says; None if it is not of the form of version 00."""
    found = TRACEPARENT.fullmatch(text)
    return TraceContext(*found.groups()) if found else None


def first_of(traceparents: Iterable[str | None]) -> TraceContext | None:
    """Return the first sampled of these, or the first of all; None without any."""
    known = [one for text in traceparents if text and (one := read_traceparent(text))]
    sampled = (one for one in known if one.is_sampled)
    return next(sampled, known[0] if known else None)


def of_attempt(context: TraceContext, attempt_id: UUID) -> TraceContext:
    """Return the span of an attempt, whose id follows from the attempt's."""
    # The half of a UUIDv7 that is random, but for two bits that are never both 0.
    return context._replace(span_id=attempt_id.hex[16:])
