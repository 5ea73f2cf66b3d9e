"""`/events` and `/event-types`: trigger, batch, look, explain, follow."""

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from rest_framework.test import APIClient

from projects.models import User
from tests.concurrency import in_thread
from tests.webhooks.api.conftest import MakeClient
from tests.workers import wait_until
from webhooks import catalog, service
from webhooks.api import events
from webhooks.dispatch.engine import run_until_idle
from webhooks.models import Delivery, Event, Webhook
from webhooks.repair import redelivery_scope
from webhooks.workbench.receiver import HttpReceiver

DATA = {
    "id": "01935710-5a3c-7d2e-9f10-3b6c8e2a4d71",
    "name": "Website",
    "deletedAt": "2026-11-23T10:30:00.123Z",
}
NEW = {"type": "project.deleted", "data": DATA}


def stored(**filters: Any) -> list[Event]:
    return list(Event.objects.filter(type="project.deleted", **filters).order_by("id"))


def test_event_is_stored_with_its_data_untouched(client: APIClient, user: User) -> None:
    data = DATA | {"name": "snake_case Ünïcode 😀 </script> camelCase"}

    response = client.post("/api/v1/events", NEW | {"data": data})

    assert response.status_code == 201
    (event,) = stored(owner_id=user.id)
    assert response.json()["id"] == event.public_id
    assert json.loads(bytes(event.payload))["data"] == data
    assert list(json.loads(bytes(event.payload))["data"]) == list(data)
    assert client.get(f"/api/v1/events/{event.public_id}").json()["data"] == data


@pytest.mark.parametrize(
    ("wish", "code"),
    [
        ({"type": "project.exploded", "data": {}}, "event-type-unknown"),
        ({"type": "project.deleted", "data": {"id": 1}}, "event-data-invalid"),
        ({"type": "project.deleted", "data": DATA | {"more": 1}}, "event-data-invalid"),
        ({"type": "project.deleted", "data": DATA | {"name": "x" * 262_144}}, "event-data-invalid"),
        ({"type": "project.deleted", "data": []}, "invalid"),
        ({"type": "project.deleted"}, "invalid"),
        ({"type": 1.5, "data": DATA, "owner": 1}, "invalid"),
        ({"type": "project.deleted", "data": DATA, "idempotencyKey": ""}, "invalid"),
        ({"type": "project.deleted", "data": DATA, "userId": "nobody"}, "invalid"),
    ],
)
def test_wrong_event_is_refused(client: APIClient, wish: dict[str, Any], code: str) -> None:
    response = client.post("/api/v1/events", wish)

    assert response.status_code == 400
    assert response.json()["type"].endswith(f":{code}")
    assert not stored()


def test_idempotency_key_of_an_event(client: APIClient) -> None:
    first = client.post("/api/v1/events", NEW | {"idempotencyKey": "k"}).json()
    again = client.post("/api/v1/events", NEW | {"idempotencyKey": "k"}).json()
    other = client.post(
        "/api/v1/events", NEW | {"idempotencyKey": "k", "data": DATA | {"name": "b"}}
    )

    assert again["id"] == first["id"]
    assert other.status_code == 409
    assert len(stored()) == 1


def test_only_service_tokens_trigger_for_others(
    client: APIClient, staff: User, other_user: User, make_client: MakeClient
) -> None:
    wish = NEW | {"userId": str(other_user.id)}
    service_client = make_client(staff, "trigger", is_service=True)

    refused = client.post("/api/v1/events", wish)
    refused_batch = client.post("/api/v1/events/batch", {"events": [NEW, wish]})
    assert (refused.status_code, refused_batch.status_code) == (403, 403)
    assert not stored()

    assert service_client.post("/api/v1/events", wish).status_code == 201
    batch = service_client.post("/api/v1/events/batch", {"events": [wish]}).json()
    assert batch["accepted"] == 1
    assert len(stored(owner_id=other_user.id)) == 2


def test_a_service_token_loses_its_power_with_its_user(
    staff: User, other_user: User, make_client: MakeClient
) -> None:
    client = make_client(staff, "trigger", is_service=True)
    User.objects.filter(pk=staff.pk).update(is_staff=False)
    wish = NEW | {"userId": str(other_user.id)}

    refused = client.post("/api/v1/events", wish)
    refused_batch = client.post("/api/v1/events/batch", {"events": [wish]})

    assert (refused.status_code, refused_batch.status_code) == (403, 403)
    assert "Use a service token" in refused.json()["detail"]
    assert not stored()
    assert client.post("/api/v1/events", NEW).status_code == 201


