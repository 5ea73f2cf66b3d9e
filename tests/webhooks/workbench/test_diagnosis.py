"""Which mistake a receiver's code makes: each known one is made here, and named."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from projects.models import User
from webhooks import service
from webhooks.models import Delivery, Webhook
from webhooks.wire.signing import SigningKey, sign_hex, sign_standard
from webhooks.workbench.diagnosis import read_headers

DATA = {
    "id": "01935710-5a3c-7d2e-9f10-3b6c8e2a4d71",
    "name": "Café, “quoted”",
    "deletedAt": "2026-11-23T10:30:00.123Z",
}


class Sent(NamedTuple):
    webhook: Webhook
    secret: str
    event_id: str
    timestamp: int
    body: bytes
    headers: dict[str, str]


@pytest.fixture
def sent(make_webhook: Callable[..., Webhook], user: User) -> Sent:
    webhook = make_webhook(events=["*"])
    secret = webhook.secret
    event = service.trigger_event("project.deleted", user, DATA)
    now = int(time.time())
    headers = signed(secret, event.public_id, now, bytes(event.payload))
    return Sent(webhook, secret, event.public_id, now, bytes(event.payload), headers)


def signed(secret: str, event_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    key = SigningKey.from_secret(secret)
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": sign_standard([key], event_id, timestamp, body),
        "x-webhook-signature": sign_hex(key, timestamp, body),
        "x-webhook-timestamp": str(timestamp),
    }


def words(*arguments: Any) -> list[str]:
    return [one.word for one in service.diagnose(*arguments)]


def test_genuine_request(sent: Sent) -> None:
    (finding,) = service.diagnose(sent.webhook, sent.headers, sent.body)

    assert (finding.word, finding.is_good) == ("request_genuine", True)


def test_request_in_another_form_is_genuine_and_not_changed(
    make_webhook: Callable[..., Webhook], user: User
) -> None:
    webhook = make_webhook(events=["*"], form="fields", data_fields=["name"])
    secret = webhook.secret
    event = service.trigger_event("project.deleted", user, DATA)
    body = Delivery.objects.get(webhook=webhook).rendered(event)
    headers = signed(secret, event.public_id, int(time.time()), body)

    assert words(webhook, headers, body) == ["request_genuine"]
    assert words(webhook, headers, body.replace(b"Caf", b"Kaf")) == ["body_changed"]


def test_older_secret_still_fits_during_a_rotation(sent: Sent) -> None:
    service.rotate_secret(sent.webhook)

    assert words(sent.webhook, sent.headers, sent.body) == ["request_genuine"]


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda body: json.dumps(json.loads(body)).encode(), "body_reserialised"),
        (lambda body: body + b"\n", "body_has_newline"),
        (lambda body: body[:50], "body_cut"),
        (lambda body: body.replace(b"Caf", b"Kaf"), "body_changed"),
        (lambda body: b"", "body_changed"),
    ],
)
def test_body_that_is_not_what_was_sent(
    sent: Sent, spoil: Callable[[bytes], bytes], word: str
) -> None:
    assert words(sent.webhook, sent.headers, spoil(sent.body)) == [word]


def test_headers(sent: Sent) -> None:
    webhook, headers, body = sent.webhook, sent.headers, sent.body
    older = {name: value for name, value in headers.items() if name.startswith("x-")}

    assert words(webhook, {}, body) == ["no_signature"]
    assert words(webhook, older, body) == ["older_family_only", "request_genuine"]
    assert words(webhook, headers | {"webhook-id": "evt_1"}, body) == ["request_not_ours"]


@pytest.mark.parametrize(
    ("timestamp", "word"),
    [
        ("soon", "timestamp_malformed"),
        ("١٢", "timestamp_malformed"),
        ("1795846645123", "timestamp_in_milliseconds"),
    ],
)
def test_timestamps(sent: Sent, timestamp: str, word: str) -> None:
    assert words(sent.webhook, sent.headers | {"webhook-timestamp": timestamp}, sent.body)[1:] == [
        word
    ]


def test_stale_timestamp_is_told_beside_a_right_signature(sent: Sent) -> None:
    headers = signed(sent.secret, sent.event_id, sent.timestamp - 3600, sent.body)

    found = service.diagnose(sent.webhook, headers, sent.body)

    assert [one.word for one in found] == ["request_genuine", "timestamp_stale"]
    assert abs(int(found[1].detail) - 3600) < 60


def test_request_for_another_webhook(sent: Sent, make_webhook: Callable[..., Webhook]) -> None:
    other = make_webhook(name="The other one")
    headers = signed(other.secret, sent.event_id, sent.timestamp, sent.body)

    (finding,) = service.diagnose(sent.webhook, headers, sent.body)

    assert (finding.word, finding.detail) == ("signed_for_other_webhook", "The other one")


def test_request_for_another_owners_webhook_is_of_nobody(
    sent: Sent, make_webhook: Callable[..., Webhook], other_user: User
) -> None:
    other = make_webhook(name="A stranger's", owner=other_user)
    headers = signed(other.secret, sent.event_id, sent.timestamp, sent.body)

    assert words(sent.webhook, headers, sent.body) == ["request_not_ours"]


# The signature that the receiver's own code computed.


def mac(key: bytes, content: bytes) -> bytes:
    return hmac.new(key, content, hashlib.sha256).digest()


def b64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def content(sent: Sent, body: bytes | None = None) -> bytes:
    return f"{sent.event_id}.{sent.timestamp}.".encode() + (sent.body if body is None else body)


def decoded(sent: Sent) -> bytes:
    return base64.b64decode(sent.secret.removeprefix("whsec_"))


MISTAKES: dict[str, Callable[[Sent], str]] = {
    "computed_right": lambda s: "v1," + b64(mac(decoded(s), content(s))),
    "computed_right_older": lambda s: mac(
        s.secret.encode(), str(s.timestamp).encode() + b"." + s.body
    ).hex(),
    "prefix_missing": lambda s: b64(mac(decoded(s), content(s))),
    "hex_for_base64": lambda s: mac(decoded(s), content(s)).hex(),
    "upper_hex": lambda s: mac(decoded(s), content(s)).hex().upper(),
    "padding_missing": lambda s: "v1," + b64(mac(decoded(s), content(s))).rstrip("="),
    "secret_not_decoded": lambda s: "v1," + b64(mac(s.secret.encode(), content(s))),
    "secret_not_decoded ": lambda s: (
        "v1," + b64(mac(s.secret.removeprefix("whsec_").encode(), content(s)))
    ),
    "body_only": lambda s: "v1," + b64(mac(decoded(s), s.body)),
    "secret_decoded": lambda s: mac(decoded(s), str(s.timestamp).encode() + b"." + s.body).hex(),
    "id_left_out": lambda s: (
        "v1," + b64(mac(decoded(s), str(s.timestamp).encode() + b"." + s.body))
    ),
    "dots_left_out": lambda s: (
        "v1," + b64(mac(decoded(s), f"{s.event_id}{s.timestamp}".encode() + s.body))
    ),
    "id_and_timestamp_swapped": lambda s: (
        "v1," + b64(mac(decoded(s), f"{s.timestamp}.{s.event_id}.".encode() + s.body))
    ),
    "reserialised": lambda s: (
        "v1," + b64(mac(decoded(s), content(s, json.dumps(json.loads(s.body)).encode())))
    ),
    "newline_added": lambda s: "v1," + b64(mac(decoded(s), content(s, s.body + b"\n"))),
    "secret_not_decoded+hex_for_base64": lambda s: mac(s.secret.encode(), content(s)).hex(),
    "reserialised+hex_for_base64": lambda s: mac(
        decoded(s), content(s, json.dumps(json.loads(s.body), indent=2).encode())
    ).hex(),
    "older_family+base64_for_hex": lambda s: b64(
        mac(s.secret.encode(), str(s.timestamp).encode() + b"." + s.body)
    ),
    "computed_unknown": lambda s: "v1," + b64(mac(b"guess", content(s))),
}


@pytest.mark.parametrize("word", MISTAKES)
def test_mistake_is_named(sent: Sent, word: str) -> None:
    computed = MISTAKES[word](sent)

    found = words(sent.webhook, sent.headers, sent.body, f" {computed}\n")

    assert found == ["request_genuine", word.strip()]


def test_secret_of_another_webhook_is_named(
    sent: Sent, make_webhook: Callable[..., Webhook]
) -> None:
    other = make_webhook(name="The other one")
    key = base64.b64decode(other.secret.removeprefix("whsec_"))

    found = service.diagnose(
        sent.webhook, sent.headers, sent.body, "v1," + b64(mac(key, content(sent)))
    )

    assert (found[1].word, found[1].detail) == ("wrong_secret", "The other one")


def test_the_largest_body_is_judged_in_time(sent: Sent) -> None:
    started_at = time.process_time()

    words(sent.webhook, sent.headers, b'{"a":"' + b"x" * 300_000 + b'"}', "v1,x")

    assert time.process_time() - started_at < 3


@pytest.mark.parametrize("body", [b"[" * 100_000, b"\xff\xfe", b"{}" * 1000, b"\0"])
def test_hostile_bodies_are_judged_like_any(sent: Sent, body: bytes) -> None:
    assert words(sent.webhook, sent.headers, body, "x") == ["body_changed", "computed_unknown"]


@pytest.mark.parametrize(
    "text",
    [
        "webhook-id: evt_1\r\nWebhook-Signature: v1,abc= v1,def=",
        "< webhook-id: evt_1\n< Webhook-Signature: v1,abc= v1,def=",
        '{"webhook-id": "evt_1", "Webhook-Signature": "v1,abc= v1,def="}',
        "'webhook-id': 'evt_1',\n'webhook-signature': 'v1,abc= v1,def=',",
    ],
)
def test_headers_are_read_as_servers_log_them(text: str) -> None:
    assert read_headers(text) == {"webhook-id": "evt_1", "webhook-signature": "v1,abc= v1,def="}


@pytest.mark.django_db
def test_headers_with_halves_of_characters_are_read(sent: Sent) -> None:
    headers = read_headers(
        r'{"webhook-id": "evt_\ud800", "\udfff": "\ud83d", "webhook-signature": "v1,\ud800"}'
    )

    assert headers["webhook-id"] == "evt_?"
    assert words(sent.webhook, headers, b"{}", "x")
