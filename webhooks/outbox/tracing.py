"""Traces, where WEBHOOKS_TRACING is on: the only functions that load OpenTelemetry for the outbox."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from django.conf import settings

from webhooks.models import Event

NOTHING = nullcontext()


def storing(events: Sequence[Event]) -> AbstractContextManager[None]:
    """Return a span round the storing of events; see otel.storing()."""
    if not settings.WEBHOOKS_TRACING:
        return NOTHING
    from webhooks.outbox import otel  # only here: else every process would load the packages

    return otel.storing(events)


def continuing(environ: Mapping[str, Any]) -> AbstractContextManager[None]:
    """Continue the trace of a request, given its WSGI environment; see otel.continuing()."""
    traceparent = environ.get("HTTP_TRACEPARENT")
    if traceparent is None or not settings.WEBHOOKS_TRACING:
        return NOTHING
    from webhooks.outbox import otel  # as above

    return otel.continuing(traceparent)


def finish() -> None:
    """Export what is left before the process leaves without its usual end."""
    if settings.WEBHOOKS_TRACING:
        from webhooks.outbox import otel  # as above

        otel.finish()