def test_platform_webhooks_hear_nothing_that_owners_say_of_themselves(
    client: APIClient,
    staff: User,
    user: User,
    make_client: MakeClient,
    make_webhook: Callable[..., Webhook],
) -> None:
    own = make_webhook()
    platform = make_webhook(owner=None, is_platform=True)
    service_client = make_client(staff, "trigger", is_service=True)
    said = [
        client.post("/api/v1/events", NEW),
        client.post("/api/v1/events/batch", {"events": [NEW]}),
    ]
    assert [answer.status_code for answer in said] == [201, 200]
    self_reported = stored()

    # Neither then nor by a replay.
    for event in self_reported:
        assert [delivery.webhook_id for delivery in event.deliveries.all()] == [own.id]
        assert redelivery_scope.webhooks_missing(event) == []
        explained = {one.webhook: one for one in service.explain(event).considered}
        assert not explained[platform].matches
        assert "triggered the event" in explained[platform].reason
    wanted = redelivery_scope.Scope(event_type="project.deleted")
    assert not redelivery_scope.missing(platform, wanted).exists()

    # A service is believed.
    wish = NEW | {"userId": str(user.id)}
    service_client.post("/api/v1/events", wish)
    service_client.post("/api/v1/events/batch", {"events": [wish]})
    for event in stored()[2:]:
        reached = event.deliveries.values_list("webhook_id", flat=True)
        assert set(reached) == {own.id, platform.id}


def test_event_of_an_unknown_user_is_refused(staff: User, make_client: MakeClient) -> None:
    client = make_client(staff, is_service=True)
    wish = NEW | {"userId": DATA["id"]}

    assert client.post("/api/v1/events", wish).status_code == 400
    batch = client.post("/api/v1/events/batch", {"events": [wish]}).json()
    assert "no user" in batch["results"][0]["error"]["message"]
    assert not stored()


# Batches.


def test_batch_has_a_result_for_each(
    client: APIClient, make_webhook: Callable[..., Webhook]
) -> None:
    make_webhook(events=["project.deleted"])
    events = [
        NEW,
        {"type": "project.exploded", "data": {}},
        {"type": "project.deleted", "data": {}},
        {"type": "project.deleted"},
        "text",
        None,
        {"type": "project.deleted", "data": DATA, "evil": 1},
        {"type": "project.deleted", "data": DATA, "userId": 7},
        NEW,
    ]

    response = client.post("/api/v1/events/batch", {"events": events})

    assert response.status_code == 200
    batch = response.json()
    assert (batch["accepted"], batch["refused"]) == (2, 7)
    first, last = stored()
    assert [one["id"] for one in batch["results"]] == [
        first.public_id, None, None, None, None, None, None, None, last.public_id,
    ]  # fmt: skip
    codes = [one["error"] and one["error"]["code"] for one in batch["results"]]
    assert codes == [None, "event-type-unknown", *["event-data-invalid"] * 6, None]
    assert Delivery.objects.count() == 2


def test_batch_with_keys_that_are_known(client: APIClient) -> None:
    def keyed(key: str, **changes: Any) -> dict[str, Any]:
        return NEW | {"idempotencyKey": key, "data": DATA | changes}

    before = client.post("/api/v1/events", keyed("old")).json()["id"]
    events = [
        keyed("new"),
        keyed("old"),
        keyed("new"),
        keyed("new", name="b"),
        keyed("old", name="b"),
    ]

    results = client.post("/api/v1/events/batch", {"events": events}).json()["results"]

    assert results[1]["id"] == before
    assert results[0]["id"] == results[2]["id"] != before
    assert [one["error"] and one["error"]["code"] for one in results] == [
        None, None, None, "idempotency-conflict", "idempotency-conflict",
    ]  # fmt: skip
    assert len(stored()) == 2


def test_batch_takes_as_many_statements_as_one_event(
    client: APIClient, make_webhook: Callable[..., Webhook]
) -> None:
    make_webhook()
    client.get("/api/v1/event-types")
    keyed = [NEW | {"idempotencyKey": str(number)} for number in range(1000)]

    def statements(events: list[dict[str, Any]]) -> int:
        with CaptureQueriesContext(connection) as queries:
            batch = client.post("/api/v1/events/batch", {"events": events}).json()
        assert batch["accepted"] == len(events)
        return len(queries)

    one = statements([NEW])

    assert statements([NEW] * 1000) == one
    assert statements(keyed) == one
    assert statements(keyed) == one + 1
    assert len(stored()) == 2001


