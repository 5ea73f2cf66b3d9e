"""Every error is RFC 9457, says what to do, and carries the id of its request."""

import logging
from typing import Any

import pytest
from django.test import Client
from rest_framework.test import APIClient

from projects.models import Project, User
from tests.webhooks.api.conftest import authorization_of
from webhooks.api import middleware
from webhooks.api.problems import TITLES, TYPE_PREFIX
from webhooks.api.webhooks import WebhookViewSet
from webhooks.models import Webhook

MEMBERS = {"type", "title", "status", "detail", "instance", "requestId"}


def problem(response: Any, status: int, code: str) -> dict[str, Any]:
    assert response.status_code == status, response.content
    assert response["Content-Type"] == "application/problem+json"
    found: dict[str, Any] = response.json()
    assert found["type"] == TYPE_PREFIX + code
    assert found["title"] == TITLES[code.replace("-", "_")]
    assert found["status"] == status
    assert found["requestId"] == response["X-Request-ID"]
    assert found.keys() - {"errors"} == MEMBERS
    return found


@pytest.mark.parametrize("path", ["nothing", "webhooks/", "v2", "webhooks/1/2/3/4", ""])
def test_unknown_path(client: APIClient, path: str) -> None:
    for method in ("get", "post", "put", "delete"):
        found = problem(getattr(client, method)(f"/api/v1/{path}"), 404, "not-found")
        assert found["instance"] == f"/api/v1/{path}"


def test_unknown_object_says_which(client: APIClient) -> None:
    found = problem(client.get("/api/v1/webhooks/whk_" + "0" * 32), 404, "not-found")

    assert found["detail"] == "You have no webhook with this id."


def test_no_credentials(db: None) -> None:
    response = APIClient().get("/api/v1/webhooks")

    assert "POST /api/v1/tokens" in problem(response, 401, "not-authenticated")["detail"]
    assert response["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "header", ["Bearer", "Bearer rdai_x", "Bearer a b", "Bearer \xff", "Bearer " + "x" * 9000]
)
def test_wrong_credentials(db: None, header: str) -> None:
    response = APIClient().get("/api/v1/webhooks", HTTP_AUTHORIZATION=header)

    problem(response, 401, "authentication-failed")
    assert response["WWW-Authenticate"] == "Bearer"


def test_token_in_the_query_string_is_not_accepted(client: APIClient) -> None:
    token = authorization_of(client).removeprefix("Bearer ")

    for name in ("token", "access_token", "api_key"):
        problem(APIClient().get(f"/api/v1/webhooks?{name}={token}"), 401, "not-authenticated")


@pytest.mark.parametrize(
    "media_type",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"],
)
def test_body_that_is_not_json(client: APIClient, media_type: str) -> None:
    response = client.generic("POST", "/api/v1/projects", "name=x", media_type)

    assert "application/json" in problem(response, 415, "unsupported-media-type")["detail"]


def test_compressed_body(client: APIClient) -> None:
    response = client.generic(
        "POST", "/api/v1/projects", "x", "application/json", HTTP_CONTENT_ENCODING="gzip"
    )

    assert "not compressed" in problem(response, 415, "unsupported-media-type")["detail"]


def test_answer_that_is_not_json(make_client: Any, user: User, settings: Any) -> None:
    problem(
        make_client(user).get("/api/v1/webhooks", HTTP_ACCEPT="image/png"), 406, "not-acceptable"
    )


def test_unknown_fields_and_wrong_values_are_all_named(client: APIClient) -> None:
    body = {"name": "", "url": "x", "events": ["*", 1], "retryDelay": "soon", "evil": 1}

    found = problem(client.post("/api/v1/webhooks", body), 400, "invalid")

    assert {(one["pointer"], one["code"]) for one in found["errors"]} == {
        ("/evil", "unknown-field"),
        ("/name", "blank"),
        ("/url", "invalid"),
        ("/events/1", "invalid"),
        ("/retryDelay", "invalid"),
    }
    assert found["detail"].endswith("(4 more in errors.)")


