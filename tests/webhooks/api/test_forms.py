"""`form` of a webhook and of its deliveries, by the API."""

import json

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
