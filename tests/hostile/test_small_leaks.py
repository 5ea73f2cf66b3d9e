"""Guesses, oracles, and what a stranger's text does to a terminal."""

import tempfile
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import Client, RequestFactory
from rest_framework.test import APIClient

from config.embedded.places import EmbeddedServiceError, reachable_home
from projects.models import User
from tests.config.test_settings import load
from tests.webhooks.admin.conftest import (  # noqa: F401
    delivery,
    event,
    samples,
    webhook,
)
from tests.webhooks.admin.every_url import every_url
from tests.webhooks.api.matrix import World
from webhooks import service
from webhooks.management.terminal import harmless
from webhooks.models import Attempt, AuditEntry, Delivery, Webhook
from webhooks.wire.header_rules import header_problem
from webhooks.wire.signing import (
    SigningKey,
    generate_secret,
    sign_hex,
    sign_standard,
    verify_request,
)

PASSWORD = "a long password 1"
TRIES = 30


@pytest.fixture
def root(db: None) -> User:
    user: User = User.objects.create_superuser("root", "root@example.com", PASSWORD)
    return user


def from_address(user: User, address: str) -> Client:
    client = Client(REMOTE_ADDR=address)
    client.force_login(user)
    return client


@pytest.mark.parametrize("is_spread", [False, True], ids=["one address", "many addresses"])
def test_reveal_form_takes_few_guesses(
    root: User, make_webhook: Callable[..., Webhook], is_spread: bool
) -> None:
    page = f"/admin/webhooks/webhook/{make_webhook().pk}/reveal-secrets/"
    statuses = []
    for number in range(TRIES):
        client = from_address(root, f"192.0.2.{number if is_spread else 1}")
        statuses.append(client.post(page, {"reason": "x", "password": f"guess {number}"}))

    codes = [one.status_code for one in statuses]
    assert codes == [422] * 10 + [429] * (TRIES - 10)
    assert AuditEntry.objects.filter(action="secret.refuse", actor_id=root.pk).count() == 10
    right = from_address(root, "192.0.2.99").post(page, {"reason": "x", "password": PASSWORD})
    assert right.status_code == 429
    assert b"whsec_" not in right.content


def test_password_form_takes_few_guesses(root: User) -> None:
    client = from_address(root, "192.0.2.1")
    codes = [
        client.post(
            "/admin/password_change/",
            {"old_password": f"guess {number}", "new_password1": "n3w passw0rd", "new_password2": "n3w passw0rd"},
        ).status_code
        for number in range(TRIES)
    ]  # fmt: skip

    assert codes == [200] * 10 + [429] * (TRIES - 10)
    assert AuditEntry.objects.filter(action="password.refuse", actor_id=root.pk).count() == 10


def test_kind_does_not_tell_whether_a_name_of_ours_exists(client: APIClient, world: World) -> None:
    shown = []
    for kind in ("dns", "blocked_address"):
        Attempt.objects.update(failure_kind=kind, error="")
        Delivery.objects.update(failure_kind=kind)
        answer = client.get(f"/api/v1/deliveries/{world.ids['delivery']}").json()
        shown.append((answer["failureKind"], answer["attempts"][0]["failureKind"]))
    assert shown == [("dns", "dns")] * 2


def test_stronger_signature_that_does_not_fit_is_not_made_good_by_the_weaker() -> None:
    secret, body, now = generate_secret(), b"{}", int(time.time())
    key = SigningKey.from_secret(secret)
    good = {
        "webhook-id": "evt_1",
        "webhook-timestamp": str(now),
        "webhook-signature": sign_standard([key], "evt_1", now, body),
    }
    weak = {"x-webhook-timestamp": str(now), "x-webhook-signature": sign_hex(key, now, body)}

    def accepts(headers: dict[str, str]) -> bool:
        request = RequestFactory().post("/", body, "application/json", headers=headers)
        return verify_request(request, secret)

    assert accepts(good)
    assert accepts(weak)
    assert accepts(good | weak)
    for name in good:
        assert not accepts(good | weak | {name: "other"})
        assert not accepts(weak | {name: "other"})


