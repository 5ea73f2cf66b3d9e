"""The settings of webhooks that a worker sends with, never older than half a second (invariant 12)."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple
from uuid import UUID

from webhooks.choices import BreakerState, Order
from webhooks.errors import EncryptionKeyError
from webhooks.models.custom_headers import decrypt_headers
from webhooks.models.encryption import decrypt
from webhooks.models.endpoint_proof import host_cap
from webhooks.models.owner_keys import SQL_TYPE
from webhooks.models.owners import owner_sql
from webhooks.pace.retry import Policy
from webhooks.postgres.sql import run
from webhooks.wire.clock import boottime
from webhooks.wire.header_lines import header_line
from webhooks.wire.header_rules import header_problem
from webhooks.wire.signing import Ed25519Key, SigningKey, load_key

logger = logging.getLogger(__name__)

MAX_AGE_SECONDS = 0.5

ENDPOINT_COLUMNS = """w.id, w.deleted_at IS NOT NULL AS is_deleted,
       EXISTS (SELECT FROM webhooks_pause) AS is_paused,
       w.active AS is_active,
       NOT EXISTS (SELECT FROM {owners} u WHERE u.{key} = w.owner_id AND {is_inactive})
           AS is_owner_active,
       extract(epoch FROM w.held_until)::float8 AS held_until, w.breaker_state,
       extract(epoch FROM w.breaker_probe_at)::float8 AS breaker_probe_at,
       extract(epoch FROM w.breaker_changed_at)::float8 AS breaker_changed_at,
       w.rate_limit, w.delivery_order, w.batch_events, w.verified AS is_verified,
       w.owner_id, w.url, w.headers_encrypted,
       w.max_retries, w.retry_delay_seconds, w.retry_schedule, w.timeout_seconds, w.batch_bytes, w.batch_milliseconds,
       array(SELECT s.id FROM webhooks_signingsecret s WHERE s.webhook_id = w.id
              AND (s.expires_at IS NULL OR s.expires_at > clock_timestamp())
              ORDER BY s.scheme, s.expires_at DESC NULLS FIRST, s.id DESC) AS secret_ids,
       array(SELECT s.value_encrypted FROM webhooks_signingsecret s WHERE s.webhook_id = w.id
              AND (s.expires_at IS NULL OR s.expires_at > clock_timestamp())
              ORDER BY s.scheme, s.expires_at DESC NULLS FIRST, s.id DESC) AS secrets"""
"""The columns of a webhook `w` that a worker reads, with placeholders for owner_sql()."""

ENDPOINTS_SQL = f"SELECT {ENDPOINT_COLUMNS} FROM webhooks_webhook w WHERE w.id = ANY(%(ids)s)"  # noqa: S608


class Standing(NamedTuple):
    """The columns that decide whether a webhook may get requests; times are Unix seconds."""

    is_deleted: bool = True
    is_paused: bool = False
    """Whether all sending is paused (a Pause row exists)."""
    is_active: bool = False
    is_owner_active: bool = False
    """True if the webhook has no owner."""
    held_until: float | None = None
    breaker_state: str = BreakerState.CLOSED
    breaker_probe_at: float | None = None
    breaker_changed_at: float | None = None
    rate_limit: float | None = None
    order: str = Order.NONE
    batch_events: int = 1
    is_verified: bool = True

    @property
    def is_on(self) -> bool:
        """Whether the webhook and its owner are active and sending is not paused."""
        return self.is_active and self.is_owner_active and not self.is_paused

    @property
    def is_guarded(self) -> bool:
        """Whether a claim must decide under a lock of the webhook's row."""
        return (
            self.rate_limit is not None
            or self.breaker_state != BreakerState.CLOSED
            or self.is_capped
        )

    @property
    def is_capped(self) -> bool:
        """Whether it shares the cap of its host with others that are not verified."""
        return not self.is_verified and host_cap() is not None


GONE = Standing()
"""The standing of a webhook without a row."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A webhook as the hot path needs it: decrypted, with keys ready to sign."""

    owner_id: UUID | None
    url: str
    header_lines: tuple[bytes, ...] = field(repr=False)
    """Custom headers, as sent."""
    hidden_lines: tuple[bytes, ...]
    """Custom headers without their values, as recorded."""
    key: SigningKey
    """The current secret, which makes X-Webhook-Signature."""
    keys: tuple[SigningKey | Ed25519Key, ...]
    """All keys that sign for Standard Webhooks; `key` is the first."""
    policy: Policy
    timeout_seconds: int
    order: str
    batch_events: int = 1
    batch_bytes: int = 0
    batch_milliseconds: int = 0


class CachedWebhook(NamedTuple):
    """A webhook's row as last read, and the endpoint made from it."""

    read_at: float
    row: tuple[Any, ...] | None
    """The raw columns: while they stay the same, nothing is decrypted again."""
    standing: Standing
    endpoint: Endpoint | None
    """None if the webhook may get no requests or cannot be decrypted."""


