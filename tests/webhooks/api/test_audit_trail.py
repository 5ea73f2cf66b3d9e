"""What the API leaves in the audit log: who, what, old and new without secrets, whence (A16)."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from django.conf import settings as django_settings
from rest_framework.test import APIClient

from projects.models import User
from tests.webhooks.api.conftest import MakeClient
from tests.webhooks.api.matrix import ROUTES, ROWS, World, rows_of_all_tables, send
from webhooks import service
from webhooks.models import AuditEntry, Webhook
from webhooks.repair import audit_log

LEFT = {
    "agent-list.post": "agent.create",
    "agent-detail.patch": "agent.change",
    "agent-detail.delete": "agent.delete",
    "delivery-cancel.post": "delivery.cancel",
    "delivery-redeliver.post": "delivery.redeliver",
    "portal-link-list.post": "portallink.create",
    "portal-link-detail.delete": "portallink.revoke",
    "project-list.post": "project.create",
    "project-detail.patch": "project.change",
    "project-detail.delete": "project.delete",
    "queue-pause.post": "sending.pause",
    "queue-resume.post": "sending.resume",
    "queue-retry-failed.post": "redelivery.create",
    "recording-list.post": "recording.create",
    "redelivery-list.post": "redelivery.create",
    "redelivery-cancel.post": "redelivery.cancel",
    "session-list.post": "session.create",
    "token-list.post": "apitoken.create",
    "token-detail.delete": "apitoken.delete",
    "webhook-list.post": "webhook.create",
    "webhook-by-uid.put": "webhook.create",
    "webhook-detail.patch": "webhook.change",
    "webhook-detail.delete": "webhook.delete",
    "webhook-test.post": "webhook.test",
    "webhook-verify.post": "webhook.verify",
    "webhook-enable.post": "webhook.enable",
    "webhook-try-now.post": "webhook.try_now",
    "webhook-disable.post": "webhook.disable",
    "webhook-rotate-secret.post": "secret.rotate",
    "webhook-revoke-secrets.post": "secret.revoke",
}
EVENTS_ARE_THE_RECORD = {
    "agent-connect.post", "agent-disconnect.post", "agent-status.post", "event-batch.post",
    "event-list.post", "recording-complete.post", "recording-fail.post", "session-end.post",
    "session-messages.post", "session-pause.post", "session-resume.post",
}  # fmt: skip


def test_every_route_that_changes_something_has_a_row() -> None:
    changing = {key for key, route in ROUTES.items() if route.method != "get"}
    changing -= {key for key in changing if ROWS[key].scope == "read"}

    assert changing == LEFT.keys() | EVENTS_ARE_THE_RECORD


@pytest.mark.parametrize("key", sorted(LEFT.keys() | EVENTS_ARE_THE_RECORD))
def test_route_leaves_one_entry(
    key: str, world: World, staff: User, make_client: MakeClient
) -> None:
    row = ROWS[key]
    caller = world.owner if row.staff is None or row.owner < 300 else staff
    client = make_client(caller)
    if key == "queue-resume.post":
        service.pause_sending()
    if key == "webhook-enable.post":
        service.disable(Webhook.objects.get())
    if key == "token-list.post":
        caller.set_password("password")
        caller.save(update_fields=["password"])
        client.credentials(HTTP_AUTHORIZATION="Basic YWRhOnBhc3N3b3Jk")  # ada:password

    answer = send(client, ROUTES[key], row, world)

    # A session that is not paused cannot be resumed.
    assert answer.status_code < 300 or key == "session-resume.post", answer.content
    found = [(entry.action, entry.actor_id) for entry in AuditEntry.objects.all()]
    assert found == ([(LEFT[key], caller.pk)] if key in LEFT else [])


def test_entry_says_whence(client: APIClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(django_settings, "WEBHOOKS_TRUSTED_PROXIES", 1)

    client.post(
        "/api/v1/projects",
        {"name": "Shop"},
        HTTP_X_FORWARDED_FOR="10.0.0.1, 198.51.100.7",
        HTTP_X_REQUEST_ID="req-1",
    )

    entry = AuditEntry.objects.get()
    assert (entry.source_address, entry.request_id) == ("198.51.100.7", "req-1")


@pytest.mark.parametrize("address", ["", "unknown", "198.51.100.7:4711"])
def test_what_is_no_address_is_left_out(client: APIClient, address: str) -> None:
    answer = client.post("/api/v1/projects", {"name": "Shop"}, REMOTE_ADDR=address)

    assert answer.status_code == 201
    assert AuditEntry.objects.get().source_address is None


def test_change_tells_old_and_new_of_what_differs(
    client: APIClient, make_webhook: Callable[..., Webhook]
) -> None:
    webhook = make_webhook(headers={"X-Team": "canary-old"})
    wish = {"name": "Shop", "timeout": 15, "headers": {"X-Team": "canary-new"}}

    client.patch(f"/api/v1/webhooks/{webhook.public_id}", wish)

    (entry,) = audit_log.history(webhook)
    assert entry.changes == {"name": ["Orders", "Shop"], "headers": "•••"}


def test_no_secret_is_written_down(client: APIClient, user: User) -> None:
    user.set_password("password")
    user.save(update_fields=["password"])
    browser = APIClient()
    browser.credentials(HTTP_AUTHORIZATION="Basic YWRhOnBhc3N3b3Jk")
    token = browser.post("/api/v1/tokens", {"name": "a", "scopes": ["read"]}).json()["token"]
    body = {"name": "a", "url": "http://127.0.0.1:9/", "events": ["*"], "headers": {"X-A": "hush"}}
    created = client.post("/api/v1/webhooks", body).json()
    rotated = client.post(f"/api/v1/webhooks/{created['id']}/rotate-secret").json()

    written = json.dumps([[e.action, e.changes] for e in AuditEntry.objects.order_by("id")])
    assert [action for action, _ in json.loads(written)] == [
        "apitoken.create",
        "webhook.create",
        "secret.rotate",
    ]
    for secret in (token, created["secret"], rotated["secret"], "hush"):
        assert secret not in written


def test_sent_twice_with_a_key_is_written_once(client: APIClient) -> None:
    for _ in range(2):
        client.post("/api/v1/projects", {"name": "Shop"}, headers={"Idempotency-Key": "1"})

    assert AuditEntry.objects.count() == 1


def test_refused_and_idle_requests_leave_nothing(
    world: World, staff: User, make_client: MakeClient
) -> None:
    client = make_client(staff)
    client.post("/api/v1/projects", {"name": ""})
    client.post("/api/v1/queue/resume")
    client.delete(f"/api/v1/projects/{world.ids['project']}")
    make_client(world.owner).post(
        "/api/v1/redeliveries", {"deliveryIds": [world.ids["delivery"]], "dryRun": True}
    )

    assert not AuditEntry.objects.exists()


def test_second_pause_is_not_written(staff: User, make_client: MakeClient) -> None:
    client = make_client(staff)
    for reason in ("Maintenance", "Again"):
        client.post("/api/v1/queue/pause", {"reason": reason})

    assert [entry.changes["reason"] for entry in AuditEntry.objects.all()] == ["Maintenance"]


@pytest.mark.parametrize(
    "key", sorted(LEFT.keys() - {"webhook-test.post", "webhook-verify.post", "token-list.post"})
)
def test_deed_without_its_entry_is_undone(
    key: str, world: World, staff: User, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    if key == "queue-resume.post":
        service.pause_sending()
    if key == "webhook-enable.post":
        service.disable(Webhook.objects.get())
    client = make_client(world.owner if ROWS[key].staff is None else staff)
    client.get("/api/v1/event-types")  # notes the use of the token
    before = rows_of_all_tables()
    client.raise_request_exception = False

    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError

    monkeypatch.setattr("webhooks.repair.audit_log.record", fails)

    assert send(client, ROUTES[key], ROWS[key], world).status_code == 500
    assert rows_of_all_tables() == before
