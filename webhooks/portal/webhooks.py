"""One webhook: how it is and why, its settings, tests, and switching it off and on."""

from contextlib import suppress
from typing import Any

from django import forms
from django.db import transaction
from django.http import HttpResponse
from django.utils import timezone
from django.views.decorators.debug import sensitive_variables

from webhooks import catalog, service
from webhooks.doors import allowances
from webhooks.doors.setting_fields import changes_of
from webhooks.errors import WebhookNotSendingError
from webhooks.figures import charts, display, history, plan, present
from webhooks.figures.overview import hours as hours_of
from webhooks.models import Delivery, Webhook
from webhooks.portal.deliveries import quota_problem
from webhooks.portal.door import waits_for_receivers
from webhooks.portal.forms import EnableForm, NewWebhookForm, SettingsForm, TestForm
from webhooks.portal.pages import attempt, go, show, take, too_many
from webhooks.portal.start import DAY, sum_up
from webhooks.portal.visit import Visit
from webhooks.repair import audit_log
from webhooks.repair.missed import missed_events
from webhooks.workbench.verification import snippets

SHOWN_DELIVERIES = 8
LOOKED_AT = 200
"""Deliveries among which the latest failure is looked for."""
SHOWN_HISTORY = 8


def webhook(visit: Visit, webhook_id: str) -> HttpResponse:
    """Show how a webhook is, and why."""
    return show(visit, "webhook", overview(visit, visit.webhook(webhook_id)))


def overview(visit: Visit, found: Webhook) -> dict[str, Any]:
    """Return what the page of a webhook shows."""
    now = timezone.now()
    selection = history.Selection(since=now - DAY, webhook_ids=(found.id,))
    hours = hours_of(selection)
    recent = _recent(visit, found)
    return {
        "webhook": found,
        "tab": "overview",
        "state": display.state_of(found, now),
        # Figures that read every attempt are on a page of their own.
        "figures": sum_up([hour.bucket for hour in hours]),
        "strip": display.health_strip([hour.bucket for hour in hours], now),
        "outcomes": charts.outcomes([hour.bucket for hour in hours]),
        "outcomes_legend": charts.OUTCOMES_LEGEND,
        "waiting": present.waiting(found),
        "recent": recent[:SHOWN_DELIVERIES],
        "last_failed": _last_failed(recent),
        "warnings": service.warnings_of(found, with_others=visit.only is None),
        "plan": plan.retry_plan(found),
        "header_names": found.header_names,
        "history": list(audit_log.history(found)[:SHOWN_HISTORY]),
    }


def _recent(visit: Visit, found: Webhook) -> list[Delivery]:
    return list(visit.deliveries(found).with_waits().order_by("-id")[:LOOKED_AT])


def _last_failed(recent: list[Delivery]) -> Delivery | None:
    """Return the latest delivery whose last attempt failed, among those of late."""
    return next((one for one in recent if one.failure_kind), None)


@sensitive_variables()
def add(visit: Visit) -> HttpResponse:
    """Ask for a new webhook, and show its secret once it is made."""
    visit.require(visit.may_add)
    request = visit.request
    initial = {"url": request.GET.get("url", "")}
    form = NewWebhookForm(request.POST if request.method == "POST" else None, initial=initial)
    if request.method == "POST":
        allowance = take(visit, "secret")
        if allowance.is_exceeded:
            return too_many(visit, allowance)
        if form.is_valid() and (made := attempt(form, lambda: _add(visit, form))):
            return made
    context = {
        "form": form,
        "groups": list(catalog.groups().items()),
        "chosen": form["events"].value() or [],
    }
    return show(visit, "add", context, status=422 if form.errors else 200)


@sensitive_variables()
def _add(visit: Visit, form: forms.Form) -> HttpResponse:
    data = form.cleaned_data
    with transaction.atomic():
        made = service.create_webhook(visit.owner_id, **data)
        visit.note("webhook.create", made, **data)
    return show(
        visit,
        "added",
        {
            "webhook": made,
            "secret": made.secret,
            "snippets": snippets(),
            "warnings": service.warnings_of(made),
        },
    )


def settings(visit: Visit, webhook_id: str) -> HttpResponse:
    """Show a webhook's settings, or change them."""
    found = visit.webhook(webhook_id)
    request = visit.request
    if request.method == "POST":
        visit.require(visit.may_manage)
        form = SettingsForm(request.POST, instance=found)
        if form.is_valid() and (done := attempt(form, lambda: _change(visit, found, form))):
            return done
    else:
        form = SettingsForm(instance=found)
    context = {
        "webhook": found,
        "tab": "settings",
        "form": form,
        "groups": list(catalog.groups().items()),
        "chosen": form["events"].value() or [],
        "header_names": found.header_names,
        "state": display.state_of(found, timezone.now()),
        "plan": plan.retry_plan(found),
    }
    return show(visit, "settings", context, status=422 if form.errors else 200)


def _change(visit: Visit, found: Webhook, form: SettingsForm) -> HttpResponse:
    changes = changes_of(form)
    before = {name: getattr(found, name) for name in changes if name != "headers"}
    with transaction.atomic():
        service.update_webhook(found, **changes)
        told = {name: [before.get(name), value] for name, value in changes.items()}
        visit.note("webhook.change", found, **told)
    return go(visit.url("settings", found.public_id), "saved")


