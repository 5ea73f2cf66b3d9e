"""`/deliveries` and `/redeliveries`: find them, look into them, send them once more."""

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from rest_framework.test import APIClient

from projects.models import User
from webhooks import service
from webhooks.dispatch.engine import run_until_idle
from webhooks.models import Attempt, Delivery, Redelivery, Webhook
from webhooks.models.delivery import PHASES
from webhooks.repair import redelivery_batches
from webhooks.wire.phases import Phases
from webhooks.workbench.receiver import Behaviour, HttpReceiver

DATA = {
    "id": "01935710-5a3c-7d2e-9f10-3b6c8e2a4d71",
    "name": "Website",
    "deletedAt": "2026-11-23T10:30:00.123Z",
}


@pytest.fixture
def webhook(make_webhook: Callable[..., Webhook]) -> Webhook:
    return make_webhook(events=["project.deleted", "webhook.test"])


@pytest.fixture
def make_delivery(user: User, webhook: Webhook) -> Callable[..., Delivery]:
    def make(**fields: Any) -> Delivery:
        event = service.trigger_event("project.deleted", user, DATA)
        deliveries = Delivery.objects.filter(event=event, webhook=webhook)
        if fields:
            deliveries.update(finished_at=timezone.now(), **fields)
        return deliveries.get()

    return make


def listed(client: APIClient, query: str, path: str = "deliveries") -> list[str]:
    response = client.get(f"/api/v1/{path}?{query}")
    assert response.status_code == 200, response.content
    return [row["id"] for row in response.json()["results"]]


def test_filters(
    client: APIClient, webhook: Webhook, make_delivery: Callable[..., Delivery]
) -> None:
    waiting = make_delivery()
    failed = make_delivery(status="FAILED", response_code=503, attempt_count=1)
    silent = make_delivery(status="FAILED", response_code=None, attempt_count=2)
    done = make_delivery(status="SUCCESS", response_code=204, attempt_count=1)
    everything = [one.public_id for one in (done, silent, failed, waiting)]

    for path in ("deliveries", f"webhooks/{webhook.public_id}/deliveries"):
        assert listed(client, "", path) == everything
        assert listed(client, "status=FAILED", path) == everything[1:3]
        assert listed(client, "responseClass=5xx", path) == [failed.public_id]
        assert listed(client, "responseClass=none", path) == [silent.public_id]
        assert listed(client, "status=FAILED&responseClass=2xx", path) == []
        assert listed(client, "eventType=project.deleted", path) == everything
        assert listed(client, "status=FAILED,SUCCESS&responseClass=2xx,none", path) == [
            everything[0],
            everything[1],
        ]
        assert listed(client, f"event={failed.event.public_id}", path) == [failed.public_id]
        assert listed(client, f"search={failed.public_id}", path) == [failed.public_id]
        assert listed(client, f"search={failed.event.public_id}", path) == [failed.public_id]
        assert listed(client, f"search={webhook.public_id}", path) == everything
        assert listed(client, "since=2020-01-01T00:00:00Z", path) == everything
        assert listed(client, "until=2020-01-01T00:00:00%2B02:00", path) == []
    assert listed(client, f"webhook={webhook.public_id}") == everything


@pytest.mark.parametrize(
    "query",
    [
        "status=failed",
        "status=SENDING%00",
        "status=FAILED,nothing",
        "responseClass=5xx,6xx",
        "eventType=project",
        "status=",
        "status=FAILED&status=SUCCESS",
        "webhook=1",
        "webhook=evt_" + "0" * 32,
        "event=%25",
        "search=project",
        "search=_%25",
        "search=" + "x" * 10_000,
        "search=del_" + "g" * 32,
        "responseClass=5..",
        "eventType=" + "x" * 10_000,
        "eventType=(a%2B)%2B%24",
        "since=yesterday",
        "since=0000-00-00T00:00:00Z",
        "since=0001-01-01T00:00:00%2B14:00",
        "since=9999-12-31T23:59:59-14:00",
        "since=" + "9" * 5000,
        "ordering=webhook__owner__password",
        "webhook__owner__password__startswith=a",
        "webhook_id=1",
        "status__in=FAILED",
        "offset=1000000000000",
        "format=api",
    ],
)
def test_filter_that_makes_no_sense_is_refused_unread(client: APIClient, query: str) -> None:
    with CaptureQueriesContext(connection) as queries:
        response = client.get(f"/api/v1/deliveries?{query}")

    assert response.status_code == 400
    assert not any("webhooks_delivery" in query["sql"] for query in queries)


