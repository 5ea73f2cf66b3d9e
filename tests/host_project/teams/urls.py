from django.conf import settings
from django.contrib import admin
from django.urls import include, path

urlpatterns = [path("admin/", admin.site.urls)]
if settings.WITH_API:
    from rest_framework.routers import SimpleRouter

    import webhooks.api.urls

    router = SimpleRouter(trailing_slash=False)
    webhooks.api.urls.register(router)
    urlpatterns += [
        path("api/v1/", include(router.urls)),
        path("portal/", include("webhooks.portal.urls")),
    ]
