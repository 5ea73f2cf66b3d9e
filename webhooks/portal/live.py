"""What happens right now: the latest events and what became of them, and the line for `listen`."""

from typing import Any

from django.conf import settings
from django.http import HttpResponse

from webhooks.conf import DEFAULT_API_ROOT
from webhooks.doors import api_paths
from webhooks.models import Delivery
from webhooks.portal.pages import show
from webhooks.portal.visit import Visit

SHOWN = 30


def live(visit: Visit) -> HttpResponse:
    """Show the latest events."""
    root = api_paths.path_of("").rstrip("/")
    address = f"{visit.request.scheme}://{visit.request.get_host()}"
    context = {
        "server": address + ("" if root == DEFAULT_API_ROOT else root),
        "token_prefix": settings.WEBHOOKS_TOKEN_PREFIX,
    }
    return show(visit, "live", context | _latest(visit))


def live_part(visit: Visit) -> HttpResponse:
    """The part of that page that moves, which its script asks for."""
    return show(visit, "live_part", _latest(visit))


def _latest(visit: Visit) -> dict[str, Any]:
    if visit.only is None:
        events = list(visit.events().defer("payload").order_by("-id")[:SHOWN])
        by_event: dict[Any, list[Delivery]] = {event.id: [] for event in events}
        deliveries = visit.deliveries().filter(event_id__in=list(by_event))
        for delivery in deliveries.select_related("webhook").order_by("id"):
            by_event[delivery.event_id].append(delivery)
    else:
        latest = visit.deliveries().select_related("webhook", "event").defer("event__payload")
        rows = list(latest.order_by("-id")[:SHOWN])
        events = [row.event for row in rows]
        by_event = {row.event_id: [row] for row in rows}
    return {"rows": [(event, by_event[event.id]) for event in events]}