@pytest.mark.parametrize("events", [[], [NEW] * 1001, {}, "x", None])
def test_batch_of_an_impossible_size_is_refused(client: APIClient, events: Any) -> None:
    assert client.post("/api/v1/events/batch", {"events": events}).status_code == 400
    assert not stored()


def test_batch_is_repeated_by_its_key(client: APIClient) -> None:
    for _ in range(2):
        client.post("/api/v1/events/batch", {"events": [NEW] * 3}, headers={"Idempotency-Key": "k"})

    assert len(stored()) == 3


# Reading.


def test_filters_of_the_list(client: APIClient, user: User) -> None:
    first = service.trigger_event("project.deleted", user, DATA)
    service.trigger_event("webhook.test", user, {"webhookId": "x", "message": "y"})

    def listed(query: str) -> list[str]:
        return [one["id"] for one in client.get(f"/api/v1/events?{query}").json()["results"]]

    assert listed("type=project.deleted") == [first.public_id]
    assert listed("type=user.deleted,project.deleted") == [first.public_id]
    refused = client.get("/api/v1/events?type=project.%25").json()["errors"]
    assert "project.created, project.deleted" in refused[0]["message"]
    assert listed("since=2020-01-01T00:00:00Z&type=project.deleted") == [first.public_id]
    assert listed("until=2020-01-01T00:00:00Z") == []


def test_explanation_says_who_got_it_and_why(
    client: APIClient, user: User, make_webhook: Callable[..., Webhook]
) -> None:
    near, far = make_webhook(), make_webhook(events=["user.created"])
    service.create_webhook(
        None, is_platform=True, name="All", url="http://127.0.0.1:9/", events=["*"]
    )
    event = service.trigger_event("project.deleted", user, DATA)

    shown = client.get(f"/api/v1/events/{event.public_id}?explain=true").json()

    got = {one["webhookId"]: one for one in shown["explanation"]}
    assert got.keys() == {near.public_id, far.public_id}
    assert got[near.public_id]["deliveryId"].startswith("del_")
    assert got[far.public_id]["matches"] is False
    assert "does not select" in got[far.public_id]["reason"]
    assert client.get(f"/api/v1/events/{event.public_id}").json()["explanation"] is None
    assert client.get(f"/api/v1/events/{event.public_id}?explain=1").status_code == 400


def test_erased_event_has_no_data(client: APIClient, user: User) -> None:
    event = service.trigger_event("project.deleted", user, DATA)
    Event.objects.filter(id=event.id).update(payload=b"")

    assert client.get(f"/api/v1/events/{event.public_id}").json()["data"] is None


@pytest.mark.django_db(transaction=True)
def test_feed_follows_the_owners_events(
    user: User, other_user: User, make_client: MakeClient
) -> None:
    client = make_client(user)
    start = client.get("/api/v1/events/feed").json()
    assert start["events"] == []
    event = service.trigger_event("project.deleted", user, DATA)
    service.trigger_event("project.deleted", other_user, DATA)
    service.trigger_event("webhook.test", user, {"webhookId": "x", "message": "y"})

    page = client.get(f"/api/v1/events/feed?after={start['next']}&types=project.*,agent.*").json()

    assert [one["id"] for one in page["events"]] == [event.public_id]
    assert page["events"][0]["type"] == "project.deleted"
    assert page["events"][0]["payload"] == bytes(event.payload).decode()
    rest = client.get(f"/api/v1/events/feed?after={page['next']}").json()
    assert rest["events"] == []
    both = client.get(f"/api/v1/events/feed?after={start['next']}&limit=1").json()
    assert (len(both["events"]), both["hasMore"]) == (1, True)


@pytest.mark.parametrize(
    "query", ["after=x", "after=" + "A" * 5000, "types=nothing.*", "types=,", "limit=0", "owner=1"]
)
def test_feed_refuses_nonsense(client: APIClient, query: str) -> None:
    if "types" in query:
        query += "&after=" + client.get("/api/v1/events/feed").json()["next"]

    assert client.get(f"/api/v1/events/feed?{query}").status_code == 400


