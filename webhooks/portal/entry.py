"""The ways in and out: log in, log out, open a portal link; and the brand's stylesheet."""

from typing import Any

from django.contrib.auth import views as auth_views
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils.decorators import method_decorator
from django.views.decorators.cache import cache_control
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_GET, require_http_methods

from webhooks import service
from webhooks.doors import allowances, audit
from webhooks.errors import PortalLinkInvalidError
from webhooks.models.owners import owners_are_users
from webhooks.portal import brand
from webhooks.portal.door import secure, speaking


class Login(auth_views.LoginView):
    """Django's own login, for owners who are no staff as well; 429 after too many tries."""

    template_name = "webhooks/portal/login.html"

    def get_default_redirect_url(self) -> str:
        return reverse("portal:start")

    @method_decorator(sensitive_variables())
    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        with speaking(request):
            if request.method == "POST":
                # The check comes first, because hashing the password costs processor time.
                allowance = allowances.take_login(request)
                if allowance.is_exceeded:
                    return _too_many(request, allowance, is_framed=False)
            found: Any = super().dispatch(request, *args, **kwargs)
            return secure(found.render() if hasattr(found, "render") else found, is_framed=False)


class Logout(auth_views.LogoutView):
    """Logs out on a POST."""

    next_page = "portal-login"


def _too_many(
    request: HttpRequest, allowance: allowances.Allowance, *, is_framed: bool
) -> HttpResponse:
    context = {"seconds": allowance.reset_seconds, "status": 429}
    response = render(request, "webhooks/portal/problem.html", context, status=429)
    response["Retry-After"] = str(allowance.reset_seconds)
    return secure(response, is_framed=is_framed)


# Whoever opens a link holds the key in its path; a page of another site does not.
@csrf_exempt
@require_http_methods(["GET", "HEAD", "POST"])
@sensitive_variables()
def open_link(request: HttpRequest, key: str) -> HttpResponse:
    """Open a portal link's session: once, and on a POST only.

    Programs that look at every link in a message or a mail must not use it up. The page's script
    sends the form at once; without JavaScript there is a button.
    """
    with speaking(request):
        if request.method != "POST":
            return secure(render(request, "webhooks/portal/open.html", {}), is_framed=True)
        try:
            link, session_key = service.open_portal_link(key)
        except PortalLinkInvalidError:
            # As of the API's tokens: keys that open something cost nothing.
            allowance = allowances.take_refusal(request)
            if allowance.is_exceeded:
                return _too_many(request, allowance, is_framed=True)
            page = render(request, "webhooks/portal/ended.html", {"is_link": True}, status=404)
            return secure(page, is_framed=True)
        actor = link.owner_id if owners_are_users() else None
        audit.note(request, "portallink.open", link, actor=actor)
        url = reverse("portal-session:start", args=[session_key])
        return secure(HttpResponseRedirect(url), is_framed=True)


@require_GET
@cache_control(public=True, max_age=300)
def brand_css(request: HttpRequest) -> HttpResponse:
    """The colours of the settings, as a file: the policy allows no style in a page."""
    return HttpResponse(brand.stylesheet(), content_type="text/css; charset=utf-8")
