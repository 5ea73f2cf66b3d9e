"""Receive webhooks: verify, refuse what is stale, handle each event once.

`webhooks_receive.django`, `.flask` and `.fastapi` each have an endpoint(). Needs the standard library
only; a public key (`whpk_…`) needs the package cryptography.
"""

import base64
import binascii
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

TOLERANCE_SECONDS = 300
MAX_BODY_BYTES = 4 * 1024 * 1024
"""The largest batch is smaller."""

CREATE_TABLE = """
CREATE TABLE IF NOT EXISTS webhooks_received (
    id varchar(255) PRIMARY KEY,
    received_at bigint NOT NULL
)"""

Handle = Callable[[dict[str, Any], Any], object]
"""Gets an event and the connection whose transaction keeps its id; what it raises rolls both back."""


def verify(secrets: str | Iterable[str], headers: Mapping[str, str], body: bytes) -> bool:
    """Say whether a request carries a fresh Standard Webhooks signature of one of the secrets.

    `headers` ignores case or has lower-case names. A `whsec_…` secret accepts `v1` signatures only, a
    `whpk_…` public key `v1a` only; no other header is looked at, so that a weaker signature cannot
    stand in. Raises ValueError for a malformed secret, and for none at all.
    """
    known = listed(secrets)
    if not known:
        raise ValueError("There is no secret to verify with.")
    event_id, moment = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    signatures = headers.get("webhook-signature", "")
    if not (f"{event_id}{moment}{signatures}".isascii() and event_id):
        return False
    if not (moment.isdecimal() and len(moment) <= 12):
        return False
    if abs(time.time() - int(moment)) > TOLERANCE_SECONDS:
        return False
    content = b"%s.%s.%s" % (event_id.encode(), moment.encode(), body)
    given = signatures.split(" ")
    # A list, because the time must not depend on which secret fits.
    return any([_fits(secret, content, given) for secret in known])  # noqa: C419


def listed(secrets: str | Iterable[str]) -> list[str]:
    """Return one secret, or several, as a list, which can be gone through for each request."""
    return [secrets] if isinstance(secrets, str) else list(secrets)


def _fits(secret: str, content: bytes, given: list[str]) -> bool:
    if secret.startswith("whpk_"):
        return _fits_public_key(secret, content, given)
    digest = hmac.new(_decoded(secret, "whsec_"), content, hashlib.sha256).digest()
    expected = b"v1," + base64.b64encode(digest)
    return any([hmac.compare_digest(expected, one.encode()) for one in given])  # noqa: C419


def _fits_public_key(secret: str, content: bytes, given: list[str]) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    key = Ed25519PublicKey.from_public_bytes(_decoded(secret, "whpk_"))
    for one in given:
        version, _, signature = one.partition(",")
        if version != "v1a":
            continue
        try:
            key.verify(base64.b64decode(signature, validate=True), content)
        except (InvalidSignature, binascii.Error):
            continue
        return True
    return False


def _decoded(secret: str, prefix: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(prefix), validate=True)
    except binascii.Error:
        key = b""
    if not secret.startswith(prefix) or len(key) < 24:
        raise ValueError(f"A secret is {prefix} and base64 of 24 bytes or more.")
    return key


def events_of(headers: Mapping[str, str], body: bytes) -> list[tuple[str, dict[str, Any]]]:
    """Return the events of a verified request with their ids; a batch has several.

    Raises ValueError for a body that is no JSON.
    """
    found = json.loads(body)
    # The id is signed; X-Webhook-Batch is not, and a proxy may drop it.
    if headers["webhook-id"].startswith("bat_"):
        return [(one["id"], one) for one in found]
    return [(headers["webhook-id"], found)]


def receive(
    secrets: str | Iterable[str],
    headers: Mapping[str, str],
    body: bytes,
    connection: Any,
    handle: Handle,
) -> int:
    """Handle the new events of a request in the connection's transaction; return the status to answer.

    204: handled, now or before; 401: not signed, or stale; 413: too large. The caller commits, and
    rolls back if this raises: the sender then tries again.
    """
    if status := refusal_of(secrets, headers, body):
        return status
    return handle_new(headers, body, connection, handle)


def refusal_of(secrets: str | Iterable[str], headers: Mapping[str, str], body: bytes) -> int | None:
    """Return the status that refuses a request, as receive() says; None for a good one.

    It needs no connection: strangers' requests must not open one.
    """
    if len(body) > MAX_BODY_BYTES:
        return 413
    return None if verify(secrets, headers, body) else 401


def handle_new(headers: Mapping[str, str], body: bytes, connection: Any, handle: Handle) -> int:
    """Handle the new events of a verified request as receive() does; return 204."""
    for event_id, event in events_of(headers, body):
        if _is_new(connection, event_id):
            handle(event, connection)
    return 204


def create_table(connection: Any) -> None:
    """Make the table of ids, if there is none; the caller commits."""
    connection.cursor().execute(CREATE_TABLE)


def forget(connection: Any, *, days: float = 7) -> None:
    """Delete ids that are older; the caller commits. Senders try for hours, not for days."""
    before = int(time.time() - days * 86400)
    sql = f"DELETE FROM webhooks_received WHERE received_at < {_place(connection)}"  # noqa: S608
    connection.cursor().execute(sql, [before])


def _is_new(connection: Any, event_id: str) -> bool:
    """Store an id; False where it is stored. Waits for another transaction that is storing it."""
    place = _place(connection)
    cursor = connection.cursor()
    cursor.execute(
        f"INSERT INTO webhooks_received (id, received_at) VALUES ({place}, {place})"  # noqa: S608
        " ON CONFLICT (id) DO NOTHING",
        [event_id, int(time.time())],
    )
    return bool(cursor.rowcount == 1)


def _place(connection: Any) -> str:
    """Return the placeholder of a parameter: sqlite3 alone has its own, Django's wrapper has not."""
    return "?" if type(connection).__module__ == "sqlite3" else "%s"
