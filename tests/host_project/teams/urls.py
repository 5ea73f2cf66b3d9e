from django.conf import settings
from django.contrib import admin
from django.urls import include, path

urlpatterns = [path("admin/", admin.site.urls)]
if settings.WITH_API:
    urlpatterns += [
        path("api/v1/", include("webhooks.api.urls")),
        path("portal/", include("webhooks.portal.urls")),
    ]
