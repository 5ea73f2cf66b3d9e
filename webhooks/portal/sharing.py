"""Let others in: tokens for agents and programs, and links for colleagues and host products.

Both outlive the page they are made on, so that only the signed-in owner makes them, not the session
of a link.
"""

from datetime import timedelta
from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction
from django.http import HttpResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.debug import sensitive_variables

from webhooks import service
from webhooks.doors import allowances
from webhooks.errors import TokenLimitError
from webhooks.ids import PORTAL_LINK_PREFIX, TOKEN_PREFIX
from webhooks.models import ApiToken, PortalLink
from webhooks.portal.deliveries import choices_of
from webhooks.portal.forms import NewLinkForm, NewTokenForm
from webhooks.portal.pages import attempt, go, show, too_many
from webhooks.portal.visit import Visit, find
from webhooks.registry.portal_links import facts_of, live_first

SHOWN_ENDED = 20


def sharing(visit: Visit) -> HttpResponse:
    """Show the owner's tokens and links."""
    return _show(visit)


def _show(
    visit: Visit,
    *,
    token_form: NewTokenForm | None = None,
    link_form: NewLinkForm | None = None,
    **context: Any,
) -> HttpResponse:
    if not visit.is_user:
        return show(visit, "sharing", {"may_share": False})
    token_form = token_form or NewTokenForm(None, visit.user)
    link_form = link_form or NewLinkForm(None, choices_of(visit))
    context = {
        "may_share": True,
        "now": timezone.now(),
        "tokens": ApiToken.objects.filter(user=visit.user).order_by("-id"),
        "links": live_first(visit.owner_id, SHOWN_ENDED),
        "token_form": token_form,
        "link_form": link_form,
    } | context
    return show(visit, "sharing", context, 422 if token_form.errors or link_form.errors else 200)


@sensitive_variables()
def add_token(visit: Visit) -> HttpResponse:
    """Make a token and show it, once."""
    visit.require(visit.is_user)
    if visit.request.method != "POST":
        return go(visit.url("sharing"))
    allowance = allowances.take_password(visit.request, visit.user)
    if allowance.is_exceeded:
        return too_many(visit, allowance)
    form = NewTokenForm(visit.request.POST, visit.user)
    if not form.is_valid():
        if form.was_refused:
            visit.note("password.refuse", visit.user)
        return _show(visit, token_form=form)
    data = form.cleaned_data
    facts = {"name": data["name"], "scopes": data["scopes"], "days": data["days"]}
    try:
        with transaction.atomic():
            ApiToken.objects.make_room(visit.user)
            token, text = ApiToken.objects.issue(
                visit.user,
                name=data["name"],
                scopes=data["scopes"],
                lifetime=timedelta(days=data["days"]),
            )
            visit.note("apitoken.create", token, **facts)
    except TokenLimitError:
        form.add_error(None, _("There are too many tokens; revoke one that is not needed."))
        return _show(visit, token_form=form)
    return _show(visit, new_token=text)


def revoke_token(visit: Visit, token_id: str) -> HttpResponse:
    """Revoke a token; the API refuses it within a second."""
    visit.require(visit.is_user)
    found = find(ApiToken.objects.filter(user=visit.user), token_id, TOKEN_PREFIX)
    if visit.request.method == "POST":
        with transaction.atomic():
            visit.note("apitoken.delete", found, name=found.name)
            found.delete()
        return go(visit.url("sharing"), "revoked")
    return go(visit.url("sharing"))


@sensitive_variables()
def add_link(visit: Visit) -> HttpResponse:
    """Make a link and show it, once."""
    visit.require(visit.is_user)
    if visit.request.method != "POST":
        return go(visit.url("sharing"))
    form = NewLinkForm(visit.request.POST, choices_of(visit))
    if form.is_valid() and (done := attempt(form, lambda: _add_link(visit, form))):
        return done
    return _show(visit, link_form=form)


def _add_link(visit: Visit, form: NewLinkForm) -> HttpResponse:
    data = form.cleaned_data
    webhook = visit.webhook(data["webhook"]) if data["webhook"] else None
    try:
        with transaction.atomic():
            link = service.create_portal_link(
                visit.owner_id,
                capabilities=data["capabilities"],
                webhook=webhook,
                session_lasts=timedelta(hours=data["hours"]),
                created_by=visit.user,
            )
            visit.note("portallink.create", link, **facts_of(link))
    except ValidationError as problem:
        raise ValidationError(list(problem.messages)) from None
    url = visit.request.build_absolute_uri(reverse("portal-open", args=[link.key]))
    return _show(visit, new_link=url)


def revoke_link(visit: Visit, link_id: str) -> HttpResponse:
    """Revoke a link and its session, at once."""
    visit.require(visit.is_user)
    found = find(PortalLink.objects.filter(owner_id=visit.owner_id), link_id, PORTAL_LINK_PREFIX)
    if visit.request.method == "POST" and service.revoke_portal_link(found):
        visit.note("portallink.revoke", found)
        return go(visit.url("sharing"), "revoked")
    return go(visit.url("sharing"))
