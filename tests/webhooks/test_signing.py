"""The published vectors, checked both ways, and what must not verify."""

import pytest
import standardwebhooks

from webhooks.signing import (
    SigningKey,
    generate_secret,
    sign_hex,
    sign_standard,
    verify_hex,
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


def test_hex_signature_uses_secret_text_as_key() -> None:
    import hashlib
    import hmac

    key = SigningKey.from_secret(PY_SECRET)

    expected = hmac.new(PY_SECRET.encode(), b"1614265330.{}", hashlib.sha256).hexdigest()
    assert sign_hex(key, PY_TIME, b"{}") == expected


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
    import time

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