def test_catalogue_is_shown_with_schemas_and_examples(client: APIClient) -> None:
    listed = []
    url = "/api/v1/event-types?limit=10"
    while url:
        page = client.get(url).json()
        listed += page["results"]
        url = page["next"]

    assert [one["name"] for one in listed] == [one.name for one in catalog.all_types()]
    one = client.get("/api/v1/event-types/session.ended").json()
    assert one["schema"]["required"] == [
        "id", "projectId", "projectName", "duration", "endedAt",
    ]  # fmt: skip
    catalog.validate_data("session.ended", one["example"])


def test_idempotency_key_is_the_same_by_every_door(client: APIClient) -> None:
    wish = NEW | {"idempotencyKey": " k "}

    first = client.post("/api/v1/events", wish).json()
    (again,) = client.post("/api/v1/events/batch", {"events": [wish]}).json()["results"]

    assert again == {"id": first["id"], "error": None}
    assert [event.idempotency_key for event in stored()] == [" k "]


@pytest.mark.parametrize("key", ["", "x" * 256, 7, True, None, ["k"], "a\0b"])
def test_idempotency_keys_that_cannot_be_are_refused(client: APIClient, key: Any) -> None:
    wish = NEW | {"idempotencyKey": key}

    one = client.post("/api/v1/events", wish)
    many = client.post("/api/v1/events/batch", {"events": [wish]})

    assert one.status_code == 400
    assert many.status_code == 400 or many.json()["accepted"] == 0
    assert not stored()


@pytest.mark.parametrize("reference", ["", "x" * 101, 7, None, ["k"]])
def test_objects_that_cannot_be_are_refused(client: APIClient, reference: Any) -> None:
    wish = NEW | {"object": reference}

    one = client.post("/api/v1/events", wish)
    many = client.post("/api/v1/events/batch", {"events": [wish]})

    assert one.status_code == 400
    assert "object" in json.dumps(one.json())
    assert many.json()["accepted"] == 0
    assert "object" in many.json()["results"][0]["error"]["message"]
    assert not stored()


def test_a_key_used_for_another_object_is_a_conflict(client: APIClient) -> None:
    wish = NEW | {"idempotencyKey": "k", "object": "invoice:1"}

    first = client.post("/api/v1/events", wish)
    again = client.post("/api/v1/events", wish)
    others = [
        client.post("/api/v1/events", NEW | {"idempotencyKey": "k"} | other)
        for other in ({}, {"object": "invoice:2"})
    ]

    assert first.json()["object"] == again.json()["object"] == "invoice:1"
    assert again.json()["id"] == first.json()["id"]
    assert [other.status_code for other in others] == [409, 409]


@pytest.mark.django_db(transaction=True)
def test_events_of_an_object_that_are_triggered_go_in_order(
    client: APIClient,
    user: User,
    make_webhook: Callable[..., Webhook],
    receiver: HttpReceiver,
) -> None:
    make_webhook(url=receiver.url, order="object")
    wishes = [
        NEW | {"object": reference, "data": DATA | {"name": f"{reference} {number}"}}
        for number in range(5)
        for reference in ("invoice:1", "invoice:ä")
    ]

    one = client.post("/api/v1/events", wishes[0]).json()
    client.post("/api/v1/events/batch", {"events": wishes[1:]})
    nameless = client.post("/api/v1/events", NEW).json()
    run_until_idle()

    got: dict[str, list[str]] = {}
    sequences: dict[str, list[int]] = {}
    for request in receiver.requests:
        reference = request.headers.get("x-webhook-object", "")
        got.setdefault(reference, []).append(json.loads(request.body)["data"]["name"])
        sequences.setdefault(reference, []).append(
            int(request.headers.get("x-webhook-sequence", 0))
        )
    assert got == {
        "invoice:1": [f"invoice:1 {number}" for number in range(5)],
        "invoice:%C3%A4": [f"invoice:ä {number}" for number in range(5)],
        "": ["Website"],
    }
    assert all(numbers == sorted(set(numbers)) for numbers in sequences.values())
    assert client.get(f"/api/v1/events/{one['id']}").json()["object"] == "invoice:1"
    assert nameless["object"] is None


