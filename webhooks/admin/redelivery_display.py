"""A redelivery as people read it: its scope in words, its progress as a bar."""

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

from webhooks.choices import DeliveryStatus, FailureKind
from webhooks.figures.display import bounded
from webhooks.models import Redelivery, Webhook
from webhooks.repair import redelivery_progress
from webhooks.repair.redelivery_scope import scope_of

AT_ONCE = timedelta(seconds=5)
"""A scope that ends within this time before its redelivery was requested ends at the request."""


def matched_text(row: Redelivery) -> str:
    """Return the number of matched deliveries; while it runs, the count may be a bound."""
    if row.status == Redelivery.Status.RUNNING:
        return bounded(row.matched_count)
    return f"{row.matched_count:,}"


def progress_context(row: Redelivery) -> dict[str, Any]:
    """Return the progress of a redelivery, as parts of a bar in percent."""
    progress = redelivery_progress.progress(row)
    succeeded, failed, retrying = (
        100 * count / progress.whole
        for count in (progress.succeeded, progress.failed, progress.retrying)
    )
    return {
        "progress": progress,
        "matched": matched_text(row),
        "percent": progress.percent,
        "parts": [
            ("good", 0.0, succeeded),
            ("bad", succeeded, failed),
            ("mixed", succeeded + failed, retrying),
        ],
        "is_over": progress.is_complete,
        # The page keeps polling while deliveries continue without an operator.
        "is_settled": progress.is_settled,
        "is_running": progress.is_running,
    }


def webhook_names(rows: Iterable[Redelivery]) -> dict[str, str]:
    """Return the names of the redeliveries' webhooks by id. One statement."""
    ids = {row.scope["webhook_id"] for row in rows if "webhook_id" in row.scope}
    named = Webhook.objects.filter(pk__in=ids).values_list("pk", "name")
    return {str(pk): name for pk, name in named}


def describe(row: Redelivery, names: Mapping[str, str]) -> str:
    """Describe a redelivery's scope in words."""
    scope = scope_of(row)
    if scope is None:
        return "a scope in an unknown form"
    words = []
    if scope.delivery_ids:
        words.append(f"{len(scope.delivery_ids):,} chosen deliveries")
    else:
        words.append("missing events" if row.is_replay else f"{_any(scope.statuses)} deliveries")
    for name, value in (
        ("of type", scope.event_type),
        ("of webhook", names.get(str(scope.webhook_id), scope.webhook_id)),
        ("of owner", scope.owner_id),
        ("of event", scope.event_id),
        ("that failed with", FailureKind.label_of(scope.failure_kind or "")),
        ("with response code", scope.response_codes and _codes(*scope.response_codes)),
        ("since", scope.since and f"{scope.since:%Y-%m-%d %H:%M} UTC"),
        ("until", scope.until and f"{scope.until:%Y-%m-%d %H:%M} UTC"),
        ("at most", scope.limit),
    ):
        # An end at the moment of the request is the default, so it is left out.
        if value and not (
            name == "until" and scope.until and scope.until >= row.created_at - AT_ONCE
        ):
            words.append(f"{name} {value}")
    return ", ".join(words)


def _codes(first: int, last: int) -> str:
    return str(first) if first == last else f"{first} to {last}"


def _any(statuses: Iterable[str]) -> str:
    labels = [DeliveryStatus(status).label.lower() for status in statuses]
    return " or ".join("successful" if label == "success" else label for label in labels)
