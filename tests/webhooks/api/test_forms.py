"""`form` of a webhook and of its deliveries, by the API."""

import json
from hashlib import sha256

import pytest
from rest_framework.test import APIClient

from projects.models import Project, User
from webhooks.dispatch.engine import run_until_idle
from webhooks.workbench.receiver import HttpReceiver


@pytest.mark.django_db(transaction=True)
def test_thin_events_lead_to_the_whole(
    client: APIClient, user: User, receiver: HttpReceiver
) -> None:
    new = {"name": "Thin", "url": receiver.url, "events": ["project.created"], "form": "thin"}
    created = client.post("/api/v1/webhooks", new).json()
    receiver.secrets = [created["secret"]]
    project = Project.objects.create(owner=user, name="Website")
    run_until_idle()
    changed = client.patch(f"/api/v1/webhooks/{created['id']}", {"form": "raw"}).json()

    (received,) = receiver.requests
    thin = json.loads(received.body)
    whole = client.get(thin["url"]).json()
    (delivery,) = client.get(f"/api/v1/webhooks/{created['id']}/deliveries").json()["results"]

    assert (created["form"], changed["form"], delivery["form"]) == ("thin", "raw", "thin")
    assert sorted(thin) == ["created", "id", "object", "type", "url"]
    assert thin["object"].endswith(str(project.id))
    assert (whole["id"], whole["data"]["name"]) == (thin["id"], "Website")


def test_a_form_is_one_of_those_there_are(client: APIClient) -> None:
    new = {"name": "X", "url": "http://127.0.0.1:9/", "events": ["*"], "form": "xml"}

    answer = client.post("/api/v1/webhooks", new)

    assert answer.status_code == 400
    assert answer.json()["errors"][0]["pointer"] == "/form"


def test_the_form_is_the_standard_one_by_default(client: APIClient) -> None:
    new = {"name": "X", "url": "http://127.0.0.1:9/", "events": ["*"]}

    assert client.post("/api/v1/webhooks", new).json()["form"] == "standard"


def test_a_form_is_put_by_uid(client: APIClient) -> None:
    path = "/api/v1/webhooks/by-uid/thin"
    plain = {"name": "X", "url": "http://127.0.0.1:9/", "events": ["*"]}

    made = client.put(path, plain | {"form": "thin"})
    again = client.put(path, plain | {"form": "thin"})
    reset = client.put(path, plain)

    assert [answer.status_code for answer in (made, again, reset)] == [201, 200, 200]
    assert [answer.json()["form"] for answer in (made, again, reset)] == [
        "thin",
        "thin",
        "standard",
    ]
    assert made["ETag"] == again["ETag"] != reset["ETag"]


FIELDS = {"name": "X", "url": "http://127.0.0.1:9/", "events": ["project.*"], "form": "fields"}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (["id", "nmae"], "nmae: project.created"),
        ([], "at least one field"),
        (None, "at least one field"),
        (["a.b.c.d.e.f"], "at most 5 keys"),
        (["id"] * 51, "50 are allowed"),
        (["x" * 201], "more than 200"),
    ],
)
def test_fields_are_those_of_the_schemas(
    client: APIClient, fields: list[str] | None, words: str
) -> None:
    answer = client.post("/api/v1/webhooks", FIELDS | {"dataFields": fields})

    assert answer.status_code == 400
    (problem,) = answer.json()["errors"]
    assert problem["pointer"].startswith("/dataFields")
    assert words.lower() in problem["message"].lower()


@pytest.mark.other_shapes
@pytest.mark.django_db(transaction=True)
def test_chosen_fields_are_sent_and_shown(
    client: APIClient, user: User, receiver: HttpReceiver
) -> None:
    new = FIELDS | {"url": receiver.url, "dataFields": ["name", "deletedAt"]}
    created = client.post("/api/v1/webhooks", new).json()
    path = f"/api/v1/webhooks/{created['id']}"
    Project.objects.create(owner=user, name="Website")
    run_until_idle()
    lacking = client.patch(path, {"events": ["payment.*"]})
    changed = client.patch(path, {"dataFields": ["id"]}).json()
    plain = client.patch(path, {"form": "standard"}).json()

    (received,) = receiver.requests
    (row,) = client.get(f"{path}/deliveries").json()["results"]
    delivery = client.get(f"/api/v1/deliveries/{row['id']}").json()
    assert json.loads(received.body)["data"] == {"name": "Website"}
    (attempt,) = delivery["attempts"]
    assert attempt["bodySha256"] == sha256(received.body).hexdigest()
    (summary,) = client.get("/api/v1/deliveries?include=attempts").json()["results"][0]["attempts"]
    assert summary["bodySha256"] == attempt["bodySha256"]
    assert sorted(json.loads(received.body)) == ["created", "data", "id", "type"]
    assert created["dataFields"] == delivery["dataFields"] == ["name", "deletedAt"]
    assert row["form"] == delivery["form"] == created["form"] == "fields"
    assert lacking.json()["errors"][0]["pointer"] == "/dataFields"
    assert (changed["dataFields"], plain["form"]) == (["id"], "standard")


def test_types_without_a_chosen_field_are_named(client: APIClient) -> None:
    made = client.post("/api/v1/webhooks", FIELDS | {"dataFields": ["description"]}).json()

    assert "project.deleted: no field of data is chosen" in made["warnings"][0]


@pytest.mark.django_db(transaction=True)
def test_debounce_is_set_and_superseded_deliveries_say_so(client: APIClient, user: User) -> None:
    new = {"name": "X", "url": "http://127.0.0.1:9/", "events": ["project.updated"], "debounce": 30}
    made = client.post("/api/v1/webhooks", new).json()
    project = Project.objects.create(owner=user, name="Website")
    for name in ("A", "B"):
        project.name = name
        project.save()
    path = f"/api/v1/webhooks/{made['id']}"
    newer, older = client.get(f"{path}/deliveries").json()["results"]
    refused = client.patch(path, {"ordered": True})
    off = client.patch(path, {"debounce": None}).json()

    assert (made["debounce"], off["debounce"]) == (30, None)
    assert (newer["status"], older["status"]) == ("PENDING", "CANCELLED")
    assert older["error"] == f"Superseded by a later event of the same object: {newer['id']}."
    assert refused.json()["errors"][0]["pointer"] == "/debounce"
