"""Context of the current thread that log records include."""

from contextvars import ContextVar

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""The id of the current HTTP request; empty outside of requests."""