STEERING = [
    "X-Original-URL",
    "X-Rewrite-URL",
    "X-HTTP-Method-Override",
    "X-HTTP-Method",
    "X-Method-Override",
    "Metadata",
    "Metadata-Flavor",
    "X-aws-ec2-metadata-token",
    "X-aws-ec2-metadata-token-ttl-seconds",
    "X-Google-Metadata-Request",
    "X-Vault-Request",
    "Remote-User",
    "X-Remote-User",
    "X-Client-IP",
    "True-Client-IP",
    "CF-Connecting-IP",
    "X-Forwarded",
    "X-Auth-Request-User",
    "X-Goog-IAP-JWT-Assertion",
    "X-Amzn-Oidc-Identity",
    "X-MS-CLIENT-PRINCIPAL-NAME",
    "X-Envoy-Original-Path",
    "X-Accel-Redirect",
    "Impersonate-User",
    "X-SSL-Client-Cert",
    "X-Remote-Group",
]


@pytest.mark.parametrize("name", STEERING)
def test_headers_that_steer_or_claim_are_refused(name: str) -> None:
    for spelled in (name, name.lower(), name.upper(), name.replace("-", "_")):
        assert header_problem(spelled, "x"), spelled


@pytest.mark.parametrize("variable", ["WEBHOOKS_FORBIDDEN_NETWORKS", "WEBHOOKS_ALLOWED_NETWORKS"])
@pytest.mark.parametrize(
    "network", ["::ffff:10.0.0.0/104", "::ffff:0:0/96", "::ffff:1.2.3.4", "::/0"]
)
def test_network_without_effect_is_refused(
    monkeypatch: pytest.MonkeyPatch, variable: str, network: str
) -> None:
    monkeypatch.setenv(variable, network)
    with pytest.raises(ImproperlyConfigured, match="write them as IPv4"):
        load()


def test_count_of_webhooks_leaves_out_the_platforms(
    client: APIClient, user: User, make_webhook: Callable[..., Webhook]
) -> None:
    make_webhook()
    make_webhook(owner=None, is_platform=True)
    data = {
        "id": "01935710-5a3c-7d2e-9f10-3b6c8e2a4d71",
        "name": "a",
        "deletedAt": "2026-11-23T10:30:00.123Z",
    }
    triggered = service.trigger_event("project.deleted", user, data)

    assert triggered.fanout_count == 2
    for path in ("events", f"events/{triggered.public_id}"):
        answer = client.get(f"/api/v1/{path}").json()
        assert answer.get("results", [answer])[0]["webhookCount"] == 1


def test_nul_in_a_query_is_a_bad_request(root: User, samples: dict[str, Any]) -> None:  # noqa: F811
    client = from_address(root, "192.0.2.1")
    tried = 0
    for url in every_url(samples):
        for query in ("q=%00", "owner=a%00", "status=%00", "actor=%00b", "before=%00", "e=%00"):
            assert client.get(f"{url}{'&' if '?' in url else '?'}{query}").status_code == 400, url
            tried += 1
    assert tried >= 300


def test_every_control_is_shown_as_its_number() -> None:
    tried = 0
    for number in range(0x11_0000):
        character = chr(number)
        if unicodedata.category(character) in ("Cc", "Cs") or unicodedata.bidirectional(
            character
        ) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"):
            tried += 1
            assert harmless(character) == (character if character in "\n\t" else f"\\u{number:04x}")
    assert tried >= 2_000
    assert harmless("Zoë 🚀 عربي") == "Zoë 🚀 عربي"


def test_embedded_servers_follow_nobodys_link(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    far = tmp_path / ("x" * 90) / "servers"
    place = reachable_home(far)
    assert place.parent == tmp_path
    mode = place.stat().st_mode
    place.rmdir()
    victim = tmp_path / "victim"
    victim.mkdir(mode=0o755)
    place.symlink_to(victim)

    with pytest.raises(EmbeddedServiceError, match="is not our folder"):
        reachable_home(far)

    assert victim.stat().st_mode != mode
