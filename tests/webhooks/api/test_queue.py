"""`/queue`: what staff see of everybody's deliveries, and what they can do."""

from collections.abc import Callable

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from projects.models import User
from tests.webhooks.api.conftest import MakeClient
from webhooks import service
from webhooks.models import Chore, Delivery, Pause, Webhook, WorkerHeartbeat

DATA = {
    "id": "01935710-5a3c-7d2e-9f10-3b6c8e2a4d71",
    "name": "Website",
    "deletedAt": "2026-11-23T10:30:00.123Z",
}


@pytest.fixture
def operator(staff: User, make_client: MakeClient) -> APIClient:
    return make_client(staff)


def test_queue_tells_depth_age_and_workers(
    operator: APIClient, user: User, make_webhook: Callable[..., Webhook]
) -> None:
    make_webhook(events=["project.deleted"])
    service.trigger_event("project.deleted", user, DATA)
    worker = WorkerHeartbeat.objects.create(host="box", pid=7, in_flight=3)

    queue = operator.get("/api/v1/queue").json()

    assert (queue["due"], queue["unfinished"], queue["isPaused"]) == (1, 1, False)
    assert queue["oldestDueSeconds"] >= 0
    assert queue["pauseReason"] is None
    (shown,) = queue["workers"]
    assert (shown["id"], shown["inFlight"], shown["isAlive"]) == (str(worker.id), 3, True)


def test_queue_tells_which_chores_fail(operator: APIClient) -> None:
    Chore.objects.create(name="mails", failures=2, last_error="ConnectionRefusedError: No")

    queue = operator.get("/api/v1/queue").json()

    assert queue["chores"] == [
        {
            "name": "mails",
            "finishedAt": None,
            "failures": 2,
            "lastError": "ConnectionRefusedError: No",
            "isUnderWay": False,
            "isOverdue": False,
        }
    ]


def test_pause_and_resume(operator: APIClient, staff: User) -> None:
    paused = operator.post("/api/v1/queue/pause", {"reason": "Database upgrade"}).json()
    again = operator.post("/api/v1/queue/pause", {"reason": "Another"}).json()

    assert paused["isPaused"]
    assert again["pauseReason"] == "Database upgrade"
    assert Pause.objects.get().paused_by == staff
    assert operator.post("/api/v1/queue/resume").json()["isPaused"] is False
    assert operator.post("/api/v1/queue/resume").json()["isPaused"] is False
    assert not Pause.objects.exists()


def test_failed_ones_are_retried_by_a_redelivery(
    operator: APIClient, user: User, make_webhook: Callable[..., Webhook]
) -> None:
    webhook = make_webhook(events=["project.deleted"])
    service.trigger_event("project.deleted", user, DATA)
    Delivery.objects.update(status="FAILED", finished_at=timezone.now())

    by_user = operator.post("/api/v1/queue/retry-failed", {"userId": str(user.id)})
    by_webhook = operator.post("/api/v1/queue/retry-failed", {"webhookId": webhook.public_id})
    of_all = operator.post("/api/v1/queue/retry-failed")

    assert by_user.status_code == by_webhook.status_code == 202
    assert by_user.json()["matchedCount"] == by_webhook.json()["matchedCount"] == 1
    assert of_all.status_code == 400
    assert "Select the deliveries" in of_all.json()["detail"]


def test_who_is_no_operator_any_more_sees_and_stops_nothing_of_others(
    operator: APIClient, staff: User, user: User, make_webhook: Callable[..., Webhook]
) -> None:
    make_webhook(events=["project.deleted"])
    service.trigger_event("project.deleted", user, DATA)
    Delivery.objects.update(status="FAILED", finished_at=timezone.now())
    asked = operator.post("/api/v1/queue/retry-failed", {"userId": str(user.id)}).json()
    url = f"/api/v1/redeliveries/{asked['id']}"
    assert operator.get(url).status_code == 200

    User.objects.filter(pk=staff.pk).update(is_staff=False)

    assert operator.get(url).status_code == 404
    assert operator.post(f"{url}/cancel").status_code == 404
