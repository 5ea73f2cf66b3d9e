"""What every route of the API refuses, and what every POST can do, read from the URLconf."""

from typing import Any

import pytest
from rest_framework.test import APIClient

from projects.models import User
from tests.webhooks.api.conftest import MakeClient
from tests.webhooks.api.matrix import (
    ROUTES,
    ROWS,
    World,
    rows_of_all_tables,
    send,
    undone,
    url_of,
)
from webhooks import service

PUBLIC = {"docs.get", "schema.get"}
"""Pages that take no parameters and ignore them."""
BY_TOKEN = sorted(ROUTES.keys() - PUBLIC - {"token-list.post"})
WITH_BODY = [key for key in BY_TOKEN if ROUTES[key].method in ("post", "patch")]
POSTS = [key for key in BY_TOKEN if ROUTES[key].method == "post"]

EVIL_PARAMETERS = ("evil=1", "webhook__owner__password=x", "ordering=secret", "offset=5")
EVIL_FIELDS = ("id", "owner", "ownerId", "createdAt", "isStaff", "owner_id", "__class__", "evil")
NOT_OBJECTS: tuple[Any, ...] = ([], [{"name": "a"}], "name", 1, True)
STRICTER = {
    "webhook-by-uid.put": "secret",
    "webhook-list.post": "secret",
    "webhook-rotate-secret.post": "secret",
    "webhook-test.post": "test",
    "webhook-verify.post": "test",
}


@pytest.fixture
def client_of(world: World, staff: User, make_client: MakeClient) -> Any:
    """Return a function that gives a client whom a route admits."""
    owners, staffs = (make_client(user, is_service=True) for user in (world.owner, staff))
    for client in (owners, staffs):
        client.get("/api/v1/event-types")  # notes the use of the token
    return lambda key: owners if ROWS[key].staff is None else staffs


def test_unknown_parameters_are_refused(world: World, client_of: Any) -> None:
    before = rows_of_all_tables()

    for key in BY_TOKEN:
        for parameter in EVIL_PARAMETERS:
            response = send(client_of(key), ROUTES[key], ROWS[key], world, query=parameter)

            assert response.status_code == 400, (key, parameter)
            assert response["Content-Type"] == "application/problem+json"
            assert response.json()["errors"][0]["parameter"] == parameter.split("=")[0]
    assert rows_of_all_tables() == before


def test_unknown_fields_are_refused(world: World, client_of: Any) -> None:
    before = rows_of_all_tables()

    for key in WITH_BODY:
        row, send_to = ROWS[key], getattr(client_of(key), ROUTES[key].method)
        body = row.body(world) if row.body else {}
        for name in EVIL_FIELDS:
            response = send_to(url_of(ROUTES[key], world), body | {name: 1})

            assert response.status_code == 400, (key, name)
            (error,) = response.json()["errors"]
            assert error["pointer"] == f"/{name}"
            assert error["code"] in ("unknown-field", "read-only")
    assert rows_of_all_tables() == before


def test_what_is_no_object_is_refused(world: World, client_of: Any) -> None:
    before = rows_of_all_tables()

    for key in WITH_BODY:
        for body in NOT_OBJECTS:
            send_to = getattr(client_of(key), ROUTES[key].method)
            response = send_to(url_of(ROUTES[key], world), body)

            assert response.status_code == 400, (key, body)
            assert response["Content-Type"] == "application/problem+json"
    assert rows_of_all_tables() == before


@pytest.mark.parametrize("accept", ["application/problem+json", "text/csv", "nonsense"])
def test_what_answers_nothing_needs_no_form_of_it(
    world: World, client_of: Any, accept: str
) -> None:
    """openapi-generator's clients accept the only content that a DELETE has: that of problems."""
    for key in [key for key in BY_TOKEN if ROUTES[key].method == "delete"]:
        with undone():
            response = send(
                client_of(key), ROUTES[key], ROWS[key], world, headers={"Accept": accept}
            )

        assert (response.status_code, response.content) == (204, b""), key


@pytest.mark.parametrize("key", POSTS)
def test_every_post_can_be_repeated(key: str, world: World, client_of: Any) -> None:
    if key == "session-resume.post":
        client_of(key).post(f"/api/v1/sessions/{world.ids['session']}/pause")
    if key == "queue-resume.post":
        service.pause_sending()
    client, headers = client_of(key), {"Idempotency-Key": "once"}

    first = send(client, ROUTES[key], ROWS[key], world, headers=headers)
    after = rows_of_all_tables()
    second = send(client, ROUTES[key], ROWS[key], world, headers=headers)

    assert first.status_code < 300, first.content
    assert "Idempotency-Replayed" not in first
    assert (second.status_code, second.content) == (first.status_code, first.content)
    assert second["Idempotency-Replayed"] == "true"
    assert rows_of_all_tables() == after


def test_every_answer_has_a_request_id_and_tells_what_is_left(world: World, client_of: Any) -> None:
    for key in sorted(ROUTES):
        for client in (client_of(key), APIClient()):
            with undone():
                response = send(
                    client, ROUTES[key], ROWS[key], world, headers={"X-Request-ID": "mine"}
                )

            assert response["X-Request-ID"] == "mine", key
            if response.status_code >= 400:
                assert response["Content-Type"] == "application/problem+json"
                assert response.json()["requestId"] == "mine"
            else:
                assert key in PUBLIC or limits_of(response) == ["token", *limits_beside(key)], key


def limits_of(response: Any) -> list[str]:
    """Return the names of the limits that an answer tells, the same in both headers."""
    policies, left = response["RateLimit-Policy"].split(", "), response["RateLimit"].split(", ")
    names = [policy.split(";")[0].strip('"') for policy in policies]
    assert names == [one.split(";")[0].strip('"') for one in left]
    assert all(policy.endswith(";q=20;w=60") for policy in policies[1:])
    return names


def limits_beside(key: str) -> list[str]:
    return [STRICTER[key]] if key in STRICTER else []
