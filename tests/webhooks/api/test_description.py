"""docs/openapi.yaml says what the code does, and Swagger UI is served by ourselves."""

import re
from collections.abc import Iterator
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

from tests.webhooks.api.matrix import ROUTES
from webhooks import catalog
from webhooks.api.schema import BATCH
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
    *types, batch = description["webhooks"].items()
    assert batch[0] == BATCH
    assert [name for name, _ in types] == [one.name for one in catalog.all_types()]
    sent = {line.split(b":")[0].decode() for line in SYSTEM_HEAD.split(b"\n")}
    for name, item in types:
        parameters = item["post"]["parameters"]
        assert {one["name"] for one in parameters if one["required"]} == sent - {"Content-Type"}
        optional = {one["name"] for one in parameters if not one["required"]}
        assert optional == {"X-Webhook-Object", "X-Webhook-Sequence"}, name
        content = item["post"]["requestBody"]["content"]["application/json"]
        validator = jsonschema_rs.Draft202012Validator(content["schema"], validate_formats=True)
        validator.validate(content["example"])


def test_every_operation_tells_its_scope_problems_and_headers(description: dict[str, Any]) -> None:
    for path, item in description["paths"].items():
        for method, operation in item.items():
            text = operation["description"]
            assert re.search("scopes? `", text) or path.endswith("/tokens"), (path, method)
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
        if name.endswith(("Input", "Changes")):
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


def test_schemes_that_operations_name_exist(description: dict[str, Any]) -> None:
    schemes = description["components"]["securitySchemes"]
    named = {
        name
        for item in description["paths"].values()
        for operation in item.values()
        for one in operation["security"]
        for name in one
    }

    assert named == schemes.keys() == {"accessToken", "password"}
    assert description["servers"]
    schemas = {name.lower() for name in description["components"]["schemas"]}
    assert schemas.isdisjoint(name.lower() for name in schemes)


def test_operations_and_schemas_have_names_for_readers(description: dict[str, Any]) -> None:
    tags = {tag["name"] for tag in description["tags"]}
    ids = [
        operation["operationId"]
        for item in (description["paths"] | description["webhooks"]).values()
        for operation in item.values()
        if tags.issuperset(operation["tags"])
    ]
    schemas = description["components"]["schemas"]

    assert len(ids) == len(set(ids)) == len(ROUTES) - 2 + len(description["webhooks"])
    assert {"createWebhook", "sendTest", "triggerEvent", "onProjectCreated"} <= set(ids)
    assert all(re.fullmatch("[a-z]+([A-Z][a-z]+)+", id_) for id_ in ids)
    assert not [
        name for name, schema in schemas.items() if not ({"description", "enum"} & set(schema))
    ]
    # Generators for Go name a constructor so.
    assert not [name for name in schemas if f"New{name}" in schemas]
    assert not [name for name, schema in schemas.items() if "camelCase" in str(schema)]


def test_enums_are_declared_once_and_unions_are_of_different_types(
    description: dict[str, Any],
) -> None:
    enums = []
    for part in parts_of(description | {"webhooks": None}):
        if "enum" in part:
            enums.append(frozenset(part["enum"]))
        types = [str(one.get("type")) for one in part.get("oneOf", ())]
        assert len(types) == len(set(types)), part
        assert "const" not in part or "type" in part, part

    declared = [
        set(one["enum"]) for one in description["components"]["schemas"].values() if "enum" in one
    ]
    assert len(declared) == len({frozenset(one) for one in declared})
    assert all(enums.count(frozenset(one)) == 1 for one in declared)


def parts_of(part: Any) -> Iterator[dict[str, Any]]:
    """Yield every object of a document."""
    if isinstance(part, dict):
        yield part
    for child in (
        part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
    ):
        yield from parts_of(child)


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
