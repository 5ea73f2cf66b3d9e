"""docs/openapi.yaml says what the code does, and Swagger UI is served by ourselves."""

from io import StringIO
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml
from django.conf import settings as django_settings
from django.contrib.staticfiles import finders
from django.core.management import call_command
from django.test import Client

from webhooks import catalog
from webhooks.wire.request import SYSTEM_HEAD

FILE = Path(django_settings.BASE_DIR) / "docs" / "openapi.yaml"


@pytest.fixture(scope="module")
def description() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return loaded


def test_committed_description_is_up_to_date_valid_and_without_warnings() -> None:
    fresh = StringIO()

    call_command("spectacular", validate=True, fail_on_warn=True, stdout=fresh)

    assert fresh.getvalue().strip() == FILE.read_text().strip(), "run `make docs`"


def test_it_is_openapi_3_1(description: dict[str, Any]) -> None:
    assert description["openapi"] == "3.1.0"


def test_every_event_type_is_a_webhook_with_its_headers(description: dict[str, Any]) -> None:
    assert list(description["webhooks"]) == [one.name for one in catalog.all_types()]
    sent = {line.split(b":")[0].decode() for line in SYSTEM_HEAD.split(b"\n")}
    for name, item in description["webhooks"].items():
        named = {one["name"] for one in item["post"]["parameters"]}
        assert named == sent - {"Content-Type"}, name
        content = item["post"]["requestBody"]["content"]["application/json"]
        validator = jsonschema_rs.Draft202012Validator(content["schema"], validate_formats=True)
        validator.validate(content["example"])


def test_every_operation_tells_its_scope_problems_and_headers(description: dict[str, Any]) -> None:
    for path, item in description["paths"].items():
        for method, operation in item.items():
            text = operation["description"]
            assert "scope `" in text or path.endswith("/tokens"), (path, method)
            assert operation["responses"].keys() >= {"400", "401", "403", "429", "500"}
            assert operation["summary"], (path, method)
            for status, answer in operation["responses"].items():
                if status.startswith("2"):
                    assert answer["headers"].keys() >= {"RateLimit", "X-Request-ID"}
            named = [one.get("$ref", "") for one in operation.get("parameters", [])]
            has_key = any(one.endswith("IdempotencyKey") for one in named)
            assert has_key == (method == "post"), (path, method)


def test_requests_take_no_unknown_fields(description: dict[str, Any]) -> None:
    for name, schema in description["components"]["schemas"].items():
        if name.endswith("Request"):
            assert schema["additionalProperties"] is False, name


def test_changes_have_no_defaults_and_require_nothing(description: dict[str, Any]) -> None:
    bodies = [
        item["patch"]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        for item in description["paths"].values()
        if "patch" in item
    ]

    assert len(bodies) >= 3
    for reference in bodies:
        schema = description["components"]["schemas"][reference.rsplit("/", 1)[1]]
        assert "required" not in schema, reference
        for name, value in schema["properties"].items():
            assert "default" not in value, (reference, name)


def test_description_is_served_as_committed() -> None:
    response = Client().get("/api/v1/schema")

    assert response.status_code == 200
    assert response.content == FILE.read_bytes()


def test_swagger_ui_comes_from_here(db: None) -> None:
    page = Client().get("/api/v1/docs")
    script = Client().get("/api/v1/docs?script=")

    text = page.content.decode()
    assert page.status_code == script.status_code == 200
    assert "/static/drf_spectacular_sidecar/swagger-ui-dist/swagger-ui-bundle.js" in text
    assert "https://" not in text + script.content.decode()
    assert "<script>" not in text
    assert "/api/v1/schema" in script.content.decode()
    assert finders.find("drf_spectacular_sidecar/swagger-ui-dist/swagger-ui-bundle.js")
