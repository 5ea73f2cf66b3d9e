"""Lets visitors in: by Django's own login, or with the key of a portal link's session.

A session's key is in the path of its pages: no cookie is needed, so that the portal works in a frame
of another site in every browser. Nobody who does not know the path can make a browser ask for it,
which is why these pages need no other protection against forged requests.
"""

from collections.abc import Callable
from contextlib import nullcontext
from functools import wraps
from typing import Any

from django.conf import settings
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.db import OperationalError, transaction
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import translation
from django.views.decorators.csrf import csrf_exempt

from webhooks import service
from webhooks.doors import allowances, owners
from webhooks.doors.limits import READ_SECONDS, WRITE_SECONDS
from webhooks.portal.pages import too_many
from webhooks.portal.visit import Visit
from webhooks.postgres.sql import limit_statements, took_too_long

LANGUAGES = ("en", "de")
View = Callable[..., HttpResponse]


def waits_for_receivers(view: View) -> View:
    """Mark a page whose POST waits for somebody else's server: no transaction is open meanwhile."""
    view.waits_for_receivers = True  # type: ignore[attr-defined]
    return view


POLICY = "; ".join(
    [
        "default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self'",
        "font-src 'self'", "connect-src 'self'", "form-action 'self'", "base-uri 'none'",
        "object-src 'none'", "frame-ancestors {ancestors}",
    ]
)  # fmt: skip


def for_users(view: View) -> View:
    """Return the view of a page for the signed-in owner."""

    @wraps(view)
    def page(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if not request.user.is_authenticated:
            return redirect_to_login(request.get_full_path(), reverse("portal-login"))
        owner = owners.owner_of(request)
        if owner is None:
            with speaking(request):
                return secure(problem(Visit(request, None), 403), is_framed=False)
        return _show(view, Visit(request, owner), *args, **kwargs)

    return page


def for_links(view: View) -> View:
    """Return the view of a page for the sessions of portal links."""

    @wraps(view)
    @csrf_exempt
    def page(request: HttpRequest, key: str, *args: Any, **kwargs: Any) -> HttpResponse:
        with speaking(request):
            link = service.find_portal_session(key)
            if link is None:
                return secure(render(request, "webhooks/portal/ended.html", status=404), True)
        return _show(view, Visit(request, link.owner, link, key), *args, **kwargs)

    return page


def _show(view: View, visit: Visit, *args: Any, **kwargs: Any) -> HttpResponse:
    request = visit.request
    is_reading = request.method in ("GET", "HEAD")
    is_limited = is_reading or not hasattr(view, "waits_for_receivers")
    allowance = allowances.take("portal", str(visit.owner_id))
    with speaking(request):
        if allowance.is_exceeded:
            return secure(too_many(visit, allowance), is_framed=not visit.is_user)
        try:
            with transaction.atomic() if is_limited else nullcontext():
                if is_limited:
                    limit_statements(READ_SECONDS if is_reading else WRITE_SECONDS)
                response = view(visit, *args, **kwargs)
        except Http404:
            response = problem(visit, 404)
        except PermissionDenied:
            response = problem(visit, 403)
        except OperationalError as failure:
            if not took_too_long(failure):
                raise
            response = problem(visit, 503)
        except Exception:
            # Whatever it is, it may come of something being deleted meanwhile.
            if not visit.is_overtaken():
                raise
            response = problem(visit, 404)
    return secure(response, is_framed=not visit.is_user)


def problem(visit: Visit, status: int) -> HttpResponse:
    """Return a page that says why there is nothing to see."""
    context = {"visit": visit, "status": status}
    return render(visit.request, "webhooks/portal/problem.html", context, status=status)


def speaking(request: HttpRequest) -> Any:
    """Return a block that uses the language which the browser asks for, English by default."""
    wished = translation.get_language_from_request(request).split("-")[0]
    return translation.override(wished if wished in LANGUAGES else LANGUAGES[0])


def secure(response: HttpResponse, is_framed: bool) -> HttpResponse:
    """Set the headers that every page of the portal has.

    `is_framed` says whether pages of WEBHOOKS_PORTAL_FRAME_ANCESTORS may show it in a frame.
    """
    ancestors = settings.WEBHOOKS_PORTAL_FRAME_ANCESTORS if is_framed else []
    response["Content-Security-Policy"] = POLICY.format(ancestors=" ".join(ancestors) or "'none'")
    response["Cache-Control"] = "no-store"
    # A path with a key goes to nobody; a login needs the Origin header, which this would take away.
    response["Referrer-Policy"] = "no-referrer" if is_framed else "same-origin"
    # X-Frame-Options knows no list of origins; browsers that know frame-ancestors ignore it.
    response.xframe_options_exempt = bool(ancestors)
    return response
