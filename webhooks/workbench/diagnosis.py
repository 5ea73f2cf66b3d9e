"""Say what is wrong with a receiver's verification: which mistake leads to the signature it made.

Compares with every signature that a known mistake would make, and returns which one it is. Neither a
secret nor a signature leaves this module.
"""

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.utils import timezone
from django.views.decorators.debug import sensitive_variables

from webhooks.errors import PublicIdInvalidError
from webhooks.ids import EVENT_PREFIX, parse_public_id
from webhooks.models import Delivery, SigningSecret, Webhook
from webhooks.outbox.event_data import MAX_NESTING, nesting
from webhooks.wire.signing import SECRET_PREFIX, TOLERANCE_SECONDS, SigningKey

MAX_BODY_BYTES = 256 * 1024
MAX_HEADER_LINES = 100
MAX_OTHER_SECRETS = 20
"""Of the owner's other webhooks, to tell that one of theirs was used."""
MAX_RESERIALISED_BYTES = 32 * 1024
MAX_HASHED_BYTES = 64 * 1024 * 1024
"""Of all tried contents with all tried keys: with a long body, fewer keys are tried."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is right or wrong; `word` says which."""

    word: str
    is_good: bool = False
    detail: str = ""
    """A name or a number that belongs to it."""


@dataclass(frozen=True, slots=True)
class _Key:
    value: bytes
    mistakes: tuple[str, ...] = ()
    detail: str = ""


@dataclass(frozen=True, slots=True)
class _Request:
    event_id: str
    timestamp: str
    body: bytes
    given: tuple[str, ...]
    """The signatures in webhook-signature."""
    given_hex: str
    """That in X-Webhook-Signature."""


