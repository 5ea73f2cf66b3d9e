"""What a worker knows of a webhook when it sends: never older than half a second (invariant 12)."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from webhooks.database import run
from webhooks.encryption import decrypt
from webhooks.errors import EncryptionKeyError
from webhooks.header_rules import header_problem
from webhooks.models.webhook import decrypt_headers
from webhooks.retry import Policy
from webhooks.signing import Ed25519Key, SigningKey, load_key
from webhooks.wire.clock import boottime
from webhooks.wire.messages import header_line

logger = logging.getLogger(__name__)

MAX_AGE_SECONDS = 0.5

ENDPOINTS_SQL = """
SELECT w.id, w.owner_id, w.url, w.headers_encrypted,
       w.max_retries, w.retry_delay_seconds, w.retry_schedule, w.timeout_seconds, w.ordered,
       array(SELECT s.id FROM webhooks_signingsecret s WHERE s.webhook_id = w.id
              AND (s.expires_at IS NULL OR s.expires_at > clock_timestamp())
              ORDER BY s.scheme, s.expires_at DESC NULLS FIRST, s.id DESC),
       array(SELECT s.value_encrypted FROM webhooks_signingsecret s WHERE s.webhook_id = w.id
              AND (s.expires_at IS NULL OR s.expires_at > clock_timestamp())
              ORDER BY s.scheme, s.expires_at DESC NULLS FIRST, s.id DESC)
  FROM webhooks_webhook w
 WHERE w.id = ANY(%(ids)s) AND w.active AND w.deleted_at IS NULL
   AND NOT EXISTS (SELECT FROM webhooks_pause)
"""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A webhook as the hot path needs it: decrypted, ready to sign for."""

    owner_id: UUID | None
    url: str
    header_lines: tuple[bytes, ...] = field(repr=False)
    """Custom headers, as they go out."""
    hidden_lines: tuple[bytes, ...]
    """The same without their values, as they are recorded."""
    key: SigningKey
    """The current secret, which X-Webhook-Signature is made with."""
    keys: tuple[SigningKey | Ed25519Key, ...]
    """All that sign for Standard Webhooks; `key` is the first."""
    policy: Policy
    timeout_seconds: int
    ordered: bool


class Endpoints:
    """A cache of endpoints; one that is off, deleted or paused is simply not there."""

    def __init__(self) -> None:
        self._known: dict[UUID, tuple[float, Endpoint | None]] = {}
        # Decryption costs more than the query; equal ciphertexts have equal secrets.
        self._keys: dict[bytes, SigningKey | Ed25519Key] = {}

    def get(self, webhook_id: UUID) -> Endpoint | None:
        """Return the endpoint if it may be sent to and is known freshly enough."""
        read_at, endpoint = self._known.get(webhook_id, (0.0, None))
        return endpoint if boottime() - read_at < MAX_AGE_SECONDS else None

    def is_stale(self, webhook_id: UUID) -> bool:
        read_at, _ = self._known.get(webhook_id, (float("-inf"), None))
        return boottime() - read_at >= MAX_AGE_SECONDS / 2

    def load(self, webhook_ids: Iterable[UUID]) -> None:
        """Read what is stale among these webhooks from the database, in one query."""
        stale = [webhook_id for webhook_id in set(webhook_ids) if self.is_stale(webhook_id)]
        if not stale:
            return
        read_at = boottime()
        rows = run(ENDPOINTS_SQL, {"ids": stale}).fetchall()
        found = {row[0]: self._build(row) for row in rows}
        for webhook_id in stale:
            self._known[webhook_id] = (read_at, found.get(webhook_id))

    def forget_old(self) -> None:
        """Drop what has not been read for a while."""
        horizon = boottime() - 60
        # A copy: the claimer may be loading others meanwhile.
        for webhook_id, (read_at, _) in list(self._known.items()):
            if read_at < horizon:
                del self._known[webhook_id]
        if len(self._keys) > 10_000:
            self._keys.clear()

    # Straight from the columns: model instances would take longer than decrypting.
    def _build(self, row: tuple[Any, ...]) -> Endpoint | None:
        """Return the endpoint, or None where it cannot be decrypted: better late than wrongly
        signed, and the other webhooks' deliveries go out."""
        webhook_id, owner_id, url, headers, *policy, timeout, ordered, secret_ids, values = row
        try:
            stored = decrypt_headers(headers, webhook_id)
            keys = tuple(map(self._key, secret_ids, values))
        except EncryptionKeyError as problem:
            logger.error("Webhook %s waits: %s", webhook_id, problem)
            return None
        if not keys or not isinstance(keys[0], SigningKey):
            logger.error("Webhook %s waits: it has no signing secret.", webhook_id)
            return None
        # What was stored before a rule became stricter is not sent.
        custom = {name: value for name, value in stored.items() if not header_problem(name, value)}
        return Endpoint(
            owner_id=owner_id,
            url=str(url),
            header_lines=tuple(header_line(name, value) for name, value in custom.items()),
            hidden_lines=tuple(header_line(name, "(hidden)") for name in custom),
            key=keys[0],
            keys=keys,
            policy=Policy._make(policy),
            timeout_seconds=timeout,
            ordered=ordered,
        )

    def _key(self, secret_id: UUID, value: memoryview) -> SigningKey | Ed25519Key:
        stored = bytes(value)
        if stored not in self._keys:
            self._keys[stored] = load_key(decrypt(stored, secret_id).decode())
        return self._keys[stored]
