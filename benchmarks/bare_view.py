"""The API's yardstick: a bare view of the framework that inserts one row, as a WSGI application."""

import os
from typing import Any

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.urls import URLPattern, path


def _url_patterns() -> list[URLPattern]:
    # Only once Django is set up.
    from rest_framework.parsers import JSONParser
    from rest_framework.renderers import JSONRenderer
    from rest_framework.request import Request
    from rest_framework.response import Response
    from rest_framework.views import APIView

    from webhooks.models import Event

    class InsertView(APIView):
        authentication_classes: Any = ()
        permission_classes: Any = ()
        parser_classes: Any = (JSONParser,)
        renderer_classes: Any = (JSONRenderer,)

        def post(self, request: Request) -> Response:
            event = Event.objects.create(type="session.message", payload=b"{}")
            return Response({"id": str(event.id)}, status=201)

    return [path("events", InsertView.as_view())]


os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
settings.ROOT_URLCONF = __name__
application = get_wsgi_application()
urlpatterns = _url_patterns()