def read_headers(text: str) -> dict[str, str]:
    """Return the headers of a pasted text, with lower-case names: `Name: value` a line, or JSON."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, dict):
        pairs = [(_readable(name), _readable(value)) for name, value in found.items()]
    else:
        lines = text.splitlines()[:MAX_HEADER_LINES]
        # As browsers' tools and curl -v show them, too.
        split = (line.lstrip("<> ").partition(":") for line in lines)
        pairs = [(name, value) for name, colon, value in split if colon]
    return {name.strip().strip("\"'").lower(): value.strip().strip("\"',") for name, value in pairs}


def _readable(value: Any) -> str:
    """Return a JSON value as text, without the halves of characters that its escapes may name."""
    return str(value).encode("utf-8", "replace").decode()


@sensitive_variables()
def diagnose(
    webhook: Webhook, headers: Mapping[str, str], body: bytes, computed: str = ""
) -> list[Finding]:
    """Return what is right and wrong with a request that was received, and with the signature that
    the receiver's own code computed for it, where it is given.

    `headers` has lower-case names; of the body MAX_BODY_BYTES are looked at.
    """
    request = _Request(
        headers.get("webhook-id") or headers.get("x-webhook-id", ""),
        headers.get("webhook-timestamp") or headers.get("x-webhook-timestamp", ""),
        body[:MAX_BODY_BYTES],
        tuple(headers.get("webhook-signature", "").split()[:20]),
        headers.get("x-webhook-signature", ""),
    )
    keys = _keys_of(webhook)
    stored = _stored_payload(webhook, request.event_id)
    findings = [*_judge_request(webhook, request, keys, stored), *_judge_time(request)]
    if computed.strip():
        findings.append(_judge_computed(webhook, request, keys, stored, computed.strip()))
    return findings


def _stored_payload(webhook: Webhook, event_id: str) -> bytes | None:
    """Return the bytes that were sent, where the id is of an event that this webhook was owed."""
    try:
        row_id = parse_public_id(event_id, EVENT_PREFIX)
    except PublicIdInvalidError:
        return None
    rows = Delivery.objects.filter(event=row_id, webhook=webhook).select_related("event")
    delivery = rows.first()
    return None if delivery is None else delivery.rendered(delivery.event) or None


@sensitive_variables()
def _keys_of(webhook: Webhook) -> list[str]:
    secrets = webhook.secrets.live(timezone.now()).filter(scheme=SigningSecret.Scheme.HMAC)
    return [value for secret in secrets if (value := secret.readable_value)]


@sensitive_variables()
def _others(webhook: Webhook) -> Iterator[tuple[str, str]]:
    """Yield the current secrets of the owner's other webhooks, with the webhooks' names."""
    rows = SigningSecret.objects.filter(
        webhook__owner_id=webhook.owner_id,
        webhook__deleted_at=None,
        webhook__is_platform=False,
        scheme=SigningSecret.Scheme.HMAC,
        expires_at=None,
    )
    for secret in (
        rows.exclude(webhook=webhook).select_related("webhook").order_by("-id")[:MAX_OTHER_SECRETS]
    ):
        if value := secret.readable_value:
            yield value, secret.webhook.name


@sensitive_variables()
def _judge_request(
    webhook: Webhook, request: _Request, secrets: Sequence[str], stored: bytes | None
) -> Iterator[Finding]:
    if not request.given and not request.given_hex:
        yield Finding("no_signature")
        return
    if not request.given:
        yield Finding("older_family_only")
    if _fits(request, request.body, secrets):
        yield Finding("request_genuine", is_good=True)
        return
    if stored is not None and stored != request.body:
        if _fits(request, stored, secrets):
            yield Finding(_how_bodies_differ(stored, request.body))
            return
        yield Finding(_how_bodies_differ(stored, request.body))
    for value, name in _others(webhook):
        if any(_fits(request, body, [value]) for body in _bodies(request.body, stored)):
            yield Finding("signed_for_other_webhook", detail=name)
            return
    yield Finding("request_not_ours")


@sensitive_variables()
def _fits(request: _Request, body: bytes, secrets: Sequence[str]) -> bool:
    for secret in secrets:
        key = SigningKey.from_secret(secret)
        expected = key.sign_standard(f"{request.event_id}.{request.timestamp}.".encode() + body)
        if any(_equal(expected, one) for one in request.given):
            return True
        older = key.sign_hex(request.timestamp.encode() + b"." + body)
        if not request.given and _equal(older, request.given_hex):
            return True
    return False


def _how_bodies_differ(stored: bytes, body: bytes) -> str:
    if body.strip() == stored or body.replace(b"\r\n", b"\n").strip() == stored:
        return "body_has_newline"
    try:
        return "body_reserialised" if json.loads(body) == json.loads(stored) else "body_changed"
    except (ValueError, RecursionError):
        return "body_cut" if body and stored.startswith(body) else "body_changed"


def _judge_time(request: _Request) -> Iterator[Finding]:
    text = request.timestamp
    if not text:
        return
    if not (text.isascii() and text.isdecimal() and len(text) <= 15):
        yield Finding("timestamp_malformed")
    elif len(text) >= 13:
        yield Finding("timestamp_in_milliseconds")
    else:
        age = timezone.now().timestamp() - int(text)
        if abs(age) > TOLERANCE_SECONDS:
            yield Finding("timestamp_stale", detail=str(round(abs(age))))


# What a receiver's own code computed.


@sensitive_variables()
def _judge_computed(
    webhook: Webhook,
    request: _Request,
    secrets: Sequence[str],
    stored: bytes | None,
    computed: str,
) -> Finding:
    computed = computed.strip("\"'")
    keys = [key for secret in secrets for key in _key_variants(secret)]
    keys += [
        _Key(key.value, ("wrong_secret", *key.mistakes), name)
        for value, name in _others(webhook)
        for key in _key_variants(value)[:2]
    ]
    contents = list(_contents(request, stored))
    most_keys = MAX_HASHED_BYTES // sum(len(content) for content, _ in contents)
    best: tuple[tuple[str, ...], str] | None = None
    for key in keys[:most_keys]:
        for content, in_content in contents:
            mac = _mac(key.value, content)
            for text, rest in _spellings(mac, key.mistakes, in_content):
                if _equal(text, computed) and (best is None or len(rest) < len(best[0])):
                    best = rest, key.detail
    if best is None:
        return Finding("computed_unknown")
    mistakes, detail = best
    if not mistakes:
        return Finding("computed_right", is_good=True)
    if mistakes == (OLDER,):
        return Finding("computed_right_older", is_good=True)
    return Finding("+".join(mistakes), detail=detail)


OLDER = "older_family"


def _spellings(
    mac: bytes, in_key: tuple[str, ...], in_content: tuple[str, ...]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield how a signature may be written, with all mistakes that lead there.

    What is right for one family of headers is a mistake for the other.
    """
    if "id_left_out" in in_content:
        # Just what the older header signs, in hex and with the secret's text as the key.
        rest = tuple(one for one in in_content if one != "id_left_out")
        key = tuple(one for one in in_key if one != "secret_not_decoded")
        is_decoded = "secret_not_decoded" not in in_key
        older = (*key, *(("secret_decoded",) if is_decoded else ()), *rest)
        for text, mistakes in _older_spellings(mac):
            yield text, (*((OLDER,) if not is_decoded else ()), *older, *mistakes)
    for text, mistakes in _standard_spellings(mac):
        yield text, (*in_key, *in_content, *mistakes)


