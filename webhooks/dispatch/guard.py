"""Guarded webhooks: those with a rate limit, or with a breaker that is not closed.

A claim decides about them under a lock of the webhook's row, so that all workers together keep the
limit and only one of them sends a probe. It skips rows that another worker has locked.
"""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple
from uuid import UUID

from webhooks.choices import BreakerState
from webhooks.pace import breaker, rate
from webhooks.pace.breaker import Breaker
from webhooks.postgres.sql import run

LOCK_SQL = """
SELECT w.id, w.rate_limit, extract(epoch FROM w.rate_ready_at)::float8,
       w.breaker_state, w.breaker_failures, w.breaker_probes,
       extract(epoch FROM w.breaker_changed_at)::float8,
       extract(epoch FROM w.breaker_probe_at)::float8,
       extract(epoch FROM w.failing_since)::float8
  FROM webhooks_webhook w
 WHERE w.id = ANY(%(webhooks)s) AND w.active AND w.deleted_at IS NULL
 ORDER BY w.id
   FOR NO KEY UPDATE SKIP LOCKED
"""

SPEND_SQL = """
UPDATE webhooks_webhook w
   SET rate_ready_at = to_timestamp(s.ready_at), breaker_state = s.state,
       breaker_probe_at = to_timestamp(s.probe_at)
  FROM unnest(%(webhooks)s::uuid[], %(ready_at)s::float8[], %(states)s::text[],
              %(probe_at)s::float8[]) AS s (webhook_id, ready_at, state, probe_at)
 WHERE w.id = s.webhook_id
"""


class Guard(NamedTuple):
    """The locked row of a guarded webhook."""

    rate_limit: float | None
    ready_at: float | None
    breaker: Breaker


class Allowance(NamedTuple):
    """How many requests may go out now, and when more may (Unix seconds)."""

    requests: int
    next_at: float


def lock_guards(webhook_ids: Iterable[UUID]) -> dict[UUID, Guard]:
    """Lock webhooks until the transaction ends, except those that another transaction has locked."""
    rows = run(LOCK_SQL, {"webhooks": list(webhook_ids)}).fetchall()
    return {row[0]: Guard(row[1], row[2], Breaker._make(row[3:])) for row in rows}


def allowance(guard: Guard, now: float) -> Allowance:
    """Return how many requests a guarded webhook may get at `now`, and when it may get more."""
    requests, next_at = 1_000_000, math.inf
    if guard.breaker.state != BreakerState.CLOSED:
        probing = breaker.probing(guard.breaker, now)
        if probing is None:
            return Allowance(0, guard.breaker.probe_at or now)
        requests, next_at = 1, probing.probe_at or now
    if guard.rate_limit is not None:
        allowed = rate.allowance(guard.rate_limit, guard.ready_at, now)
        requests = min(requests, allowed.requests)
        next_at = min(next_at, allowed.next_at)
    return Allowance(requests, next_at)


def spend(guards: Mapping[UUID, Guard], taken: Mapping[UUID, int], now: float) -> None:
    """Charge `taken` requests to the rate limits, and note that a half-open breaker's probe is out."""
    ready_at, states, probe_at = [], [], []
    for webhook_id, guard in guards.items():
        state = guard.breaker
        if state.state != BreakerState.CLOSED:
            state = breaker.probing(state, now) or state
        states.append(str(state.state))
        probe_at.append(state.probe_at)
        ready_at.append(
            None
            if guard.rate_limit is None
            else rate.spend(guard.rate_limit, guard.ready_at, now, taken[webhook_id])
        )
    run(
        SPEND_SQL,
        {
            "webhooks": list(guards),
            "ready_at": ready_at,
            "states": states,
            "probe_at": probe_at,
        },
    )
