"""A project's REST_FRAMEWORK is about its own API and changes nothing of ours."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.urls import include, path
from drf_spectacular.generators import SchemaGenerator
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.permissions import AllowAny
from rest_framework.renderers import JSONRenderer
from rest_framework.response import Response
from rest_framework.test import APIClient
from rest_framework.versioning import URLPathVersioning
from rest_framework.views import APIView

from config.services import BASE_DIR
from tests.webhooks.api.test_door import NEW
from webhooks.api.schema import ApiSchema


class First(BaseContentNegotiation):
    def select_renderer(self, request: Any, renderers: Any, format_suffix: Any = None) -> Any:
        return renderers[0], "text/x-of-the-project"


FOREIGN: dict[str, dict[str, Any]] = {
    "no anonymous user": {"UNAUTHENTICATED_USER": None},
    "times": {"DATETIME_FORMAT": "%d.%m.%Y", "DATETIME_INPUT_FORMATS": ["%d.%m.%Y"]},
    "days": {"DATE_FORMAT": "%d.%m.%Y", "DATE_INPUT_FORMATS": ["%d.%m.%Y"]},
    "formats": {"URL_FORMAT_OVERRIDE": "limit"},
}
CLASSES: dict[str, dict[type, dict[str, Any]]] = {
    # As where the settings are read when the framework is loaded.
    "versions": {
        APIView: {"versioning_class": URLPathVersioning},
        URLPathVersioning: {"allowed_versions": ["v9"]},
    },
    "negotiation": {APIView: {"content_negotiation_class": First}},
    "spaces": {JSONRenderer: {"compact": False, "ensure_ascii": True}},
}


def answers(client: APIClient) -> list[tuple[int, str, str]]:
    webhook = {"name": "Ä", "url": "http://127.0.0.1:9/", "events": ["*"]}
    client.raise_request_exception = False
    asked = [
        client.get("/api/v1/webhooks?limit=5"),
        client.get("/api/v1/event-types"),
        client.post("/api/v1/webhooks", webhook | {"payloadVersion": "2026-01-01", "evil": 1}),
        client.post("/api/v1/redeliveries", {"since": "2026-11-01T00:00:00Z", "dryRun": True}),
        APIClient(raise_request_exception=False).get("/api/v1/webhooks"),
    ]
    shown = [(one.status_code, one["Content-Type"], one.content.decode()) for one in asked]
    return [(status, kind, text.partition('"requestId"')[0]) for status, kind, text in shown]


@pytest.mark.parametrize("name", sorted(FOREIGN.keys() | CLASSES.keys()))
def test_answers_are_the_same(
    client: APIClient, settings: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    client.post("/api/v1/webhooks", {"name": "Ä", "url": "http://127.0.0.1:9/", "events": ["*"]})
    client.post("/api/v1/events", NEW)
    before = answers(client)
    assert [status for status, *_ in before] == [200, 200, 400, before[3][0], 401]

    settings.REST_FRAMEWORK = settings.REST_FRAMEWORK | FOREIGN.get(name, {})
    for changed, values in CLASSES.get(name, {}).items():
        for attribute, value in values.items():
            monkeypatch.setattr(changed, attribute, value)

    assert answers(client) == before


def test_description_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "foreign.py").write_text(
        "from config.settings import *\n"
        "REST_FRAMEWORK = {\n"
        "    'DEFAULT_SCHEMA_CLASS': 'drf_spectacular.openapi.AutoSchema',\n"
        "    'DEFAULT_VERSIONING_CLASS': 'rest_framework.versioning.NamespaceVersioning',\n"
        "}\n"
    )
    described = tmp_path / "openapi.yaml"
    environment = os.environ | {
        "DEBUG": "1",
        "DJANGO_SETTINGS_MODULE": "foreign",
        "PYTHONPATH": f"{BASE_DIR}{os.pathsep}{tmp_path}",
    }

    subprocess.run(
        [sys.executable, "-m", "django", "spectacular", "--file", described],
        env=environment, check=True, timeout=120,
    )  # fmt: skip

    assert described.read_text() == (BASE_DIR / "docs" / "openapi.yaml").read_text()


def test_views_of_the_project_can_be_described_with_our_class() -> None:
    class Weather(APIView):
        """Of the project."""

        permission_classes = [AllowAny]
        schema = ApiSchema()

        def get(self, request: Any) -> Response:
            return Response({})

    urls = [path("api/weather", Weather.as_view()), path("api/v1/", include("webhooks.api.urls"))]
    generator = SchemaGenerator(patterns=urls)  # type: ignore[no-untyped-call]
    found = generator.get_schema(public=True)["paths"]["/api/weather"]["get"]  # type: ignore[no-untyped-call]

    assert found["description"] == "Of the project."
