"""The test inbox: its page, and the URL into which webhooks send."""

from typing import Any
from uuid import UUID

from django.db import IntegrityError, transaction
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import reverse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from webhooks.doors import allowances
from webhooks.models import Inbox, InboxRequest, Webhook
from webhooks.portal.pages import go, show, take, too_many
from webhooks.portal.visit import Visit
from webhooks.workbench import inbox as inboxes
from webhooks.workbench.attempts import show_payload

ENDED = "This test inbox has ended."


def inbox(visit: Visit) -> HttpResponse:
    """Show what came in; a POST opens a new inbox."""
    visit.require(visit.only is None)
    if visit.request.method == "POST":
        visit.require(visit.may_manage)
        allowance = take(visit, "test")
        if allowance.is_exceeded:
            return too_many(visit, allowance)
        opened = inboxes.open_inbox(visit.owner_id)
        visit.note("inbox.open", f"inbox:{opened.pk}")
        return go(visit.url("inbox"))
    return show(visit, "inbox", _contents(visit))


def inbox_part(visit: Visit) -> HttpResponse:
    """The part of that page that moves, which its script asks for."""
    visit.require(visit.only is None)
    return show(visit, "inbox_part", _contents(visit))


def _contents(visit: Visit) -> dict[str, Any]:
    found = inboxes.inbox_of(visit.owner_id)
    if found is None:
        return {"inbox": None}
    path = reverse("portal-inbox", args=[found.token])
    webhooks = list(visit.webhooks())
    names: dict[UUID | None, str] = {webhook.pk: webhook.name for webhook in webhooks}
    rows = found.requests.order_by("-id").defer("body", "head")
    return {
        "inbox": found,
        "url": visit.request.build_absolute_uri(path),
        "senders": [webhook for webhook in webhooks if webhook.url.endswith(f"/{found.token}")],
        "rows": [(row, names.get(row.signed_for_id)) for row in rows],
        "kept": inboxes.MAX_REQUESTS,
    }


def inbox_request(visit: Visit, request_id: UUID) -> HttpResponse:
    """Show a request as it came in."""
    found = find_request(visit, request_id)
    payload = show_payload(bytes(found.body))
    context = {"row": found, "sender": sender_of(visit, found), "payload": payload}
    return show(visit, "inbox_request", context)


def find_request(visit: Visit, request_id: Any) -> InboxRequest:
    """Return a request of the visit's open inbox; raises Http404."""
    found: Inbox | None = None if visit.only else inboxes.inbox_of(visit.owner_id)
    row = None if found is None else found.requests.filter(pk=request_id).first()
    if row is None:
        raise Http404
    return row


def sender_of(visit: Visit, row: InboxRequest) -> Webhook | None:
    """Return the webhook whose secret signed a request; None if there is none any more."""
    if row.signed_for_id is None:
        return None
    return visit.webhooks().filter(pk=row.signed_for_id).first()


@csrf_exempt
@require_POST
def receive(request: HttpRequest, token: str) -> HttpResponse:
    """Store a request of a webhook; it causes nothing else."""
    found = inboxes.find_inbox(token)
    if found is None:
        return _said(ENDED, 410)
    allowance = allowances.take("inbox", str(found.pk))
    if allowance.is_exceeded:
        answer = _said("Too many requests for a test inbox.", 429)
        answer["Retry-After"] = str(allowance.reset_seconds)
        return answer
    headers = {name.lower(): value for name, value in request.headers.items()}
    try:
        with transaction.atomic():
            inboxes.keep(found, headers, request.body)
    except IntegrityError:
        # Its owner opened another one since it was found.
        return _said(ENDED, 410)
    return _said(inboxes.answer_to(headers, request.body), 200)


def _said(text: str, status: int) -> HttpResponse:
    return HttpResponse(text, status=status, content_type="text/plain")
