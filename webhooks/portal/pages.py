"""How pages are made: one frame, and one way in which forms are asked for and answered."""

from collections.abc import Callable
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.http import HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.utils.translation import gettext_lazy as _

from webhooks.doors import allowances
from webhooks.errors import WebhooksError
from webhooks.models.owners import owners_are_users
from webhooks.portal.visit import Visit

DONE = {
    "added": _("The webhook is added."),
    "saved": _("The settings are saved."),
    "enabled": _("The webhook is enabled."),
    "disabled": _("The webhook is disabled. What is due waits until it is enabled."),
    "deleted": _("The webhook is deleted."),
    "verified": _("The webhook is verified."),
    "unverified": _("The webhook is not verified; its page says why."),
    "resent": _("The delivery is queued and goes out now."),
    "revoked": _("It is revoked and no longer works."),
    "cancelled": _("It is stopped. What was queued already is still sent."),
}
"""What a page says after a redirect, by the word in its URL."""


def show(visit: Visit, page: str, context: dict[str, Any], status: int = 200) -> HttpResponse:
    """Render a page of the portal."""
    notice = DONE.get(visit.request.GET.get("done", ""))
    context = {"visit": visit, "page": page, "notice": notice} | context
    return render(visit.request, f"webhooks/portal/{page}.html", context, status=status)


def go(url: str, done: str = "") -> HttpResponse:
    """Redirect after something was done; the next page says what."""
    return HttpResponseRedirect(f"{url}?done={done}" if done else url)


def attempt(form: forms.BaseForm, act: Callable[[], HttpResponse | None]) -> HttpResponse | None:
    """Do what a valid form asks for; None where it cannot be done, and the form then says why."""
    try:
        return act()
    except ValidationError as problem:
        add_problems(form, problem)
    except WebhooksError as problem:
        form.add_error(None, str(problem))
    return None


def add_problems(form: forms.BaseForm, problem: ValidationError) -> None:
    """Show a ValidationError of the service beside the fields that it names."""
    if not hasattr(problem, "error_dict"):
        form.add_error(None, problem)
        return
    for field, errors in problem.error_dict.items():
        form.add_error(field if field in form.fields else None, errors)


def take(visit: Visit, limit: str) -> allowances.Allowance:
    """Count a dear request of this owner under a limit that the API has, too."""
    # With what users ask of the API, where they are the owners.
    whose = "user" if owners_are_users() else "owner"
    return allowances.take(limit, f"{whose}-{visit.owner_id}")


def too_many(visit: Visit, allowance: allowances.Allowance) -> HttpResponse:
    """Return the page for who asks too often."""
    context = {"status": 429, "seconds": allowance.reset_seconds}
    response = show(visit, "problem", context, status=429)
    response["Retry-After"] = str(allowance.reset_seconds)
    return response
