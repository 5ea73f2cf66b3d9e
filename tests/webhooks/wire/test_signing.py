"""The published vectors, checked both ways, and what must not verify."""

import base64
import hmac
import time

import pytest
import standardwebhooks
from django.test import RequestFactory

from tests.webhooks.signed_bodies import signed_bodies
from webhooks.wire.signing import (
    Ed25519Key,
    Mac,
    SigningKey,
    generate_private_key,
    generate_secret,
    load_key,
    sign_hex,
    sign_standard,
    verify_hex,
    verify_request,
    verify_standard,
)

PY_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
RUST_SECRET = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
PY_ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
PY_TIME = 1614265330

VECTORS = [
    (
        PY_SECRET,
        PY_ID,
        PY_TIME,
        b'{"test": 2432232314}',
        "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    ),
    (
        RUST_SECRET,
        "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
        1649367553,
        b'{"email":"test@example.com","username":"test_user"}',
        "tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=",
    ),
    (
        PY_SECRET,
        PY_ID,
        PY_TIME,
        '{"name":"Zoë 🚀"}'.encode(),
        "UIIYqyWKzXJf0cc8PHV1DeJyoJm4DEe8IXHdvW7refs=",
    ),
    (PY_SECRET, PY_ID, PY_TIME, b"", "v48jdbgvh29KJz2Qc+ghw8G6vG3nAKnujWBg8oM/62A="),
]


@pytest.mark.parametrize(("secret", "event_id", "timestamp", "body", "expected"), VECTORS)
def test_standard_signature_equals_published_vector(
    secret: str, event_id: str, timestamp: int, body: bytes, expected: str
) -> None:
    key = SigningKey.from_secret(secret)

    assert sign_standard([key], event_id, timestamp, body) == f"v1,{expected}"


def test_two_secrets_give_two_signatures_in_order() -> None:
    keys = [SigningKey.from_secret(PY_SECRET), SigningKey.from_secret(RUST_SECRET)]

    assert sign_standard(keys, PY_ID, PY_TIME, b'{"test": 2432232314}') == (
        "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE= "
        "v1,78nXHjpFP0tVJQW5D0SBwmVyyW87BV/rL6MgfM/Bw44="
    )


def test_mac_is_hmac_sha256_whatever_the_length_of_the_key() -> None:
    for length in range(200):
        key = bytes(range(length))
        assert Mac(key).digest(b"content") == hmac.digest(key, b"content", "sha256")


def test_hex_signature_uses_secret_text_as_key() -> None:
    import hashlib
    import hmac

    key = SigningKey.from_secret(PY_SECRET)

    expected = hmac.new(PY_SECRET.encode(), b"1614265330.{}", hashlib.sha256).hexdigest()
    assert sign_hex(key, PY_TIME, b"{}") == expected


ED_PAIR = "6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg=="
ED_PUBLIC = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="
ED_SIGNATURE = (
    "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg=="
)


def test_ed25519_signature_equals_published_vector() -> None:
    key = Ed25519Key.from_text("whsk_" + ED_PAIR)

    assert key.public_text == ED_PUBLIC
    assert sign_standard([key], PY_ID, PY_TIME, b'{"test": 2432232314}') == ED_SIGNATURE


def test_hex_signature_equals_published_vector_of_github() -> None:
    key = SigningKey(b"unused", b"It's a Secret to Everybody")

    assert key.sign_hex(b"Hello, World!") == (
        "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    )


@pytest.mark.parametrize(
    ("key", "body", "beginning"),
    [
        (PY_SECRET.removeprefix("whsec_").encode(), b'{"test": 2432232314}', "v1,ELhqG0Ku"),
        (PY_SECRET.encode(), b'{"test": 2432232314}', "v1,TcxlhK9b"),
        (base64.b64decode(PY_SECRET.removeprefix("whsec_")), b'{"test":2432232314}', "v1,Vif40peJ"),
    ],
)
def test_usual_mistakes_give_signatures_that_do_not_verify(
    key: bytes, body: bytes, beginning: str
) -> None:
    mistaken = sign_standard([SigningKey(key, b"")], PY_ID, PY_TIME, body)
    headers = {
        "webhook-id": PY_ID,
        "webhook-timestamp": str(PY_TIME),
        "webhook-signature": mistaken,
    }

    assert mistaken.startswith(beginning)
    assert not verify_standard(PY_SECRET, headers, b'{"test": 2432232314}', now=PY_TIME)


def test_public_key_verifies_among_other_signatures() -> None:
    key, other = (Ed25519Key.from_text(generate_private_key()) for _ in range(2))
    signatures = sign_standard(
        [SigningKey.from_secret(PY_SECRET), other, key], "evt_1", 1000, b"{}"
    )
    headers = {
        "webhook-id": "evt_1",
        "webhook-timestamp": "1000",
        "webhook-signature": f"v1a,!! v1a, v1a,AAAA {signatures}",
    }

    assert verify_standard(key.public_text, headers, b"{}", now=1000)
    assert not verify_standard(key.public_text, headers, b"{ }", now=1000)
    assert not verify_standard(key.public_text, headers, b"{}", now=2000)
    stranger = Ed25519Key.from_text(generate_private_key()).public_text
    assert not verify_standard(stranger, headers, b"{}", now=1000)


def test_hmac_signature_is_not_taken_for_an_ed25519_one() -> None:
    key = Ed25519Key.from_text(generate_private_key())
    raw = sign_standard([key], "evt_1", 1000, b"{}").removeprefix("v1a,")
    headers = {
        "webhook-id": "evt_1",
        "webhook-timestamp": "1000",
        "webhook-signature": f"v1,{raw}",
    }

    assert not verify_standard(key.public_text, headers, b"{}", now=1000)


@pytest.mark.parametrize(
    "text",
    [
        "whsk_",
        "whsk_AAAA",
        "whsk_!",
        "whsec_" + ED_PAIR,
        "whsk_" + base64.b64encode(bytes(64)).decode(),
    ],
)
def test_malformed_private_key_is_refused_unshown(text: str) -> None:
    with pytest.raises(ValueError, match="signing secret") as refused:
        Ed25519Key.from_text(text)

    assert len(text) <= 6 or text[5:] not in str(refused.value)


def test_keys_do_not_show_themselves() -> None:
    assert repr(load_key("whsk_" + ED_PAIR)) == "Ed25519Key(…)"
    assert repr(load_key(PY_SECRET)) == "SigningKey(…)"


# A receiver written in Django.


def django_request(headers: dict[str, str], body: bytes = b"{}"):  # type: ignore[no-untyped-def]
    return RequestFactory().post("/hook", body, content_type="application/json", headers=headers)


def test_django_receiver_accepts_either_family_and_either_secret() -> None:
    old, new = generate_secret(), generate_secret()
    headers = signed_headers(old, b"{}", int(time.time()))
    standard = {name: value for name, value in headers.items() if not name.startswith("x-")}
    hexadecimal = {name: value for name, value in headers.items() if name.startswith("x-")}

    for given in (headers, standard, hexadecimal):
        assert verify_request(django_request(given), old)
        assert verify_request(django_request(given), [new, old])
        assert not verify_request(django_request(given), new)
        assert not verify_request(django_request(given, b"{ }"), old)
        assert not verify_request(django_request(given), [])
    assert not verify_request(django_request({}), old)
    assert not verify_request(django_request(signed_headers(old, b"{}", 1000)), old)


def test_django_receiver_accepts_a_public_key() -> None:
    key = Ed25519Key.from_text(generate_private_key())
    now = int(time.time())
    headers = {
        "webhook-id": "evt_1",
        "webhook-timestamp": str(now),
        "webhook-signature": sign_standard([key], "evt_1", now, b"{}"),
    }

    assert verify_request(django_request(headers), key.public_text)
    assert not verify_request(django_request(headers, b"[]"), key.public_text)


def test_ten_thousand_bodies_verify_with_the_reference_library() -> None:
    secret = generate_secret()
    key, library = SigningKey.from_secret(secret), standardwebhooks.Webhook(secret)

    for signed in signed_bodies([key], 10_000, seed=1):
        library.verify(signed.body, signed.headers, json_parse=False)


def signed_headers(secret: str, body: bytes, timestamp: int) -> dict[str, str]:
    key = SigningKey.from_secret(secret)
    return {
        "webhook-id": "evt_1",
        "webhook-timestamp": str(timestamp),
        "webhook-signature": sign_standard([key], "evt_1", timestamp, body),
        "x-webhook-timestamp": str(timestamp),
        "x-webhook-signature": sign_hex(key, timestamp, body),
    }


def test_reference_library_accepts_our_signature() -> None:
    secret = generate_secret()
    body = '{"name":"Zoë"}'.encode()

    headers = signed_headers(secret, body, int(time.time()))

    assert standardwebhooks.Webhook(secret).verify(body, headers) == {"name": "Zoë"}


def test_verification_accepts_untouched_request() -> None:
    secret = generate_secret()
    headers = signed_headers(secret, b"{}", 1000)

    assert verify_standard(secret, headers, b"{}", now=1000)
    assert verify_hex(secret, headers, b"{}", now=1000)


@pytest.mark.parametrize("now", [1301.0, 699.0])
def test_verification_refuses_old_and_future_request(now: float) -> None:
    secret = generate_secret()
    headers = signed_headers(secret, b"{}", 1000)

    assert not verify_standard(secret, headers, b"{}", now=now)
    assert not verify_hex(secret, headers, b"{}", now=now)


@pytest.mark.parametrize(
    "changes",
    [
        {"webhook-signature": "", "x-webhook-signature": ""},
        {"webhook-signature": "v1,é", "x-webhook-signature": "é"},
        {"webhook-timestamp": "1001", "x-webhook-timestamp": "1001"},
        {"webhook-timestamp": "١٠٠٠", "x-webhook-timestamp": "1_000"},
        {"webhook-timestamp": "", "x-webhook-timestamp": "9" * 30},
    ],
)
def test_verification_refuses_tampered_headers(changes: dict[str, str]) -> None:
    secret = generate_secret()
    headers = signed_headers(secret, b"{}", 1000) | changes

    assert not verify_standard(secret, headers, b"{}", now=1000)
    assert not verify_hex(secret, headers, b"{}", now=1000)


@pytest.mark.parametrize(
    "secret", ["", "whsec_", "whsec_AAAA", "whsec_!!!", "secret", "whpk_" + "A" * 44]
)
def test_malformed_secret_is_refused(secret: str) -> None:
    with pytest.raises(ValueError, match="signing secret"):
        SigningKey.from_secret(secret)


def test_key_does_not_show_itself() -> None:
    assert repr(SigningKey.from_secret(PY_SECRET)) == "SigningKey(…)"
