"""The search box: an id of any kind, the host of a URL, a name, an owner's name."""

from collections.abc import Iterator
from typing import Any

from django.db.models import Q
from django.http import HttpRequest
from django.urls import reverse
from unfold.dataclasses import SearchResult

from webhooks.admin.access import (
    VIEW_DELIVERY,
    VIEW_EVENT,
    VIEW_REDELIVERY,
    VIEW_WEBHOOK,
    may_view,
)
from webhooks.doors import owners
from webhooks.errors import PublicIdInvalidError
from webhooks.ids import (
    ATTEMPT_PREFIX,
    DELIVERY_PREFIX,
    EVENT_PREFIX,
    REDELIVERY_PREFIX,
    WEBHOOK_PREFIX,
    parse_public_id,
)
from webhooks.models import Attempt, Delivery, Event, Redelivery, Webhook

KINDS: dict[str, tuple[Any, str, str]] = {
    WEBHOOK_PREFIX: (Webhook, VIEW_WEBHOOK, "webhook"),
    EVENT_PREFIX: (Event, VIEW_EVENT, "send"),
    DELIVERY_PREFIX: (Delivery, VIEW_DELIVERY, "local_shipping"),
    ATTEMPT_PREFIX: (Attempt, VIEW_DELIVERY, "swap_horiz"),
    REDELIVERY_PREFIX: (Redelivery, VIEW_REDELIVERY, "replay"),
}
MAX_RESULTS = 10


def find(request: HttpRequest, term: str) -> list[SearchResult]:
    """Return the matches of a search term that the user may view."""
    term = term.strip()
    for prefix in KINDS:
        if term.startswith(prefix):
            return list(_by_id(request, term, prefix))
    if len(term) < 3 or not may_view(request.user, VIEW_WEBHOOK):
        return []
    fits = Q(name__icontains=term) | Q(url__icontains=term)
    for path in owners.shown_name_paths("owner"):
        fits |= Q(**{f"{path}__icontains": term})
    found = Webhook.objects.filter(fits, deleted_at=None).order_by("-id")[:MAX_RESULTS]
    return [_result(webhook, webhook.name, webhook.url, "webhook") for webhook in found]


def _by_id(request: HttpRequest, term: str, prefix: str) -> Iterator[SearchResult]:
    model, permission, icon = KINDS[prefix]
    try:
        pk = parse_public_id(term, prefix)
    except PublicIdInvalidError:
        return
    if not may_view(request.user, permission):
        return
    found = model.objects.filter(pk=pk).first()
    if isinstance(found, Attempt):
        # An attempt is shown on the page of its delivery.
        title = f"attempt {found.number}, {found.public_id}"
        delivery = Delivery.objects.get(pk=found.delivery_id)
        result = _result(delivery, title, str(delivery), icon)
        result.link += f"#{found.public_id}"
        yield result
    elif found is not None:
        yield _result(found, str(found), str(model._meta.verbose_name), icon)


def _result(found: Any, title: str, description: str, icon: str) -> SearchResult:
    name = f"admin:webhooks_{found._meta.model_name}_change"
    return SearchResult(title, description, reverse(name, args=[found.pk]), icon)
