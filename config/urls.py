"""URLs of the whole site."""

from pathlib import Path

from django.conf import settings
from django.contrib import admin
from django.contrib.staticfiles.urls import staticfiles_urlpatterns
from django.http import HttpRequest, HttpResponse
from django.templatetags.static import static
from django.urls import URLPattern, URLResolver, include, path, re_path
from django.views.generic import RedirectView
from drf_spectacular.views import SpectacularSwaggerSplitView
from rest_framework.routers import SimpleRouter

import projects.api
import sessions_app.api
from config.login import change_password, login
from webhooks.api import problems

OPENAPI_FILE = Path(settings.BASE_DIR) / "docs" / "openapi.yaml"

router = SimpleRouter(trailing_slash=False)
projects.api.register(router)
sessions_app.api.register(router)


def schema(request: HttpRequest) -> HttpResponse:
    """Serve the generated file: generating it on request would take a second of processor time."""
    return HttpResponse(OPENAPI_FILE.read_bytes(), content_type="application/yaml")


urlpatterns: list[URLPattern | URLResolver] = [
    path("", RedirectView.as_view(pattern_name="admin:index")),
    # This must precede the admin's own login page at the same path.
    path("admin/login/", login),
    path("admin/password_change/", change_password),
    path("admin/", admin.site.urls),
    # Browsers request this path if a page names no icon.
    path("favicon.ico", RedirectView.as_view(url=static("webhooks/icon.svg"))),
    path("api/v1/", include("webhooks.api.urls")),
    path("api/v1/", include(router.urls)),
    path("api/v1/schema", schema, name="schema"),
    path("api/v1/docs", SpectacularSwaggerSplitView.as_view(), name="docs"),
    path("portal/", include("webhooks.portal.urls")),
    # The last API route, so that unknown paths get a problem document, even with DEBUG.
    re_path("^api/", problems.no_such_route),
    # These exist only with DEBUG; in production the server serves the files of collectstatic.
    *staticfiles_urlpatterns(),
]
handler400 = problems.bad_request
handler404 = problems.not_found
handler500 = problems.server_error
