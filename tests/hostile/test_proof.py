"""Proof of endpoint: only who runs a receiver can have its webhook verified."""

import ipaddress
import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone
from pytest_django import Settings
from rest_framework.test import APIClient

from webhooks import catalog, service
from webhooks.errors import WebhookUnprovedError
from webhooks.models import Webhook
from webhooks.wire.signing import verify_standard

Answer = Callable[[dict[str, Any]], tuple[int, bytes]]


class ChallengedServer(HTTPServer):
    answer: Answer
    bodies: list[tuple[dict[str, str], bytes]]


class Handler(BaseHTTPRequestHandler):
    server: ChallengedServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.bodies.append(({k.lower(): v for k, v in self.headers.items()}, body))
        status, answer = self.server.answer(json.loads(body)["data"])
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


def echo(data: dict[str, Any]) -> tuple[int, bytes]:
    return 200, data["challenge"].encode()


WRONG: dict[str, Answer] = {
    "ok": lambda data: (200, b"ok"),
    "nothing": lambda data: (204, b""),
    "another": lambda data: (200, data["challenge"][::-1].encode()),
    "more": lambda data: (200, data["challenge"].encode() + b"x"),
    "the whole body": lambda data: (200, json.dumps(data).encode()),
    "a failure": lambda data: (500, data["challenge"].encode()),
    "a redirect": lambda data: (307, data["challenge"].encode()),
}


@pytest.fixture
def server(settings: Settings) -> Iterator[ChallengedServer]:
    settings.WEBHOOKS_ENDPOINT_PROOF = "advise"
    settings.WEBHOOKS_ALLOWED_NETWORKS = [ipaddress.ip_network("127.0.0.0/8")]
    server = ChallengedServer(("127.0.0.1", 0), Handler)
    server.answer, server.bodies = echo, []
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def url_of(server: ChallengedServer) -> str:
    return f"http://127.0.0.1:{server.server_port}/hook"


def test_echo_is_a_proof(
    client: APIClient, server: ChallengedServer, make_webhook: Callable[..., Webhook]
) -> None:
    webhook = make_webhook(url=url_of(server))
    path = f"/api/v1/webhooks/{webhook.public_id}"
    assert "not proved" in client.get(path).json()["warnings"][0]

    answer = client.post(f"{path}/verify").json()

    assert answer == {"verified": True, "responseCode": 200, "error": ""}
    shown = client.get(path).json()
    assert (shown["verified"], shown["warnings"]) == (True, [])
    headers, body = server.bodies[0]
    assert verify_standard(webhook.secret, headers, body, now=int(headers["webhook-timestamp"]))


@pytest.mark.parametrize("name", WRONG)
def test_anything_else_is_none(
    client: APIClient, server: ChallengedServer, make_webhook: Callable[..., Webhook], name: str
) -> None:
    server.answer = WRONG[name]
    webhook = make_webhook(url=url_of(server))

    answer = client.post(f"/api/v1/webhooks/{webhook.public_id}/verify").json()

    assert answer["verified"] is False
    assert answer["error"]
    webhook.refresh_from_db()
    assert webhook.verified is False


def test_a_change_of_server_ends_the_proof(
    client: APIClient, server: ChallengedServer, make_webhook: Callable[..., Webhook]
) -> None:
    webhook = make_webhook(url=url_of(server))
    assert service.prove(webhook).verified
    path = f"/api/v1/webhooks/{webhook.public_id}"

    assert client.patch(path, {"url": url_of(server) + "/more"}).json()["verified"] is True
    assert client.patch(path, {"url": "http://127.0.0.2:9/hook"}).json()["verified"] is False


def test_a_change_meanwhile_is_not_proved(
    server: ChallengedServer, make_webhook: Callable[..., Webhook]
) -> None:
    webhook = make_webhook(url=url_of(server))
    stale = Webhook.objects.get(pk=webhook.pk)
    service.update_webhook(webhook, url="http://127.0.0.2:9/hook")

    assert not service.prove(stale).verified
    webhook.refresh_from_db()
    assert not webhook.verified
    assert server.bodies == []


@pytest.mark.django_db(transaction=True)
def test_a_change_while_the_receiver_answers_is_not_proved(
    server: ChallengedServer, make_webhook: Callable[..., Webhook]
) -> None:
    webhook = make_webhook(url=url_of(server))

    def change_and_echo(data: dict[str, Any]) -> tuple[int, bytes]:
        Webhook.objects.filter(pk=webhook.pk).update(url="http://127.0.0.2:9/hook")
        connection.close()
        return echo(data)

    server.answer = change_and_echo

    assert not service.prove(webhook).verified
    assert not Webhook.objects.get(pk=webhook.pk).verified


def test_challenge_is_built_as_a_delivery_is(
    server: ChallengedServer,
    make_webhook: Callable[..., Webhook],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    webhook = make_webhook(url=url_of(server), headers={"X-Team": "a", "X-Plan": "b"})
    # A rule that became stricter after the header was stored, and a process whose clock is wrong.
    monkeypatch.setattr(
        "webhooks.dispatch.endpoints.header_problem", lambda name, _: name == "X-Plan" and "no"
    )
    ahead = timezone.now() + timedelta(hours=1)
    monkeypatch.setattr("django.utils.timezone.now", lambda: ahead)

    assert service.prove(webhook).verified

    headers, body = server.bodies[0]
    assert headers["x-team"] == "a"
    assert "x-plan" not in headers
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60
    assert json.loads(body)["created"] < catalog.wire_time(ahead)


def test_required_proof_keeps_a_webhook_off(
    client: APIClient,
    server: ChallengedServer,
    make_webhook: Callable[..., Webhook],
    settings: Settings,
) -> None:
    settings.WEBHOOKS_ENDPOINT_PROOF = "require"
    webhook = make_webhook(url=url_of(server))
    path = f"/api/v1/webhooks/{webhook.public_id}"

    assert webhook.active is False
    assert client.post(f"{path}/enable").status_code == 409
    with pytest.raises(WebhookUnprovedError):
        service.enable(webhook)
    assert client.post(f"{path}/verify").json()["verified"] is True
    assert client.get(path).json()["active"] is True

    moved = client.patch(path, {"url": "http://127.0.0.2:9/hook"}).json()
    assert (moved["active"], moved["verified"]) == (False, False)


def test_off_says_nothing(
    client: APIClient, make_webhook: Callable[..., Webhook], settings: Settings
) -> None:
    settings.WEBHOOKS_ENDPOINT_PROOF = "off"
    assert client.get(f"/api/v1/webhooks/{make_webhook().public_id}").json()["warnings"] == []
