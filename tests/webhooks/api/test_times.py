"""Times are spelt and read in UTC, whatever the project's own time zone is."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rest_framework.test import APIClient

from projects.models import User
from tests.webhooks.api.conftest import MakeClient
from tests.webhooks.api.matrix import ROUTES, ROWS, World, send
from tests.webhooks.api.test_door import NEW
from tests.webhooks.api.test_every_route import PUBLIC
from webhooks.api.serializers import TimeField

SHOWING = sorted(key for key in ROUTES.keys() - PUBLIC if ROUTES[key].method == "get")


@pytest.fixture(autouse=True, params=["Europe/Vienna", "America/St_Johns"])
def _zone(request: Any, settings: Any) -> None:
    settings.TIME_ZONE = request.param


def times_in(shown: Any) -> Iterator[str]:
    if isinstance(shown, (dict, list)):
        for value in shown.values() if isinstance(shown, dict) else shown:
            yield from times_in(value)
    elif isinstance(shown, str) and re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:.*", shown):
        yield shown


def test_every_time_is_shown_in_utc(world: World, staff: User, make_client: MakeClient) -> None:
    clients = {is_staff: make_client(staff if is_staff else world.owner) for is_staff in (0, 1)}
    clients[0].post("/api/v1/events", NEW)
    found: list[str] = []

    for key in SHOWING:
        client = clients[ROWS[key].staff is not None]
        response = send(client, ROUTES[key], ROWS[key], world)
        found += times_in(response.json())

    assert len(found) > 20
    assert [time for time in found if not time.endswith("Z")] == []


def test_an_event_has_one_time(client: APIClient) -> None:
    made = client.post("/api/v1/events", NEW).json()

    (listed,) = client.get("/api/v1/events?type=project.deleted").json()["results"]
    assert listed["createdAt"] == made["createdAt"]


def test_times_without_a_zone_are_in_utc(client: APIClient) -> None:
    client.post("/api/v1/events", NEW)
    now = datetime.now(UTC).replace(tzinfo=None)
    since, until = (now + timedelta(minutes=m) for m in (-10, 10))

    listed = client.get(f"/api/v1/events?since={since.isoformat()}&until={until.isoformat()}")

    assert "project.deleted" in [one["type"] for one in listed.json()["results"]]
    assert TimeField().to_internal_value(now.isoformat()) == now.replace(tzinfo=UTC)