class Endpoints:
    """A cache of webhooks; a disabled, deleted or paused one has no endpoint."""

    def __init__(self, *, may_be_inactive: bool = False) -> None:
        """With `may_be_inactive`, a webhook that is only disabled has an endpoint, too."""
        self._may_be_inactive = may_be_inactive
        self._known: dict[UUID, CachedWebhook] = {}
        # Decryption costs more than the query; equal ciphertexts have equal secrets.
        self._keys: dict[bytes, SigningKey | Ed25519Key] = {}
        self.unreadable: set[UUID] = set()
        """Active webhooks that cannot be decrypted."""

    def get(self, webhook_id: UUID) -> Endpoint | None:
        """Return the endpoint if it was read within MAX_AGE_SECONDS and may get requests."""
        known = self._known.get(webhook_id)
        if known is None or boottime() - known.read_at >= MAX_AGE_SECONDS:
            return None
        return known.endpoint

    def last(self, webhook_id: UUID) -> Endpoint | None:
        """Return the endpoint as last read, however long ago; never send with it."""
        known = self._known.get(webhook_id)
        return None if known is None else known.endpoint

    def standing(self, webhook_id: UUID) -> Standing:
        """Return a webhook's standing as last read."""
        known = self._known.get(webhook_id)
        return GONE if known is None else known.standing

    def is_stale(self, webhook_id: UUID) -> bool:
        known = self._known.get(webhook_id)
        return known is None or boottime() - known.read_at >= MAX_AGE_SECONDS / 2

    def load(self, webhook_ids: Iterable[UUID]) -> None:
        """Read the stale ones among these webhooks from the database, in one query."""
        stale = [webhook_id for webhook_id in set(webhook_ids) if self.is_stale(webhook_id)]
        if not stale:
            return
        read_at = boottime()
        rows = {row[0]: row for row in run(with_owners(ENDPOINTS_SQL), {"ids": stale})}
        for webhook_id in stale:
            self.take_in(webhook_id, rows.get(webhook_id), read_at)

    def take_in(self, webhook_id: UUID, row: tuple[Any, ...] | None, read_at: float) -> None:
        """Cache a row of ENDPOINT_COLUMNS; None if the webhook has no row."""
        known = self._known.get(webhook_id)
        if known is not None and known.row == row and row is not None:
            self._known[webhook_id] = known._replace(read_at=read_at)
            return
        standing = GONE if row is None else Standing._make(row[1:13])
        is_on = self._may_send(standing)
        endpoint = self._build(row) if row is not None and is_on else None
        self._known[webhook_id] = CachedWebhook(read_at, row, standing, endpoint)
        if is_on and endpoint is None:
            self.unreadable.add(webhook_id)
        else:
            self.unreadable.discard(webhook_id)

    def _may_send(self, standing: Standing) -> bool:
        if self._may_be_inactive:
            standing = standing._replace(is_active=True)
        return standing.is_on and not standing.is_deleted

    def forget(self, webhook_ids: Iterable[UUID]) -> None:
        """Make the next load() read these webhooks again, because they have changed."""
        for webhook_id in webhook_ids:
            known = self._known.get(webhook_id)
            if known is not None:
                # Still fresh enough to send with.
                read_at = min(known.read_at, boottime() - MAX_AGE_SECONDS / 2)
                self._known[webhook_id] = known._replace(read_at=read_at)

    def forget_old(self) -> None:
        """Drop webhooks that were not read for a minute."""
        horizon = boottime() - 60
        # A copy: the claimer may be loading others meanwhile.
        for webhook_id, known in list(self._known.items()):
            if known.read_at < horizon:
                del self._known[webhook_id]
                self.unreadable.discard(webhook_id)
        if len(self._keys) > 10_000:
            self._keys.clear()

    # It reads the columns, because building model instances would take longer than decrypting.
    def _build(self, row: tuple[Any, ...]) -> Endpoint | None:
        """Return the endpoint, or None if it cannot be decrypted: its deliveries wait, which is
        better than a wrong signature, and other webhooks' deliveries go out."""
        webhook_id, order, batch_events = row[0], row[10], row[11]
        owner_id, url, headers, *rest = row[13:]
        *policy, timeout, batch_bytes, batch_milliseconds, secret_ids, values = rest
        try:
            stored = decrypt_headers(headers, webhook_id)
            keys = tuple(map(self._key, secret_ids, values))
        except EncryptionKeyError as problem:
            self._complain(webhook_id, str(problem))
            return None
        if not keys or not isinstance(keys[0], SigningKey):
            self._complain(webhook_id, "it has no signing secret.")
            return None
        # Headers that were stored before a rule became stricter are not sent.
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
            order=order,
            batch_events=batch_events,
            batch_bytes=batch_bytes,
            batch_milliseconds=batch_milliseconds,
        )

    def _key(self, secret_id: UUID, value: memoryview) -> SigningKey | Ed25519Key:
        stored = bytes(value)
        if stored not in self._keys:
            self._keys[stored] = load_key(decrypt(stored, secret_id).decode())
        return self._keys[stored]

    def _complain(self, webhook_id: UUID, problem: str) -> None:
        """Log why a webhook waits, once and not at every load."""
        known = self._known.get(webhook_id)
        if known is None or known.endpoint is not None or not known.standing.is_on:
            logger.error("Webhook %s waits: %s", webhook_id, problem)


@cache
def with_owners(sql: str) -> str:
    """Return a statement with ENDPOINT_COLUMNS for this project's owner model."""
    return sql.format(owner_type=SQL_TYPE, **owner_sql())