def test_detail_shows_attempts_the_latest_first(
    client: APIClient, make_delivery: Callable[..., Delivery]
) -> None:
    delivery = make_delivery(status="FAILED")
    for number in (1, 2):
        delivery.attempts.create(
            number=number,
            started_at=timezone.now(),
            duration_ms=12,
            url="https://example.com/",
            request_head="webhook-id: evt_1\nX-Team: (hidden)",
            response_code=500,
            response_head=b"HTTP/1.1 500 Oops\r\nServer: x\r\nServer: y\r\n\r\n",
            response_body=b"<script>alert(1)</script>\xff",
            failure_kind="http_status",
            error="The receiver answered 500.",
        )

    attempts = client.get(f"/api/v1/deliveries/{delivery.public_id}").json()["attempts"]

    assert [one["number"] for one in attempts] == [2, 1]
    assert attempts[0]["requestHeaders"] == [["webhook-id", "evt_1"], ["X-Team", "(hidden)"]]
    assert attempts[0]["responseHeaders"] == [["Server", "x"], ["Server", "y"]]
    assert attempts[0]["responseBody"] == "<script>alert(1)</script>�"
    assert attempts[0]["id"].startswith("att_")


@pytest.mark.django_db(transaction=True)
def test_phases_of_an_attempt_are_stored_and_shown(
    user: User, client: APIClient, make_webhook: Callable[..., Webhook]
) -> None:
    assert Phases._fields == PHASES
    with HttpReceiver() as receiver:
        receiver.behaviour = Behaviour(delay_seconds=0.2)
        make_webhook(url=receiver.url)
        service.trigger_event("webhook.test", user, {"webhookId": "x", "message": "x"})
        run_until_idle()

    delivery = Delivery.objects.get()
    (attempt,) = client.get(f"/api/v1/deliveries/{delivery.public_id}").json()["attempts"]

    phases = attempt["phases"]
    assert list(phases) == list(PHASES)
    assert phases["wait"] >= 195
    assert sum(phases.values()) == pytest.approx(attempt["durationMs"], abs=25)

    Attempt.objects.update(phases_us=None)
    (attempt,) = client.get(f"/api/v1/deliveries/{delivery.public_id}").json()["attempts"]
    assert attempt["phases"] is None


def test_redeliver_one(client: APIClient, make_delivery: Callable[..., Delivery]) -> None:
    delivery = make_delivery(status="SUCCESS", attempt_count=1)

    response = client.post(f"/api/v1/deliveries/{delivery.public_id}/redeliver")

    assert response.status_code == 202
    assert response.json()["queuedCount"] == 1
    delivery.refresh_from_db()
    assert (delivery.status, delivery.round) == ("PENDING", 2)


def test_what_is_in_flight_is_not_redelivered(
    client: APIClient, make_delivery: Callable[..., Delivery]
) -> None:
    delivery = make_delivery(status="SENDING")

    response = client.post(f"/api/v1/deliveries/{delivery.public_id}/redeliver")

    assert response.status_code == 400
    assert "in flight" in response.json()["detail"]


def test_redelivery_by_filter_is_counted_run_and_watched(
    client: APIClient, webhook: Webhook, make_delivery: Callable[..., Delivery]
) -> None:
    for status in ("FAILED", "FAILED", "SUCCESS"):
        make_delivery(status=status)
    wish = {"webhookId": webhook.public_id}

    counted = client.post("/api/v1/redeliveries", wish | {"dryRun": True})
    assert (counted.status_code, counted.json()) == (200, {"matchedCount": 2})
    assert not Redelivery.objects.exists()

    asked = client.post("/api/v1/redeliveries", wish)
    assert asked.status_code == 202
    assert asked.json()["matchedCount"] == 2
    redelivery_batches.run(Redelivery.objects.get().id)
    path = f"/api/v1/redeliveries/{asked.json()['id']}"
    shown = client.get(path).json()
    assert (shown["status"], shown["queuedCount"], shown["isOver"]) == ("done", 2, False)
    Delivery.objects.filter(status="PENDING").update(status="SUCCESS")
    shown = client.get(path).json()
    assert (shown["succeededCount"], shown["failedCount"], shown["isOver"]) == (2, 0, True)


