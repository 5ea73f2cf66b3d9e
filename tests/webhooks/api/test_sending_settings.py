"""Order, batches, chosen fields, versions and debounce of a webhook, by HTTP."""

import json
from typing import Any

import jsonschema_rs
import pytest
import yaml
from rest_framework.test import APIClient

from projects.models import User
from webhooks.api.schema import BATCH
from webhooks.dispatch.engine import run_until_idle
from webhooks.models import Webhook
from webhooks.workbench.receiver import HttpReceiver, Received

pytestmark = pytest.mark.django_db
NEW: dict[str, Any] = {"name": "X", "url": "http://127.0.0.1:9/", "events": ["project.deleted"]}
EVENT = {
    "type": "project.deleted",
    "data": {
        "id": "01935710-5a3c-7d2e-9f10-3b6c8e2a4d71",
        "name": "Website",
        "deletedAt": "2026-11-23T10:30:00.123Z",
    },
}
DEFAULTS = {
    "order": "none", "ordered": False, "batchEvents": 1, "batchBytes": 1_000_000,
    "batchMilliseconds": 0, "dataFields": None, "debounce": None,
}  # fmt: skip


def test_settings_of_sending_are_made_shown_and_changed(client: APIClient) -> None:
    wish = {
        "order": "object", "batchEvents": 100, "batchBytes": 50_000, "batchMilliseconds": 500,
    }  # fmt: skip
    plain = client.post("/api/v1/webhooks", NEW).json()
    made = client.post("/api/v1/webhooks", NEW | wish).json()
    path = f"/api/v1/webhooks/{made['id']}"
    changed = client.patch(path, {"batchEvents": 7}).json()
    shown = client.get(path).json()
    reset = client.patch(path, {"order": "none", "batchEvents": 1, "debounce": 60}).json()
    put = client.put("/api/v1/webhooks/by-uid/x", NEW | wish).json()
    put_again = client.put("/api/v1/webhooks/by-uid/x", NEW).json()

    assert DEFAULTS.items() <= plain.items()
    assert (DEFAULTS | wish | {"ordered": True}).items() <= made.items()
    assert (wish | {"batchEvents": 7}).items() <= changed.items()
    assert shown == changed
    assert (reset["order"], reset["batchEvents"], reset["debounce"]) == ("none", 1, 60)
    assert wish.items() <= put.items()
    assert DEFAULTS.items() <= put_again.items()


@pytest.mark.parametrize(
    ("wish", "pointer", "words"),
    [
        ({"batchEvents": 0}, "/batchEvents", "greater than or equal to 1"),
        ({"batchEvents": 1001}, "/batchEvents", "less than or equal to 1000"),
        ({"batchEvents": "many"}, "/batchEvents", "number"),
        ({"batchEvents": None}, "/batchEvents", "null"),
        ({"batchBytes": 999}, "/batchBytes", "greater than or equal to 1000"),
        ({"batchBytes": 4_000_001}, "/batchBytes", "less than or equal to 4000000"),
        ({"batchMilliseconds": -1}, "/batchMilliseconds", "greater than or equal to 0"),
        ({"batchMilliseconds": 5001}, "/batchMilliseconds", "less than or equal to 5000"),
        ({"batchEvents": 2, "order": "all"}, "/batchEvents", "go in no batch"),
        ({"batchEvents": 2, "ordered": True}, "/batchEvents", "go in no batch"),
        (
            {"batchEvents": 2, "form": "cloudevents-binary"},
            "/batchEvents",
            "standard, thin, cloudevents",
        ),
        ({"batchEvents": 2, "form": "raw"}, "/batchEvents", "standard, thin, cloudevents"),
        ({"debounce": 0}, "/debounce", "greater than or equal to 1"),
        ({"debounce": 3601}, "/debounce", "less than or equal to 3600"),
        ({"debounce": 60, "order": "object"}, "/debounce", "order"),
        ({"debounce": 60, "order": "all"}, "/debounce", "order"),
        ({"order": "sorted"}, "/order", "sorted"),
        ({"version": "2026-05-05"}, "/version", "2026-01-01"),
        ({"version": "yesterday"}, "/version", "YYYY-MM-DD"),
        ({"form": "fields", "dataFields": ["nmae"]}, "/dataFields", "nmae"),
    ],
)
def test_what_cannot_be_is_refused_in_words(
    client: APIClient, wish: dict[str, Any], pointer: str, words: str
) -> None:
    kept = client.put("/api/v1/webhooks/by-uid/kept", NEW).json()
    kept.pop("secret")

    created = client.post("/api/v1/webhooks", NEW | wish)
    changed = client.patch(f"/api/v1/webhooks/{kept['id']}", wish)
    put = client.put("/api/v1/webhooks/by-uid/kept", NEW | wish)

    for response in (created, changed, put):
        assert response.status_code == 400
        (problem,) = response.json()["errors"]
        assert problem["pointer"] == pointer
        assert words in problem["message"]
    assert client.get(f"/api/v1/webhooks/{kept['id']}").json() == kept
    assert Webhook.objects.count() == 1


@pytest.mark.parametrize(
    ("before", "wish", "pointer"),
    [
        ({"batchEvents": 10}, {"order": "all"}, "/batchEvents"),
        ({"batchEvents": 10}, {"ordered": True}, "/batchEvents"),
        ({"batchEvents": 10}, {"form": "raw"}, "/batchEvents"),
        ({"order": "all"}, {"batchEvents": 10}, "/batchEvents"),
        ({"form": "raw"}, {"batchEvents": 10}, "/batchEvents"),
        ({"debounce": 10}, {"order": "object"}, "/debounce"),
        ({"order": "object"}, {"debounce": 10}, "/debounce"),
    ],
)
def test_a_change_is_judged_beside_what_stays(
    client: APIClient, before: dict[str, Any], wish: dict[str, Any], pointer: str
) -> None:
    made = client.post("/api/v1/webhooks", NEW | before).json()
    made.pop("secret")

    refused = client.patch(f"/api/v1/webhooks/{made['id']}", wish)

    assert refused.status_code == 400
    assert [one["pointer"] for one in refused.json()["errors"]] == [pointer]
    assert client.get(f"/api/v1/webhooks/{made['id']}").json() == made


@pytest.mark.django_db(transaction=True)
def test_a_batch_arrives_as_the_description_has_it(
    client: APIClient, user: User, receiver: HttpReceiver
) -> None:
    new = NEW | {"url": receiver.url, "order": "object", "batchEvents": 100}
    receiver.secrets = [client.post("/api/v1/webhooks", new).json()["secret"]]
    wishes = [EVENT | {"object": f"project:{number}"} for number in range(3)]
    client.post("/api/v1/events/batch", {"events": wishes})
    run_until_idle()

    (request,) = receiver.requests
    described = yaml.safe_load(client.get("/api/v1/schema").content)["webhooks"][BATCH]["post"]
    schema = described["requestBody"]["content"]["application/json"]["schema"]
    jsonschema_rs.Draft202012Validator(schema).validate(json.loads(request.body))
    assert len(json.loads(request.body)) == 3
    assert request.headers["x-webhook-batch"] == "3"
    assert names_of_ours(request) == {one["name"].lower() for one in described["parameters"]}
    assert request.standard_ok
    assert request.hex_ok


def names_of_ours(request: Received) -> set[str]:
    """Return the names of the headers that are about the event, and User-Agent."""
    return {
        name.lower()
        for name in request.headers
        if name.lower().startswith(("webhook-", "x-webhook-", "user-agent"))
    }
