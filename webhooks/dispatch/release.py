"""Give claimed rows back, cancel the deliveries of deleted webhooks, and release deliveries from the
order of webhooks that are no longer ordered. All of it skips locked rows."""

from collections.abc import Collection, Sequence
from typing import NamedTuple
from uuid import UUID

from webhooks.postgres.sql import limited_transaction, run

# A released row becomes due now, or after the delay, so that a look finds it.
RELEASE_SQL = """
WITH own AS (
    SELECT id FROM webhooks_delivery WHERE id = ANY(%(ids)s) AND claimed_by = %(worker)s
), free AS (
    SELECT d.id FROM webhooks_delivery d
     WHERE d.id = ANY(ARRAY(SELECT id FROM own))
       FOR NO KEY UPDATE SKIP LOCKED
), released AS (
    UPDATE webhooks_delivery
       SET status = CASE WHEN attempt_count > attempts_before_round THEN 'RETRYING'
                         ELSE 'PENDING' END,
           next_attempt_at = clock_timestamp() + make_interval(secs => %(delay)s),
           claimed_by = NULL
     WHERE id = ANY(ARRAY(SELECT id FROM free)) AND claimed_by = %(worker)s
    RETURNING id
)
SELECT own.id FROM own WHERE NOT EXISTS (SELECT FROM released WHERE released.id = own.id)
"""


def release(
    worker_id: UUID, delivery_ids: Collection[UUID], *, delay_seconds: float = 0
) -> list[UUID]:
    """Give back rows that were claimed and not started; they spend no attempt.

    Returns the locked rows, which are still this worker's.
    """
    parameters = {"delay": delay_seconds, "ids": list(delivery_ids), "worker": worker_id}
    return [row[0] for row in run(RELEASE_SQL, parameters)]


# Locks the unlocked rows of some workers and returns them together with the locked ones.
HELD_SQL = """
WITH held AS MATERIALIZED (
    SELECT id, claimed_by FROM webhooks_delivery
     WHERE finished_at IS NULL AND claimed_by = ANY(%(workers)s) AND NOT id = ANY(%(kept)s)
), free AS (
    SELECT d.id, d.is_suspect FROM webhooks_delivery d JOIN held ON held.id = d.id
     WHERE d.finished_at IS NULL AND d.claimed_by = held.claimed_by
       FOR NO KEY UPDATE OF d SKIP LOCKED
)
SELECT held.id, held.claimed_by, free.is_suspect, free.id IS NULL
  FROM held LEFT JOIN free ON free.id = held.id
"""


class HeldDelivery(NamedTuple):
    """An unfinished row that is marked with a worker's id."""

    id: UUID
    worker_id: UUID
    is_suspect: bool | None
    """None if the row is locked."""
    is_locked: bool
    """Whether another transaction has locked it, so that a later look must take it."""


def lock_held(worker_ids: Sequence[UUID], *, kept: Sequence[UUID] = ()) -> list[HeldDelivery]:
    """Return the rows of these workers except `kept`, and lock them until the transaction ends.

    Waits for no lock. There is no index of a worker's rows, because it would slow every claim: this
    reads all unfinished rows, which takes 0.3 s for a million of them.
    """
    parameters = {"workers": list(worker_ids), "kept": list(kept)}
    return [HeldDelivery._make(row) for row in run(HELD_SQL, parameters)]


def release_others(worker_id: UUID, held: Sequence[UUID]) -> list[UUID]:
    """Give back the rows that are marked with this worker's id and not in `held`.

    When a connection breaks, Postgres may have committed a claim whose rows the worker never got.
    Returns the locked rows, which are still to be given back.
    """
    with limited_transaction():
        others = lock_held([worker_id], kept=held)
        locked = [row.id for row in others if row.is_locked]
        return locked + release(worker_id, [row.id for row in others if not row.is_locked])


CANCEL_ROWS = 5000
CANCEL_SQL = """
UPDATE webhooks_delivery
   SET status = 'CANCELLED', finished_at = clock_timestamp(), next_attempt_at = NULL,
       error = 'The webhook was deleted.'
 WHERE id = ANY(ARRAY(
    SELECT d.id FROM webhooks_delivery d
     WHERE d.webhook_id = ANY(%(webhooks)s) AND d.finished_at IS NULL AND d.claimed_by IS NULL
     LIMIT %(rows)s
       FOR UPDATE SKIP LOCKED))
"""


def cancel_deleted(webhook_ids: Sequence[UUID]) -> bool:
    """Cancel up to CANCEL_ROWS pending deliveries of deleted webhooks; return whether more may be
    left."""
    cursor = run(CANCEL_SQL, {"webhooks": list(webhook_ids), "rows": CANCEL_ROWS})
    return bool(cursor.rowcount >= CANCEL_ROWS)


UNORDERED_ROWS = 1000
UNORDERED_SQL = """
UPDATE webhooks_delivery
   SET epoch = NULL, order_key = NULL,
       next_attempt_at = CASE WHEN status = 'PENDING'
           THEN least(next_attempt_at, clock_timestamp()) ELSE next_attempt_at END
 WHERE id = ANY(ARRAY(
    SELECT d.id FROM webhooks_delivery d
     WHERE d.webhook_id = %(webhook)s AND d.finished_at IS NULL AND d.order_key IS NOT NULL
       AND d.claimed_by IS NULL
     ORDER BY d.epoch, d.order_key, d.id
     LIMIT %(rows)s
       FOR NO KEY UPDATE SKIP LOCKED))
"""


def release_from_order(webhook_id: UUID) -> bool:
    """Release up to UNORDERED_ROWS deliveries from the order of a webhook that is no longer ordered;
    return whether more may be left."""
    cursor = run(UNORDERED_SQL, {"webhook": webhook_id, "rows": UNORDERED_ROWS})
    return bool(cursor.rowcount >= UNORDERED_ROWS)
