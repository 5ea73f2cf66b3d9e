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
import webhooks.api.urls
from config.login import change_password, login
from config.metrics import metrics
from webhooks.api import problems

OPENAPI_FILE = Path(settings.BASE_DIR) / "docs" / "openapi.yaml"

router = SimpleRouter(trailing_slash=False)
webhooks.api.urls.register(router)
projects.api.register(router)
sessions_app.api.register(router)


def schema(request: HttpRequest) -> HttpResponse:
    """Serve the committed description: making it takes a second of processor time."""
    return HttpResponse(OPENAPI_FILE.read_bytes(), content_type="application/yaml")


urlpatterns: list[URLPattern | URLResolver] = [
    path("", RedirectView.as_view(pattern_name="admin:index")),
    # Before the admin's own page of the same path.
    path("admin/login/", login),
    path("admin/password_change/", change_password),
    path("admin/", admin.site.urls),
    # Browsers ask for it wherever a page names no icon.
    path("favicon.ico", RedirectView.as_view(url=static("webhooks/icon.svg"))),
    path("api/v1/", include(router.urls)),
    path("api/v1/schema", schema, name="schema"),
    path("api/v1/docs", SpectacularSwaggerSplitView.as_view(), name="docs"),
    path("metrics", metrics),
    # Last: a problem instead of a page, in DEBUG too.
    re_path("^api/", problems.no_such_route),
    # With DEBUG alone; in production the server has what collectstatic gathered.
    *staticfiles_urlpatterns(),
]
handler400 = problems.bad_request
handler404 = problems.not_found
handler500 = problems.server_error