def test_named_deliveries_are_sent_whatever_became_of_them(
    client: APIClient, make_delivery: Callable[..., Delivery]
) -> None:
    done, failed = make_delivery(status="SUCCESS"), make_delivery(status="FAILED")

    asked = client.post("/api/v1/redeliveries", {"deliveryIds": [done.public_id, failed.public_id]})

    assert asked.json()["matchedCount"] == 2


def test_redelivery_of_everything_stays_with_its_owner(
    client: APIClient, other_user: User, make_delivery: Callable[..., Delivery]
) -> None:
    make_delivery(status="FAILED")
    service.create_webhook(other_user, name="a", url="http://127.0.0.1:9/", events=["*"])
    service.trigger_event("project.deleted", other_user, DATA)
    Delivery.objects.update(status="FAILED", finished_at=timezone.now())

    asked = client.post("/api/v1/redeliveries", {"since": "2020-01-01T00:00:00Z"})

    assert asked.json()["matchedCount"] == 1


@pytest.mark.parametrize(
    "wish",
    [
        {},
        {"dryRun": True},
        {"rateLimit": 5},
        {"deliveryIds": [], "webhookId": "whk_" + "0" * 32},
        {"statuses": ["SENDING"]},
        {"statuses": ["nothing"]},
        {"deliveryIds": ["evt_" + "0" * 32]},
        {"deliveryIds": ["del_" + "0" * 32]},
        {"deliveryIds": [{}]},
        {"deliveryIds": ["del_" + "0" * 32] * 1001},
        {"webhookId": "whk_" + "0" * 32},
        {"rateLimit": 0},
        {"since": "2026-11-02T00:00:00Z", "until": "2026-11-01T00:00:00Z"},
        {"replay": True},
        {"replay": True, "webhookId": "whk_" + "0" * 32, "since": "2026-11-02T00:00:00Z"},
        {"owner": 1},
        {"requestedBy": 1},
    ],
)
def test_redelivery_that_makes_no_sense_is_refused(client: APIClient, wish: dict[str, Any]) -> None:
    response = client.post("/api/v1/redeliveries", wish)

    assert response.status_code == 400, response.content
    assert not Redelivery.objects.exists()


@pytest.mark.parametrize(
    "wish",
    [
        {"deliveryIds": []},
        {"statuses": []},
        {"deliveryIds": [], "statuses": ["FAILED"]},
        {"since": "2020-01-01T00:00:00Z", "statuses": []},
    ],
)
def test_empty_selection_selects_nothing(
    client: APIClient, make_delivery: Callable[..., Delivery], wish: dict[str, Any]
) -> None:
    make_delivery(status="FAILED")

    counted = client.post("/api/v1/redeliveries", wish | {"dryRun": True})
    asked = client.post("/api/v1/redeliveries", wish)
    redelivery_batches.run(Redelivery.objects.get().id)

    assert counted.json()["matchedCount"] == asked.json()["matchedCount"] == 0
    assert (Redelivery.objects.get().status, Delivery.objects.get().status) == ("done", "FAILED")


def test_refusal_of_no_selection_says_how_to_say_all(
    client: APIClient, make_delivery: Callable[..., Delivery]
) -> None:
    make_delivery(status="FAILED")

    refused = client.post("/api/v1/redeliveries", {}).json()["detail"]
    asked = client.post("/api/v1/redeliveries", json.loads(refused[refused.index("{") :][:-1]))

    assert asked.json()["matchedCount"] == 1


def test_replay_sends_what_never_was_sent(
    client: APIClient, user: User, make_webhook: Callable[..., Webhook]
) -> None:
    since = timezone.now() - timedelta(minutes=1)
    service.trigger_event("project.deleted", user, DATA)
    webhook = make_webhook(events=["project.deleted"])
    wish = {"replay": True, "webhookId": webhook.public_id, "since": since.isoformat()}

    counted = client.post("/api/v1/redeliveries", wish | {"dryRun": True}).json()
    asked = client.post("/api/v1/redeliveries", wish).json()
    redelivery_batches.run(Redelivery.objects.get().id)

    assert counted == {"matchedCount": 1}
    assert (asked["isReplay"], asked["matchedCount"]) == (True, 1)
    assert Delivery.objects.filter(webhook=webhook).count() == 1


def test_redelivery_is_cancelled_once(client: APIClient, webhook: Webhook, user: User) -> None:
    asked = service.redeliver(service.Scope(webhook_id=webhook.id), requested_by=user)
    path = f"/api/v1/redeliveries/{asked.public_id}/cancel"

    assert client.post(path).json()["status"] == "cancelled"
    assert client.post(path).status_code == 409


