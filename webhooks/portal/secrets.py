"""A webhook's signing secrets: which are live and for how long, rotation, and how to verify."""

from datetime import timedelta
from typing import Any

from django.db import transaction
from django.http import HttpResponse
from django.utils import timezone
from django.views.decorators.debug import sensitive_variables

from webhooks import service
from webhooks.figures import display
from webhooks.models import SigningSecret, Webhook
from webhooks.portal.forms import RotationForm
from webhooks.portal.pages import attempt, go, show, take, too_many
from webhooks.portal.visit import Visit
from webhooks.workbench.verification import mask, snippets


def secret(visit: Visit, webhook_id: str) -> HttpResponse:
    """Show the live secrets, masked, and the snippets that verify a request."""
    return _show(visit, visit.webhook(webhook_id), RotationForm())


def _show(visit: Visit, found: Webhook, form: RotationForm, **context: Any) -> HttpResponse:
    now = timezone.now()
    live = found.secrets.live(now).filter(scheme=SigningSecret.Scheme.HMAC)
    secrets = [{"row": row, "mask": mask(row)} for row in live]
    context = {
        "webhook": found,
        "tab": "secret",
        "state": display.state_of(found, now),
        "secrets": secrets,
        "has_older": len(secrets) > 1,
        "public_keys": found.public_keys,
        "snippets": snippets(),
        "form": form,
    } | context
    return show(visit, "secret", context, status=422 if form.errors else 200)


@sensitive_variables()
def rotate(visit: Visit, webhook_id: str) -> HttpResponse:
    """Replace the secret and show the new one, once."""
    visit.require(visit.may_see_secrets)
    found = visit.webhook(webhook_id)
    if visit.request.method != "POST":
        return go(visit.url("secret", found.public_id))
    allowance = take(visit, "secret")
    if allowance.is_exceeded:
        return too_many(visit, allowance)
    form = RotationForm(visit.request.POST)
    if form.is_valid() and (done := attempt(form, lambda: _rotate(visit, found, form))):
        return done
    return _show(visit, found, form)


@sensitive_variables()
def _rotate(visit: Visit, found: Webhook, form: RotationForm) -> HttpResponse:
    overlap = timedelta(seconds=int(form.cleaned_data["overlap"]))
    with transaction.atomic():
        service.rotate_secret(found, overlap=overlap)
        visit.note("secret.rotate", found, overlap_seconds=overlap.total_seconds())
    return _show(visit, found, RotationForm(), new_secret=found.secret)


def revoke(visit: Visit, webhook_id: str) -> HttpResponse:
    """Take the older secrets out of use."""
    visit.require(visit.may_see_secrets)
    found = visit.webhook(webhook_id)
    if visit.request.method == "POST":
        with transaction.atomic():
            count = service.revoke_secret(found)
            visit.note("secret.revoke", found, count=count)
        return go(visit.url("secret", found.public_id), "revoked")
    return go(visit.url("secret", found.public_id))
