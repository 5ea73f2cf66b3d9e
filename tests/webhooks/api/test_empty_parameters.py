"""A parameter that says nothing, such as a variable that is not set, must not mean everything."""

import pytest
from rest_framework.test import APIClient

from tests.webhooks.api.matrix import World

FILTERS = {
    "/webhooks": ("uid", "active", "since", "until"),
    "/deliveries": (
        "webhook", "event", "search", "status", "eventType", "responseClass", "since", "include",
    ),
    "/events": ("type", "since", "until"),
    "/events/feed": ("types", "after", "since"),
    "/sessions": ("project", "status", "since"),
    "/recordings": ("session", "status"),
    "/agents": ("status",),
    "/projects": ("archived",),
}  # fmt: skip
NOTHING = ["", " ", "\t", "\u00a0", ",", " , ", ",,"]


@pytest.mark.parametrize("value", NOTHING)
@pytest.mark.parametrize(
    ("path", "name"), [(path, name) for path, names in FILTERS.items() for name in names]
)
def test_parameter_that_says_nothing_is_refused_or_finds_nothing(
    client: APIClient, world: World, path: str, name: str, value: str
) -> None:
    answer = client.get(f"/api/v1{path}", {name: value})

    if answer.status_code != 400:
        found = answer.json()
        assert (answer.status_code, found.get("results", found.get("events"))) == (200, [])


@pytest.mark.parametrize("value", ["{},", ",{}", "{},,{}", "{}, "])
@pytest.mark.parametrize(
    ("name", "good"), [("status", "FAILED"), ("responseClass", "2xx"), ("eventType", "user.created")]
)  # fmt: skip
def test_value_that_is_missing_between_commas_is_refused(
    client: APIClient, world: World, name: str, good: str, value: str
) -> None:
    answer = client.get("/api/v1/deliveries", {name: value.format(good, good)})
    assert (answer.status_code, answer.json()["errors"][0]["parameter"]) == (400, name)
