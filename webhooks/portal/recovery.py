"""Send again what failed since a time, or what never came: counted first, watched to the end."""

from datetime import timedelta
from typing import Any

from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpResponse
from django.utils import timezone

from webhooks import service
from webhooks.doors import allowances
from webhooks.figures import display
from webhooks.models import Webhook
from webhooks.models.delivery import COUNTED_AT_MOST
from webhooks.portal.deliveries import quota_problem, spend_quota
from webhooks.portal.forms import RecoverForm
from webhooks.portal.pages import attempt, go, show
from webhooks.portal.visit import Visit
from webhooks.repair import redelivery, redelivery_progress
from webhooks.repair.redelivery_scope import (
    Scope,
    matching,
    missing,
    replay_scope,
    scope_of,
    warnings_of,
)

SHOWN_REDELIVERIES = 5


def recover(visit: Visit, webhook_id: str) -> HttpResponse:
    """Count what would be sent again (GET), and send it (POST)."""
    found = visit.webhook(webhook_id)
    request = visit.request
    given = request.POST if request.method == "POST" else request.GET
    form = RecoverForm(given if "since" in given else None, initial=_initial(found, given))
    context: dict[str, Any] = {"matched": None}
    if form.is_bound and form.is_valid():
        if request.method == "POST":
            visit.require(visit.may_manage)
            if done := attempt(form, lambda: _start(visit, found, form)):
                return done
        attempt(form, lambda: _count(found, form, context))
    context |= {
        "webhook": found,
        "tab": "recover",
        "form": form,
        "state": display.state_of(found, timezone.now()),
        "earlier": visit.redeliveries()
        .filter(scope__webhook_id=str(found.id), scope__delivery_ids__isnull=True)
        .order_by("-id")[:SHOWN_REDELIVERIES],
    }
    return show(visit, "recover", context, status=422 if form.errors else 200)


def _initial(found: Webhook, given: Any) -> dict[str, Any]:
    # A delivery is older than its failure: the time from which a webhook fails leaves it out.
    day = timezone.now() - timedelta(hours=24)
    since = min(one for one in (day, found.failing_since, found.disabled_at) if one is not None)
    kind = given.get("kind", "failed")
    return {"since": since, "kind": kind if kind in ("failed", "missing") else "failed"}


def _scope(found: Webhook, data: dict[str, Any]) -> Scope:
    if data["kind"] == "missing":
        return replay_scope(found, data["since"], data["until"])
    scope = Scope(webhook_id=found.id, since=data["since"], until=data["until"])
    scope.check()
    return scope


def _rows(found: Webhook, scope: Scope, kind: str) -> QuerySet[Any]:
    return missing(found, scope) if kind == "missing" else matching(scope)


def _count(found: Webhook, form: RecoverForm, context: dict[str, Any]) -> HttpResponse:
    data = form.cleaned_data
    scope = _scope(found, data)
    rows = _rows(found, scope, data["kind"])
    context["matched"] = rows.order_by()[: COUNTED_AT_MOST + 1].count()
    context["warnings"] = warnings_of(scope)
    return HttpResponse()


def _start(visit: Visit, found: Webhook, form: RecoverForm) -> HttpResponse | None:
    data = form.cleaned_data
    scope = _scope(found, data)
    rows = _rows(found, scope, data["kind"])
    quota, count = allowances.count_rows("redeliveries", visit.owner_id, rows)
    if quota.is_exceeded:
        form.add_error(None, quota_problem(quota))
        return None
    with transaction.atomic():
        if data["kind"] == "missing":
            asked = service.replay(
                found, data["since"], data["until"], requested_by=visit.user, matched_count=count
            )
        else:
            asked = service.redeliver(scope, requested_by=visit.user, matched_count=count)
        spend_quota(visit, count)
        facts = {"replay": asked.is_replay, "matched": asked.matched_count}
        visit.note("redelivery.create", asked, **asked.scope, **facts)
    return go(visit.url("redelivery", asked.public_id))


def progress(visit: Visit, redelivery_id: str) -> HttpResponse:
    """Show how far a redelivery has come."""
    return show(visit, "redelivery", _progress(visit, redelivery_id))


def progress_part(visit: Visit, redelivery_id: str) -> HttpResponse:
    """The part of that page that moves, which its script asks for."""
    return show(visit, "redelivery_part", _progress(visit, redelivery_id))


def _progress(visit: Visit, redelivery_id: str) -> dict[str, Any]:
    asked = visit.redelivery(redelivery_id)
    counts = redelivery_progress.progress(asked)
    scope = scope_of(asked)
    webhook_id = None if scope is None else scope.webhook_id
    return {
        "redelivery": asked,
        "webhook": visit.webhooks().filter(id=webhook_id).first() if webhook_id else None,
        "scope": scope,
        "progress": counts,
        "whole": counts.whole,
        "ended": min(counts.succeeded + counts.failed, counts.whole),
        "percent": counts.percent,
        "is_running": counts.is_running,
        "is_over": counts.is_complete,
        # The page keeps polling while deliveries continue without anybody's help.
        "is_settled": counts.is_settled,
    }


def cancel(visit: Visit, redelivery_id: str) -> HttpResponse:
    """Stop a redelivery; what it has queued is still sent."""
    visit.require(visit.may_manage)
    asked = visit.redelivery(redelivery_id)
    if visit.request.method == "POST" and redelivery.cancel(asked):
        visit.note("redelivery.cancel", asked)
        return go(visit.url("redelivery", asked.public_id), "cancelled")
    return go(visit.url("redelivery", asked.public_id))
