"""Events: the catalogue with fields and examples, and why one event came or did not come."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from django.core.exceptions import ValidationError
from django.db import transaction
from django.http import Http404, HttpResponse
from django.utils.translation import gettext as _

from webhooks import catalog, service
from webhooks.errors import EventTypeUnknownError, WebhooksError
from webhooks.ids import (
    DELIVERY_PREFIX,
    EVENT_PREFIX,
    HEX_DIGITS,
    REDELIVERY_PREFIX,
    WEBHOOK_PREFIX,
)
from webhooks.models import Event
from webhooks.outbox.explain import Considered
from webhooks.portal.deliveries import as_payload, choices_of, spend_quota
from webhooks.portal.door import waits_for_receivers
from webhooks.portal.forms import ExampleForm, RenderForm
from webhooks.portal.pages import add_problems, go, show, take, too_many
from webhooks.portal.visit import Visit
from webhooks.portal.webhooks import send_example
from webhooks.workbench.attempts import SHOWN_BYTES, readable, show_payload

PAGES = {
    EVENT_PREFIX: "event",
    DELIVERY_PREFIX: "delivery",
    WEBHOOK_PREFIX: "webhook",
    REDELIVERY_PREFIX: "redelivery",
}
MAX_SEARCH_CHARACTERS = 100


def find(visit: Visit) -> HttpResponse:
    """Go to what an id stands for; ask for one where there is none."""
    text = visit.request.GET.get("q", "").strip()[:MAX_SEARCH_CHARACTERS]
    for prefix, page in PAGES.items():
        if text.startswith(prefix) and HEX_DIGITS.fullmatch(text, len(prefix)):
            return go(visit.url(page, text))
    return show(visit, "find", {"text": text}, status=422 if text else 200)


def event(visit: Visit, event_id: str, problem: str = "") -> HttpResponse:
    """Say who got an event, who did not, and why."""
    found = visit.event(event_id)
    considered = _considered(visit, found)
    query = visit.request.GET
    newest = found.version or catalog.FIRST_VERSION
    form = RenderForm(
        query if "version" in query else None, initial={"form": "standard", "version": newest}
    )
    is_shown = _is_shown(visit, considered)
    context = {
        "event": found,
        "considered": considered,
        "payload": show_payload(bytes(found.payload)) if is_shown else None,
        "payload_url": visit.url("event-payload", found.public_id),
        "is_shown": is_shown,
        # What a replay would send.
        "missed": [
            one for one in considered if one.matches and not one.delivery and bytes(found.payload)
        ],
        "problem": problem,
        "form": form,
        "rendered": _rendered(found, form) if is_shown and form.is_valid() else None,
    }
    return show(visit, "event", context, status=422 if problem else 200)


def payload(visit: Visit, event_id: str) -> HttpResponse:
    """Return the bytes of an event."""
    found = visit.event(event_id)
    if not _is_shown(visit, _considered(visit, found)):
        raise Http404
    return as_payload(bytes(found.payload))


def _considered(visit: Visit, found: Event) -> list[Considered]:
    return [
        one
        for one in service.explain(found).considered
        # The platform's webhooks are nobody's business but the staff's.
        if one.webhook.owner_id == visit.owner_id
        and (visit.only is None or one.webhook.id == visit.only.id)
    ]


def _is_shown(visit: Visit, considered: list[Considered]) -> bool:
    # Who sees one webhook only sees what was sent to it.
    return visit.only is None or any(one.delivery for one in considered)


def _rendered(found: Event, form: RenderForm) -> dict[str, Any] | None:
    """Return what a webhook with the form's settings would get, or say what is wrong with them."""
    data = form.cleaned_data
    try:
        rendered = service.render_event(
            found,
            form=data["form"],
            data_fields=data["data_fields"] or None,
            version=data["version"],
        )
    except ValidationError as problem:
        add_problems(form, problem)
        return None
    return {
        "content_type": rendered.content_type.decode(),
        "lines": [line.decode() for line in rendered.header_lines],
        "body": readable(rendered.body[:SHOWN_BYTES]),
    }


def send(visit: Visit, event_id: str, webhook_id: str) -> HttpResponse:
    """Send an event to a webhook that never got it."""
    visit.require(visit.may_manage)
    found, webhook = visit.event(event_id), visit.webhook(webhook_id)
    if visit.request.method != "POST":
        return go(visit.url("event", found.public_id))
    try:
        with transaction.atomic():
            asked = service.replay(webhook, None, event_id=found.id, requested_by=visit.user)
            spend_quota(visit, 1)
            visit.note("event.replay", found, webhook=webhook.public_id, redelivery=asked.public_id)
    except WebhooksError as refusal:
        return event(visit, event_id, str(refusal))
    return go(visit.url("redelivery", asked.public_id))


class Field(NamedTuple):
    """A field of an event's data, as its schema says."""

    name: str
    kind: str
    is_required: bool
    description: str


def event_types(visit: Visit) -> HttpResponse:
    """Show all event types in groups, with which webhooks receive them."""
    webhooks = list(visit.webhooks().only("id", "name", "events"))
    groups = [
        (group, [(one, [w for w in webhooks if w.receives(one.name)]) for one in types])
        for group, types in catalog.groups().items()
    ]
    return show(visit, "event_types", {"groups": groups, "has_webhooks": bool(webhooks)})


@waits_for_receivers
def event_type(visit: Visit, name: str) -> HttpResponse:
    """Show an event type's fields, schema and example, and send the example."""
    try:
        found = catalog.get_type(name)
    except EventTypeUnknownError:
        raise Http404 from None
    request = visit.request
    choices = choices_of(visit)
    form = ExampleForm(request.POST if request.method == "POST" else None, choices)
    tryout = None
    if request.method == "POST":
        visit.require(visit.may_manage)
        if form.is_valid():
            allowance = take(visit, "test")
            if allowance.is_exceeded:
                return too_many(visit, allowance)
            webhook = visit.webhook(form.cleaned_data["webhook"])
            tryout = send_example(visit, webhook, name, form)
    context = {
        "event_type": found,
        "fields": list(_fields(found.schema)),
        "schema": _pretty(found.schema),
        "example": _pretty(found.example),
        "older": [
            {**one, "schema": _pretty(one["schema"]), "example": _pretty(one["example"])}
            for one in found.older_examples
        ],
        "form": form,
        "has_webhooks": bool(choices),
        "tryout": tryout,
    }
    return show(visit, "event_type", context, status=422 if form.errors else 200)


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def _fields(schema: Mapping[str, Any]) -> list[Field]:
    required = schema.get("required", [])
    return [
        Field(name, _kind(one), name in required, str(one.get("description", "")))
        for name, one in schema.get("properties", {}).items()
    ]


def _kind(schema: Mapping[str, Any]) -> str:
    """Say what a field holds: `string (date-time)`, `integer or null`."""
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    kinds = schema.get("type", "")
    text = _(" or ").join(kinds) if isinstance(kinds, list) else str(kinds)
    return f"{text} ({schema['format']})" if "format" in schema else text