def test_an_owner_cannot_take_the_key_of_what_a_service_will_report(
    client: APIClient,
    user: User,
    staff: User,
    make_client: MakeClient,
    make_webhook: Callable[..., Webhook],
) -> None:
    platform = make_webhook(owner=None, is_platform=True)
    billing = make_client(staff, "trigger", is_service=True)
    for name in ("Website", "Other"):
        wish = NEW | {"idempotencyKey": f"inv-{name}"}
        mine = client.post("/api/v1/events", wish)

        theirs = billing.post(
            "/api/v1/events", wish | {"userId": str(user.id), "data": DATA | {"name": name}}
        )

        assert (mine.status_code, theirs.status_code) == (201, 201)
        assert mine.json()["id"] != theirs.json()["id"]
    assert Delivery.objects.filter(webhook=platform).count() == 2


def test_what_a_user_reports_is_no_answer_to_his_service_token(
    staff: User, make_client: MakeClient, make_webhook: Callable[..., Webhook]
) -> None:
    platform = make_webhook(owner=None, is_platform=True)
    plain = make_client(staff, "trigger")
    service_client = make_client(staff, "trigger", is_service=True)
    key = {"Idempotency-Key": "inv-1"}
    for path, body in (("events", NEW), ("events/batch", {"events": [NEW]})):
        mine = plain.post(f"/api/v1/{path}", body, headers=key)
        theirs = service_client.post(f"/api/v1/{path}", body, headers=key)
        again = service_client.post(f"/api/v1/{path}", body, headers=key)

        assert "Idempotency-Replayed" not in theirs
        assert again["Idempotency-Replayed"] == "true"
        assert mine.json() != theirs.json() == again.json()
        key = {"Idempotency-Key": "inv-2"}
    assert Delivery.objects.filter(webhook=platform).count() == 2


@pytest.mark.django_db(transaction=True)
def test_feed_begins_at_a_time(client: APIClient, user: User) -> None:
    service.trigger_event("project.deleted", user, DATA)
    event = service.trigger_event("project.deleted", user, DATA)
    path, moment = "/api/v1/events/feed", event.created_at.isoformat().replace("+00:00", "Z")

    wait_until(lambda: client.get(f"{path}?since=2020-01-01T00:00:00Z&limit=2").json()["events"])
    everything = client.get(f"{path}?since=2020-01-01T00:00:00Z&types=project.*").json()
    since = client.get(f"{path}?since={moment}").json()
    later = client.get(f"{path}?since=2100-01-01T00:00:00Z").json()

    assert [one["id"] for one in everything["events"]] == [one.public_id for one in stored()]
    assert since["events"][-1]["id"] == event.public_id
    assert later["events"] == []
    for query in ("since=yesterday", f"since={moment}&after=x", "wait=0", "wait=21", "wait=x"):
        assert client.get(f"/api/v1/events/feed?{query}").status_code == 400, query


@pytest.fixture
def polling(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set once a feed begins to wait."""
    begun, poll = threading.Event(), events.poll

    def noted(*args: Any) -> Any:
        begun.set()
        return poll(*args)

    monkeypatch.setattr(events, "poll", noted)
    return begun


@pytest.mark.django_db(transaction=True)
def test_feed_waits_for_an_event(client: APIClient, user: User, polling: threading.Event) -> None:
    start = client.get("/api/v1/events/feed").json()["next"]
    answers: list[Any] = []

    waiter = in_thread(
        lambda: answers.append(client.get(f"/api/v1/events/feed?after={start}&wait=20").json())
    )
    assert polling.wait(20)
    event = service.trigger_event("project.deleted", user, DATA)
    waiter.join(20)

    assert [one["id"] for one in answers[0]["events"]] == [event.public_id]


def test_feed_does_not_wait_where_many_wait_already(client: APIClient, monkeypatch: Any) -> None:
    monkeypatch.setattr(events, "waiting", threading.BoundedSemaphore(1))
    events.waiting.acquire()
    monkeypatch.setattr(events, "poll", pytest.fail)

    assert client.get("/api/v1/events/feed?wait=20").json()["events"] == []


@pytest.mark.django_db(transaction=True)
def test_feed_that_waits_ends_with_its_token(
    client: APIClient, user: User, polling: threading.Event
) -> None:
    answers: list[Any] = []
    waiter = in_thread(lambda: answers.append(client.get("/api/v1/events/feed?wait=20")))
    assert polling.wait(20)

    User.objects.filter(pk=user.pk).update(is_active=False)
    waiter.join(10)

    assert [one.status_code for one in answers] == [401]
