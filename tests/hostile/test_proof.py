"""Proof of endpoint: only who runs a receiver can have its webhook verified."""

import ipaddress
import json
import socket
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

from projects.models import User
from tests.workers import wait_until
from webhooks import catalog, service
from webhooks.errors import WebhookUnprovedError
from webhooks.models import Webhook
from webhooks.repair import housekeeping
from webhooks.repair.proof import PAUSES_SECONDS, Challenges
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


def claim_and_send() -> None:
    Webhook.objects.exclude(proof_due_at=None).update(proof_due_at=timezone.now())
    challenges = Challenges()
    while challenges.send_due() or challenges.has_any_under_way:
        pass


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("policy", ["advise", "require"])
def test_new_and_moved_webhooks_get_a_challenge_by_themselves(
    server: ChallengedServer, make_webhook: Callable[..., Webhook], settings: Settings, policy: str
) -> None:
    settings.WEBHOOKS_ENDPOINT_PROOF = policy
    webhook = make_webhook(url=url_of(server))
    assert housekeeping.keep_house() in (True, False)
    wait_until(lambda: Webhook.objects.get(pk=webhook.pk).verified)
    webhook.refresh_from_db()
    assert (webhook.active, webhook.proof_due_at) == (True, None)

    service.update_webhook(webhook, url=url_of(server).replace("127.0.0.1", "127.0.0.2"))
    assert not webhook.verified
    service.update_webhook(webhook, url=url_of(server))
    claim_and_send()
    webhook.refresh_from_db()
    assert (webhook.verified, webhook.active) == (True, True)
    assert len(server.bodies) == 2


@pytest.mark.django_db(transaction=True)
def test_a_receiver_without_proof_is_asked_a_few_times_and_its_owner_told(
    client: APIClient, server: ChallengedServer, make_webhook: Callable[..., Webhook]
) -> None:
    server.answer = WRONG["ok"]
    webhook = make_webhook(url=url_of(server))
    path = f"/api/v1/webhooks/{webhook.public_id}"
    assert "challenge now" in client.get(path).json()["warnings"][0]
    pauses = []
    for _ in range(len(PAUSES_SECONDS) + 1):
        claim_and_send()
        webhook.refresh_from_db()
        due_at = webhook.proof_due_at
        pauses.append(due_at and round((due_at - timezone.now()).total_seconds(), -1))

    assert pauses == [*PAUSES_SECONDS, None]
    assert len(server.bodies) == len(pauses) == webhook.proof_failures
    (warning,) = client.get(path).json()["warnings"]
    assert "data.challenge" in warning
    assert "no more by ourselves" in warning
    claim_and_send()
    assert len(server.bodies) == len(pauses)


@pytest.mark.django_db(transaction=True)
def test_no_challenge_goes_out_while_sending_is_off(
    server: ChallengedServer, make_webhook: Callable[..., Webhook], user: User
) -> None:
    webhook = make_webhook(url=url_of(server))
    for stop, go_on in (
        (service.pause_sending, service.resume_sending),
        (lambda: service.disable(webhook, "by hand"), lambda: service.enable(webhook)),
        (
            lambda: User.objects.filter(pk=user.pk).update(is_active=False),
            lambda: User.objects.filter(pk=user.pk).update(is_active=True),
        ),
    ):
        stop()
        claim_and_send()
        assert server.bodies == []
        go_on()
    webhook.refresh_from_db()
    assert webhook.proof_failures == 0
    claim_and_send()
    assert len(server.bodies) == 1


@pytest.mark.django_db(transaction=True)
def test_a_receiver_that_hangs_delays_only_its_owner(
    server: ChallengedServer, make_webhook: Callable[..., Webhook], other_user: User
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        hanging = [make_webhook(url=url, timeout_seconds=4) for _ in range(3)]
        other = make_webhook(url=url_of(server), owner=other_user)
        challenges = Challenges()
        began = time.monotonic()
        challenges.send_due()
        assert Webhook.objects.get(pk=other.pk).verified
        assert time.monotonic() - began < 3.5
        tried = Webhook.objects.filter(proof_due_at__gt=timezone.now() + timedelta(seconds=30))
        assert tried.filter(pk__in=[one.pk for one in hanging]).count() == 1
        while challenges.has_any_under_way:
            challenges.send_due()


def test_off_says_nothing(
    client: APIClient, make_webhook: Callable[..., Webhook], settings: Settings
) -> None:
    settings.WEBHOOKS_ENDPOINT_PROOF = "off"
    assert client.get(f"/api/v1/webhooks/{make_webhook().public_id}").json()["warnings"] == []
