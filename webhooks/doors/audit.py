"""Audit entries of requests, whichever door they come through."""

from collections.abc import Mapping
from typing import Any

from django.db.models import Model

from webhooks.doors import allowances
from webhooks.repair import audit_log


def note(
    request: Any,
    action: str,
    subject: Model | str,
    *,
    actor: Any,
    changes: Mapping[str, Any] | None = None,
) -> None:
    """Write an entry with the request's address and id; see audit_log.record()."""
    audit_log.record(
        action,
        subject,
        actor=actor,
        changes=changes,
        source_address=allowances.source_address(request),
        request_id=getattr(request, "request_id", ""),
    )
