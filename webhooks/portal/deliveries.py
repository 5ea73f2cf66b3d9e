"""Deliveries: the list with its filters in the URL, and one with every attempt."""

from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import Q
from django.http import Http404, HttpResponse
from django.utils.http import urlencode
from django.utils.translation import gettext as _

from webhooks import service
from webhooks.doors import allowances
from webhooks.doors.downloads import as_file
from webhooks.errors import CursorInvalidError, WebhooksError
from webhooks.figures import plan
from webhooks.figures.pages import RESPONSE_CLASSES, Cursor, read_page
from webhooks.ids import first_id_of
from webhooks.models.delivery import WAITING, DeliveryQuerySet
from webhooks.portal.forms import DeliveryFilterForm
from webhooks.portal.pages import go, show
from webhooks.portal.visit import Visit
from webhooks.repair.redelivery_scope import REPEATABLE
from webhooks.workbench.attempts import BODY_FILE, PER_PAGE, show_payload, view_attempts

PAGE = 25
SCANNING = ("status", "type", "response", "object")
"""Filters that no index answers: a page looks at a bounded number of rows for them."""


def choices_of(visit: Visit) -> list[tuple[str, str]]:
    """Return the visit's webhooks for a select."""
    return [(webhook.public_id, webhook.name) for webhook in visit.webhooks().only("id", "name")]


def deliveries(visit: Visit) -> HttpResponse:
    """List deliveries, newest first."""
    query = visit.request.GET
    form = DeliveryFilterForm(query, choices_of(visit))
    form.full_clean()
    chosen = {name: value for name, value in form.cleaned_data.items() if value not in (None, "")}
    try:
        cursor = Cursor.decode(query["cursor"]) if query.get("cursor") else None
    except CursorInvalidError:
        raise Http404 from None
    # A value that is refused must not show everything.
    indexed = visit.deliveries().none() if form.errors else _indexed(visit, chosen)
    rows, scanned = indexed, None
    if used := [name for name in SCANNING if name in chosen]:
        rows, scanned = indexed.filter(*(_condition(name, chosen[name]) for name in used)), indexed
    page = read_page(rows.with_waits(), cursor, PAGE, scanned=scanned)
    kept = [(name, str(value)) for name, value in query.items() if name != "cursor" and value]
    context = {
        "form": form,
        "deliveries": page.rows,
        "older": _link(kept, page.next),
        "newer": "?" + urlencode(kept) if page.is_before_first else _link(kept, page.previous),
        "is_filtered": bool(chosen or form.errors),
        "is_first": cursor is None,
        "retention_days": settings.WEBHOOKS_RETENTION_DAYS,
    }
    return show(visit, "deliveries", context, status=422 if form.errors else 200)


def _indexed(visit: Visit, chosen: dict[str, Any]) -> DeliveryQuerySet:
    rows = visit.deliveries(visit.webhook(chosen["webhook"]) if "webhook" in chosen else None)
    if "since" in chosen:
        rows = rows.filter(id__gte=first_id_of(chosen["since"]))
    if "until" in chosen:
        rows = rows.filter(id__lt=first_id_of(chosen["until"]))
    return rows


def _condition(name: str, value: Any) -> Q:
    if name == "response":
        return RESPONSE_CLASSES[value]
    if name == "object":
        return Q(event__object_reference=value) | Q(event__object_reference__endswith=f":{value}")
    return Q(**{{"status": "status", "type": "event_type"}[name]: value})


def _link(kept: list[tuple[str, str]], cursor: Cursor | None) -> str:
    return "" if cursor is None else "?" + urlencode([*kept, ("cursor", cursor.encode())])


def delivery(visit: Visit, delivery_id: str, problem: str = "") -> HttpResponse:
    """Show a delivery: what was sent, what came back, and what happens next."""
    found = visit.delivery(delivery_id)
    attempts = list(found.attempts.order_by("-number")[: PER_PAGE + 1])
    body = found.rendered(found.event)
    context = {
        "delivery": found,
        "webhook": found.webhook,
        "attempts": view_attempts(attempts, body)[:PER_PAGE],
        "has_more_attempts": len(attempts) > PER_PAGE,
        "payload": show_payload(body),
        "payload_url": visit.url("delivery-payload", found.public_id),
        "left": plan.attempts_left(found, found.webhook),
        "is_waiting": found.status in WAITING,
        "may_resend": visit.may_manage
        and found.status in REPEATABLE
        and bool(body)
        and found.webhook.deleted_at is None,
        "problem": problem,
    }
    return show(visit, "delivery", context, status=422 if problem else 200)


def payload(visit: Visit, delivery_id: str) -> HttpResponse:
    """Return the bytes that were sent and signed, under the name that the commands use."""
    found = visit.delivery(delivery_id)
    return as_payload(found.rendered(found.event))


def as_payload(content: bytes) -> HttpResponse:
    """Return a payload as a file; raises Http404 for an erased one."""
    if not content:
        raise Http404
    return as_file(content, BODY_FILE)


def resend(visit: Visit, delivery_id: str) -> HttpResponse:
    """Send one delivery once more."""
    visit.require(visit.may_manage)
    found = visit.delivery(delivery_id)
    if visit.request.method != "POST":
        return go(visit.url("delivery", found.public_id))
    try:
        with transaction.atomic():
            asked = service.redeliver_one(found, requested_by=visit.user)
            spend_quota(visit, 1)
            visit.note("delivery.redeliver", found, redelivery=asked.public_id)
    except WebhooksError as refusal:
        return delivery(visit, delivery_id, str(refusal))
    return go(visit.url("delivery", found.public_id), "resent")


def spend_quota(visit: Visit, count: int) -> None:
    """Spend of this hour's quota for what was just queued; raises WebhooksError if it was too much.

    Roll back what was queued then. What could not be queued costs nothing this way.
    """
    quota = allowances.spend("redeliveries", visit.owner_id, count)
    if quota.is_exceeded:
        raise WebhooksError(quota_problem(quota))


def quota_problem(quota: allowances.Allowance) -> str:
    """Say that this hour's quota is used up."""
    return _(
        "Your %(limit)s redeliveries of this hour are used up, or this would be more than are left;"
        " the next hour begins in %(seconds)s seconds."
    ) % {"limit": f"{quota.limit:,}", "seconds": quota.reset_seconds}