@sensitive_variables()
def _key_variants(secret: str) -> list[_Key]:
    bare = secret.removeprefix(SECRET_PREFIX)
    return [
        _Key(_decoded(secret)),
        _Key(secret.encode(), ("secret_not_decoded",)),
        _Key(bare.encode(), ("secret_not_decoded",)),
    ]


def _contents(request: _Request, stored: bytes | None) -> Iterator[tuple[bytes, tuple[str, ...]]]:
    event_id, timestamp = request.event_id.encode(), request.timestamp.encode()
    for body, in_body in _variants_of_body(request.body, stored):
        yield event_id + b"." + timestamp + b"." + body, in_body
        yield timestamp + b"." + body, ("id_left_out", *in_body)
        yield body, ("body_only", *in_body)
        yield event_id + timestamp + body, ("dots_left_out", *in_body)
        yield timestamp + b"." + event_id + b"." + body, ("id_and_timestamp_swapped", *in_body)


def _variants_of_body(body: bytes, stored: bytes | None) -> Iterator[tuple[bytes, tuple[str, ...]]]:
    yield body, ()
    seen = {body}
    if stored is not None and stored not in seen:
        seen.add(stored)
        yield stored, ()
    for other in _bodies(body, stored):
        for variant, mistake in (
            (other.strip(), "body_stripped"),
            (other + b"\n", "newline_added"),
        ):
            if variant not in seen:
                seen.add(variant)
                yield variant, (mistake,)
    for text in _serialised(stored or body):
        if text not in seen:
            seen.add(text)
            yield text, ("reserialised",)


def _bodies(body: bytes, stored: bytes | None) -> list[bytes]:
    return [body] if stored is None or stored == body else [body, stored]


def _serialised(body: bytes) -> Iterator[bytes]:
    """Yield what common libraries make of a parsed body; nothing of one that would become too long."""
    if len(body) > MAX_RESERIALISED_BYTES:
        return
    try:
        data: Any = json.loads(body)
        is_deep = nesting(data) > MAX_NESTING
    except (ValueError, RecursionError):
        return
    if is_deep:
        return
    for options in (
        {"separators": (",", ":")},
        {},
        {"separators": (",", ":"), "sort_keys": True},
        {"sort_keys": True},
        {"indent": 2},
        {"indent": 4},
    ):
        for is_ascii in (False, True):
            yield json.dumps(data, ensure_ascii=is_ascii, **options).encode("utf-8", "replace")


def _older_spellings(mac: bytes) -> Iterator[tuple[str, tuple[str, ...]]]:
    yield mac.hex(), ()
    yield mac.hex().upper(), ("upper_hex",)
    yield "v1," + _base64(mac), ("prefix_and_base64",)
    yield _base64(mac), ("base64_for_hex",)


def _standard_spellings(mac: bytes) -> Iterator[tuple[str, tuple[str, ...]]]:
    text = _base64(mac)
    yield "v1," + text, ()
    yield text, ("prefix_missing",)
    for prefix in ("", "v1,"):
        yield prefix + mac.hex(), ("hex_for_base64",)
        yield prefix + mac.hex().upper(), ("upper_hex",)
        yield prefix + base64.urlsafe_b64encode(mac).decode(), ("base64_url",)
        yield prefix + text.rstrip("="), ("padding_missing",)


@sensitive_variables()
def _decoded(secret: str) -> bytes:
    return base64.b64decode(secret.removeprefix(SECRET_PREFIX))


@sensitive_variables()
def _mac(key: bytes, content: bytes) -> bytes:
    return hmac.digest(key, content, hashlib.sha256)


def _base64(mac: bytes) -> str:
    return base64.b64encode(mac).decode()


def _equal(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode("utf-8", "replace"))