def test_mistakes_that_only_the_model_finds_have_their_wire_names(client: APIClient) -> None:
    body = {"name": "Orders", "url": "ftp://example.com/", "events": ["nothing.*"]}

    found = problem(client.post("/api/v1/webhooks", body), 400, "invalid")

    assert {one["pointer"] for one in found["errors"]} == {"/url", "/events"}
    assert not Webhook.objects.exists()


def test_all_that_is_wrong_with_a_webhook_is_told_at_once(client: APIClient) -> None:
    body = {
        "name": "",
        "url": "ftp://example.com/",
        "events": ["nothing.*"],
        "headers": {"Host": "a"},
        "retrySchedule": [5],
        "maxRetries": 3,
        "timeout": 99,
    }

    found = problem(client.post("/api/v1/webhooks", body), 400, "invalid")

    wrong = {one["pointer"] for one in found["errors"]}
    names = {"name", "url", "events", "headers", "retrySchedule", "timeout"}
    assert {place.split("/")[1] for place in wrong} == names


def test_all_that_is_wrong_with_an_event_is_told_at_once(client: APIClient) -> None:
    data = {"id": "x", "name": 1, "more~/": 1}

    found = problem(
        client.post("/api/v1/events", {"type": "project.deleted", "data": data}),
        400,
        "event-data-invalid",
    )
    unknown = client.post("/api/v1/events", {"type": "project.no", "data": {}, "userId": "x"})

    assert len(found["errors"]) == 4  # id, name, deletedAt is missing, and one more
    assert {one["pointer"] for one in found["errors"]} == {"/data", "/data/id", "/data/name"}
    assert {one["pointer"] for one in unknown.json()["errors"]} == {"/type", "/userId"}


def test_unknown_parameters_are_named(client: APIClient) -> None:
    found = problem(client.get("/api/v1/webhooks?page=2&ordering=secret&limit=5"), 400, "invalid")

    assert [one["parameter"] for one in found["errors"]] == ["page", "ordering"]
    assert "known are active, cursor, limit" in found["errors"][0]["message"]


@pytest.mark.parametrize("is_debug", [True, False])
def test_crash_says_nothing_and_is_logged(
    make_client: Any,
    user: User,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    settings: Any,
    is_debug: bool,
) -> None:
    def crash(*_: Any, **__: Any) -> None:
        raise RuntimeError("postgres://user:canary@db")

    settings.DEBUG = is_debug
    monkeypatch.setattr(WebhookViewSet, "list", crash)
    client = make_client(user)
    client.raise_request_exception = False

    with caplog.at_level(logging.ERROR, logger=middleware.__name__):
        response = client.get("/api/v1/webhooks")

    found = problem(response, 500, "error")
    assert b"canary" not in response.content
    assert found["requestId"] in caplog.text


def test_other_pages_keep_their_own_errors(db: None) -> None:
    response = Client().get("/nothing")

    assert response.status_code == 404
    assert response["Content-Type"].startswith("text/html")
    assert len(response["X-Request-ID"]) == 32


def test_request_id_of_a_proxy_is_kept_if_it_is_harmless(client: APIClient) -> None:
    kept = client.get("/api/v1/webhooks", HTTP_X_REQUEST_ID="edge-7.f_1")
    refused = client.get("/api/v1/webhooks", HTTP_X_REQUEST_ID="a\tb<script>")

    assert kept["X-Request-ID"] == "edge-7.f_1"
    assert len(refused["X-Request-ID"]) == 32


def test_answers_are_not_cached(client: APIClient, project: Project) -> None:
    assert client.get(f"/api/v1/projects/{project.id}")["Cache-Control"] == "no-store"


def test_people_can_look_around_in_debug(user: User, settings: Any) -> None:
    settings.DEBUG = True
    browser = Client()
    browser.force_login(user)

    response = browser.get("/api/v1/projects", headers={"Accept": "text/html"})

    assert response.status_code == 200
    assert "Django REST framework" in response.content.decode()


def test_session_without_csrf_token_changes_nothing(user: User, settings: Any) -> None:
    settings.DEBUG = True
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(user)

    response = browser.post("/api/v1/projects", {"name": "x"}, "application/json")

    problem(response, 403, "permission-denied")
    assert not Project.objects.exists()
