"""URLs of the whole site."""

from django.contrib import admin
from django.templatetags.static import static
from django.urls import path
from django.views.generic import RedirectView

urlpatterns = [
    path("admin/", admin.site.urls),
    # Browsers ask for it wherever a page names no icon.
    path("favicon.ico", RedirectView.as_view(url=static("webhooks/icon.svg"))),
]
