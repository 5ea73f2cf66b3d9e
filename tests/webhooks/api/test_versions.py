"""Dated versions by the API: pinned, shown in the catalogue, tried on a stored event."""

import json
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import pytest
from rest_framework.test import APIClient

from projects.models import User
from tests.webhooks.dispatch.test_versions import DATA, SHAPES
from tests.webhooks.versions import NAME, SECOND, THIRD, parcels
from webhooks import service
from webhooks.api.schema import describe_webhooks
from webhooks.catalog import FIRST_VERSION
from webhooks.management import events_page
from webhooks.models import Delivery

pytestmark = pytest.mark.django_db
NEW: dict[str, Any] = {"name": "X", "url": "http://127.0.0.1:9/", "events": ["parcel.*"]}


@pytest.fixture(autouse=True)
def _parcel() -> Iterator[None]:
    with parcels():
        yield


def test_a_webhook_pins_a_version_until_its_owner_upgrades_it(client: APIClient) -> None:
    path = "/api/v1/webhooks/by-uid/x"
    newest = client.post("/api/v1/webhooks", NEW).json()
    pinned = client.put(path, NEW | {"version": "2026-01-01"}).json()
    kept = client.put(path, NEW | {"name": "Y"}).json()
    upgraded = client.patch(f"/api/v1/webhooks/{pinned['id']}", {"version": "2026-06-01"}).json()
    unknown = client.patch(f"/api/v1/webhooks/{pinned['id']}", {"version": "2026-06-02"})

    versions = [one["version"] for one in (newest, pinned, kept, upgraded)]
    assert versions == ["2026-11-01", "2026-01-01", "2026-01-01", "2026-06-01"]
    assert "deprecated version" in pinned["warnings"][0]
    (problem,) = unknown.json()["errors"]
    assert (unknown.status_code, problem["pointer"]) == (400, "/version")
    assert "2026-11-01, 2026-06-01, 2026-01-01" in problem["message"]


def test_the_catalogue_has_every_version(client: APIClient) -> None:
    shown = client.get(f"/api/v1/event-types/{NAME}").json()
    plain = client.get("/api/v1/event-types/project.created").json()

    assert (shown["version"], plain["version"], plain["older"]) == ("2026-11-01", "2026-01-01", [])
    assert [(one["date"], one["deprecated"]) for one in shown["older"]] == [
        ("2026-06-01", None),
        ("2026-01-01", "2026-11-20"),
    ]
    assert sorted(shown["older"][1]["example"]) == ["id", "place", "weight"]
    assert sorted(shown["older"][0]["schema"]["properties"]) == [
        "height",
        "id",
        "location",
        "weight",
    ]


def test_the_description_and_the_page_of_events_have_every_version() -> None:
    described: dict[str, Any] = describe_webhooks({}, None, None, True)["webhooks"]
    content = described[NAME]["post"]["requestBody"]["content"]["application/json"]
    page = events_page.render()

    shapes = content["schema"]["oneOf"]
    assert [one["title"] for one in shapes] == [
        "Version 2026-11-01", "Version 2026-06-01", "Version 2026-01-01"
    ]  # fmt: skip
    assert sorted(shapes[2]["properties"]["data"]["properties"]) == ["id", "place", "weight"]
    assert "#### parcel.updated, version 2026-01-01" in page
    assert "Deprecated since 2026-11-20." in page


def test_an_event_is_shown_in_both_versions_and_any_form(client: APIClient, user: User) -> None:
    event = service.trigger_event(NAME, user, DATA)
    path = f"/api/v1/events/{event.public_id}/rendered"

    every = client.get(path).json()["versions"]
    both = client.get(path, {"version": "2026-11-01,2026-06-01", "form": "raw"}).json()
    few = client.get(
        path, {"form": "fields", "dataFields": "place", "version": "2026-01-01"}
    ).json()
    binary = client.get(path, {"form": "cloudevents-binary"}).json()["versions"][0]

    assert [one["version"] for one in every] == [one.isoformat() for one in SHAPES]
    assert [json.loads(one["body"])["data"] for one in every] == list(SHAPES.values())
    assert every[0]["bodySha256"] == sha256(bytes(event.payload)).hexdigest()
    assert [json.loads(one["body"]) for one in both["versions"]] == [DATA, SHAPES[SECOND]]
    assert json.loads(few["versions"][0]["body"])["data"] == {"place": "Kiel"}
    assert f"ce-id: {event.public_id}" in binary["headers"]


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ({"version": "yesterday"}, "version"),
        ({"version": "2026-05-05"}, "version"),
        ({"form": "xml"}, "form"),
        ({"form": "fields"}, "dataFields"),
        ({"form": "fields", "dataFields": "nmae"}, "dataFields"),
        ({"dataFields": ",".join(["id"] * 60)}, "dataFields"),
        ({"fields": "id"}, "fields"),
    ],
)
def test_what_no_webhook_could_ask_for_is_refused(
    client: APIClient, user: User, query: dict[str, str], parameter: str
) -> None:
    event = service.trigger_event(NAME, user, DATA)

    answer = client.get(f"/api/v1/events/{event.public_id}/rendered", query)

    assert answer.status_code == 400
    assert answer.json()["errors"][0]["parameter"] == parameter


def test_a_delivery_says_which_version_it_keeps(client: APIClient, user: User) -> None:
    for version in (THIRD, FIRST_VERSION):
        service.create_webhook(user, **NEW, version=version)
    service.trigger_event(NAME, user, DATA)

    shown = [
        client.get(f"/api/v1/deliveries/{one.public_id}").json()
        for one in Delivery.objects.order_by("webhook_id")
    ]

    assert [(one["form"], one["version"]) for one in shown] == [
        ("standard", None),
        ("standard", "2026-01-01"),
    ]
    assert {one["form"] for one in client.get("/api/v1/deliveries").json()["results"]} == {
        "standard"
    }


def test_no_foreign_event_is_rendered(client: APIClient, other_user: User) -> None:
    event = service.trigger_event(NAME, other_user, DATA)

    assert client.get(f"/api/v1/events/{event.public_id}/rendered").status_code == 404