def test_what_is_asked_of_an_ordered_webhook_says_that_it_is_not_in_order(
    client: APIClient, user: User, other_user: User, make_webhook: Callable[..., Webhook]
) -> None:
    since = (timezone.now() - timedelta(minutes=1)).isoformat()
    service.trigger_event("project.deleted", user, DATA)
    make_webhook(name="Others", owner=other_user, ordered=True)
    plain, ordered = make_webhook(name="Plain"), make_webhook(name="Ledger", ordered=True)
    event = service.trigger_event("project.deleted", user, DATA)
    of_plain = event.deliveries.get(webhook=plain).public_id
    of_ordered = event.deliveries.get(webhook=ordered).public_id

    def ask(wish: dict[str, Any]) -> list[str]:
        counted = client.post("/api/v1/redeliveries", wish | {"dryRun": True}).json()
        asked = client.post("/api/v1/redeliveries", wish).json()
        shown = client.get(f"/api/v1/redeliveries/{asked['id']}").json()
        assert counted.get("warnings", []) == asked["warnings"] == shown["warnings"]
        return list(asked["warnings"])

    replay = {"replay": True, "since": since}
    for wish in (
        replay | {"webhookId": ordered.public_id},
        {"webhookId": ordered.public_id},
        {"eventId": event.public_id},
        {"deliveryIds": [of_ordered, of_plain]},
        {"statuses": ["PENDING"]},
    ):
        (warning,) = ask(wish)
        assert warning.startswith("Not in order: Ledger receives"), wish
    assert ask(replay | {"webhookId": plain.public_id}) == []
    assert ask({"webhookId": plain.public_id}) == []
    assert ask({"deliveryIds": [of_plain]}) == []
    again = client.post(f"/api/v1/deliveries/{of_ordered}/redeliver").json()
    assert "Ledger" in again["warnings"][0]


def test_delivery_that_waits_is_cancelled_once(
    client: APIClient, make_delivery: Callable[..., Delivery]
) -> None:
    waiting, ended = make_delivery(status="PENDING"), make_delivery(status="SUCCESS")

    cancelled = client.post(f"/api/v1/deliveries/{waiting.public_id}/cancel")
    again = client.post(f"/api/v1/deliveries/{waiting.public_id}/cancel")
    late = client.post(f"/api/v1/deliveries/{ended.public_id}/cancel")

    assert cancelled.json()["status"] == "CANCELLED"
    assert cancelled.json()["error"] == "Cancelled by its owner."
    assert (again.status_code, late.status_code) == (409, 409)


def test_lists_show_the_attempts_where_that_is_asked_for(
    client: APIClient, webhook: Webhook, make_delivery: Callable[..., Delivery]
) -> None:
    deliveries = [make_delivery(status="FAILED", attempt_count=2) for _ in range(3)]
    for delivery in deliveries:
        for number in (1, 2):
            delivery.attempts.create(
                number=number, started_at=timezone.now(), duration_ms=12, url="x", request_head=""
            )
    event = Delivery.objects.select_related("event").get(id=deliveries[0].id).event.public_id

    path = f"/api/v1/webhooks/{webhook.public_id}"

    plain = client.get("/api/v1/deliveries").json()["results"]
    by_event = client.get(f"/api/v1/deliveries?event={event}&include=attempts").json()["results"]
    with CaptureQueriesContext(connection) as queries:
        by_webhook = client.get(f"{path}/deliveries?status=FAILED&include=attempts").json()[
            "results"
        ]

    assert [one["attempts"] for one in plain] == [None] * 3
    assert [[tried["number"] for tried in one["attempts"]] for one in by_webhook] == [[2, 1]] * 3
    assert sum("webhooks_attempt" in query["sql"] for query in queries) == 1
    assert [len(one["attempts"]) for one in by_event] == [2]
    Attempt.objects.bulk_create(
        Attempt(delivery_id=deliveries[0].id, number=n, started_at=timezone.now(), duration_ms=1)
        for n in range(3, 41)
    )
    Delivery.objects.filter(id=deliveries[0].id).update(attempt_count=40)
    (many,) = client.get(f"/api/v1/deliveries?event={event}&include=attempts").json()["results"]
    assert [tried["number"] for tried in many["attempts"]] == list(range(40, 20, -1))
    assert "requestHeaders" not in by_event[0]["attempts"][0]
    assert client.get("/api/v1/deliveries?include=event").status_code == 400
