"""Who may do what: every route × method × kind of caller, read from the URLconf (A1).

A route without a row fails. What belongs to somebody else is 404 (400 where a body names it), and
whatever is refused changes no row.
"""

from datetime import timedelta

import pytest
from django.urls import reverse
from rest_framework.test import APIClient

from projects.models import User
from tests.webhooks.api.conftest import MakeClient
from tests.webhooks.api.matrix import (
    ROUTES,
    ROWS,
    Row,
    World,
    identifier,
    rows_of_all_tables,
    send,
    undone,
)
from tests.webhooks.api.routes import Route

PUBLIC = {"docs", "schema"}
NOT_BY_TOKEN = {"token-list.post"}


def test_every_route_has_a_row_and_every_row_a_route() -> None:
    assert ROUTES.keys() == ROWS.keys()


@pytest.fixture
def callers(
    user: User, other_user: User, staff: User, make_client: MakeClient
) -> dict[str, APIClient]:
    return {
        "anonymous": make_client(None),
        "expired": make_client(user, lifetime=timedelta(seconds=-1)),
        "read-only": make_client(user, "read"),
        "other": make_client(other_user),
        "staff": make_client(staff),
        # Last: it changes rows.
        "owner": make_client(user),
    }


@pytest.mark.parametrize("key", sorted(ROUTES))
def test_access(key: str, world: World, callers: dict[str, APIClient]) -> None:
    route, row = ROUTES[key], ROWS[key]
    # The note of when a token was last used is not what this is about.
    for client in callers.values():
        client.get("/api/v1/event-types")
    before = rows_of_all_tables()

    for caller, client in callers.items():
        with undone():
            response = send(client, route, row, world)

            assert response.status_code == expected(key, row, caller), (
                f"{caller}: {response.content!r}"
            )
            if response.status_code >= 400:
                assert rows_of_all_tables() == before, f"{caller} changed rows"
            if caller in ("other", "staff", "anonymous", "expired"):
                leaked = [text for text in world.texts if text in response.content.decode()]
                assert set(leaked) <= set(named_by(route, world)), caller


def expected(key: str, row: Row, caller: str) -> int:
    if key.split(".")[0] in PUBLIC:
        return 200
    return 401 if key in NOT_BY_TOKEN else row.status_of(caller, ROUTES[key].method)


def named_by(route: Route, world: World) -> list[str]:
    """Ids that the request itself holds, which a problem may repeat."""
    if route.needs_id and route.name != "event-type-detail":
        return [identifier(route, world)]
    named = {"redelivery-list.post": ["delivery"]}.get(f"{route.name}.{route.method}", [])
    return [world.ids[name] for name in named]


def test_unknown_methods_are_405(world: World, callers: dict[str, APIClient]) -> None:
    known: dict[str, set[str]] = {}
    for route in ROUTES.values():
        known.setdefault(route.name, set()).add(route.method)
    for route in ROUTES.values():
        if route.name in PUBLIC:
            continue
        url = reverse(route.name, args=[identifier(route, world)] if route.needs_id else [])
        for method in {"get", "post", "put", "patch", "delete", "options"} - known[route.name]:
            response = getattr(
                callers["staff" if route.name.startswith("queue") else "owner"], method
            )(url)

            assert response.status_code == 405, f"{method} {url}"
            assert response["Content-Type"] == "application/problem+json"
            assert {one.strip().lower() for one in response["Allow"].split(",")} >= known[
                route.name
            ]


@pytest.mark.parametrize("text", ["1", "whk_", "evt_" + "0" * 32, "%00", "a" * 5000, "😀"])
def test_malformed_ids_are_404(text: str, client: APIClient) -> None:
    for route in ROUTES.values():
        if route.needs_id and route.name != "webhook-by-uid":  # its uid may be anything
            url = reverse(route.name, args=["PLACE"]).replace("PLACE", text)

            response = getattr(client, route.method)(url, None)

            assert response.status_code == 404, url
            assert response["Content-Type"] == "application/problem+json"