@waits_for_receivers
def test(visit: Visit, webhook_id: str) -> HttpResponse:
    """Ask which example to send, send it and show the response in place."""
    visit.require(visit.may_manage)
    found = visit.webhook(webhook_id)
    request = visit.request
    chosen = request.GET.get("event_type", "webhook.test")
    form = TestForm(
        request.POST if request.method == "POST" else None, initial={"event_type": chosen}
    )
    tryout = None
    if request.method == "POST" and form.is_valid():
        allowance = take(visit, "test")
        if allowance.is_exceeded:
            return too_many(visit, allowance)
        tryout = send_example(visit, found, form.cleaned_data["event_type"], form)
    context = {
        "webhook": found, "tab": "test", "form": form, "tryout": tryout,
        "state": display.state_of(found, timezone.now()),
    }  # fmt: skip
    return show(visit, "test", context, status=422 if form.errors else 200)


@waits_for_receivers
def verify(visit: Visit, webhook_id: str) -> HttpResponse:
    """Send a challenge, and show whether the receiver answered with it."""
    visit.require(visit.may_manage)
    found = visit.webhook(webhook_id)
    page = visit.url("webhook", found.public_id)
    if visit.request.method != "POST":
        return go(page)
    allowance = take(visit, "test")
    if allowance.is_exceeded:
        return too_many(visit, allowance)
    was = found.verified
    proof = service.prove(found)
    visit.note("webhook.verify", found, verified=[was, found.verified], error=proof.error)
    return go(page, "verified" if proof.verified else "unverified")


def send_example(visit: Visit, found: Webhook, event_type: str, form: forms.Form) -> Any:
    """Send an example and return what came back; None where nothing was sent, as the form says."""
    sent: list[Any] = []

    def send() -> HttpResponse:
        sent.append(service.test_webhook(found, event_type))
        return HttpResponse()

    attempt(form, send)
    if not sent:
        return None
    visit.note("webhook.test", found, **sent[0].facts)
    return sent[0]


@waits_for_receivers
def enable(visit: Visit, webhook_id: str) -> HttpResponse:
    """Say why a webhook is off; test it, then enable it."""
    visit.require(visit.may_manage)
    found = visit.webhook(webhook_id)
    request = visit.request
    if found.active:
        return go(visit.url("webhook", found.public_id))
    form = EnableForm(request.POST if request.method == "POST" else None)
    tryout = None
    if request.method == "POST" and form.is_valid():
        if form.cleaned_data["is_tested"]:
            allowance = take(visit, "test")
            if allowance.is_exceeded:
                return too_many(visit, allowance)
        tried: list[Any] = []
        done = attempt(form, lambda: _enable(visit, found, form, tried))
        if done is not None and found.active:
            return done
        tryout = tried[0] if tried else None
    context = {
        "webhook": found,
        "form": form,
        "tryout": tryout,
        "waiting": present.waiting(found),
        "missed": service.count_missed(found),
        "state": display.state_of(found, timezone.now()),
        "last_failed": _last_failed(_recent(visit, found)),
    }
    return show(visit, "enable", context, status=422 if form.errors else 200)


def _enable(
    visit: Visit, found: Webhook, form: EnableForm, tried: list[Any]
) -> HttpResponse | None:
    send, reason = form.cleaned_data["send"], found.disabled_reason
    wanted = {
        "send": send,
        "send_missed": form.cleaned_data["send_missed"],
        "requested_by": visit.user,
    }
    missed = 0
    if wanted["send_missed"]:
        quota, missed = allowances.count_rows("redeliveries", visit.owner_id, missed_events(found))
        if quota.is_exceeded:
            form.add_error("send_missed", quota_problem(quota))
            return None
    if form.cleaned_data["is_tested"]:
        tried.append(service.enable_if_it_answers(found, **wanted))
        visit.note("webhook.test", found, **tried[0].facts)
        if not tried[0].succeeded:
            return HttpResponse()
        _note_enabled(visit, found, reason, send)
    else:
        with transaction.atomic():
            service.enable(found, **wanted)
            _note_enabled(visit, found, reason, send)
    # Only now: a test that fails sends nothing of it.
    allowances.spend("redeliveries", visit.owner_id, missed)
    return go(visit.url("webhook", found.public_id), "enabled")


def _note_enabled(visit: Visit, found: Webhook, reason: str, send: str) -> None:
    visit.note(
        "webhook.enable", found, active=[False, True], disabled_reason=[reason, ""], waiting=send
    )


def disable(visit: Visit, webhook_id: str) -> HttpResponse:
    """Stop sending to a webhook; asked for on its settings page."""
    visit.require(visit.may_manage)
    found = visit.webhook(webhook_id)
    if visit.request.method == "POST" and found.active:
        # Who was faster has disabled or deleted it.
        with suppress(WebhookNotSendingError), transaction.atomic():
            service.disable(found)
            visit.note("webhook.disable", found, active=[True, False])
        return go(visit.url("webhook", found.public_id), "disabled")
    return go(visit.url("settings", found.public_id))


def delete(visit: Visit, webhook_id: str) -> HttpResponse:
    """Ask whether to delete a webhook, and delete it."""
    visit.require(visit.may_manage and visit.only is None)
    found = visit.webhook(webhook_id)
    if visit.request.method == "POST":
        with transaction.atomic():
            if service.delete_webhook(found):
                visit.note("webhook.delete", found, name=found.name, url=found.url)
        return go(visit.url("start"), "deleted")
    return show(visit, "delete", {"webhook": found, "waiting": present.waiting(found)})
