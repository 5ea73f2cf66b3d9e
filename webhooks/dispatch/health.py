"""What a settled batch means for its webhooks: breaker, Retry-After, 410, failing for days.

Only webhooks that failed, or that recover, have their row written, once per batch and in the order
of their ids; a healthy webhook's row is never touched. A crash between a settle and this loses a
count, which the next failures make up for.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from django.conf import settings

from webhooks import breaker, lifecycle
from webhooks.breaker import Breaker, Outcomes
from webhooks.choices import BreakerState
from webhooks.database import limited_transaction, run


@dataclass(slots=True)
class Attempted:
    """What one settled batch says about one webhook."""

    succeeded: bool = False
    failures: int = 0
    """After the last success."""
    hold_seconds: float = 0.0
    is_gone: bool = False

    def add_success(self) -> None:
        self.succeeded, self.failures = True, 0

    def add_failure(self, hold_seconds: float, is_gone: bool) -> None:
        self.failures += 1
        self.hold_seconds = max(self.hold_seconds, hold_seconds)
        self.is_gone = self.is_gone or is_gone


AILING_SQL = """
SELECT id FROM webhooks_webhook WHERE id = ANY(%(webhooks)s) AND failing_since IS NOT NULL
"""

LOCK_SQL = """
SELECT extract(epoch FROM clock_timestamp())::float8,
       w.id, w.breaker_state, w.breaker_failures, w.breaker_probes,
       extract(epoch FROM w.breaker_changed_at)::float8,
       extract(epoch FROM w.breaker_probe_at)::float8,
       extract(epoch FROM w.failing_since)::float8
  FROM webhooks_webhook w
 WHERE w.id = ANY(%(webhooks)s)
 ORDER BY w.id
   FOR NO KEY UPDATE
"""

WRITE_SQL = """
UPDATE webhooks_webhook w
   SET breaker_state = b.state, breaker_failures = b.failures, breaker_probes = b.probes,
       breaker_changed_at = to_timestamp(b.changed_at), breaker_probe_at = to_timestamp(b.probe_at),
       failing_since = to_timestamp(b.failing_since),
       held_until = greatest(w.held_until, to_timestamp(b.held_until))
  FROM unnest(%(webhooks)s::uuid[], %(states)s::text[], %(failures)s::int[], %(probes)s::int[],
              %(changed_at)s::float8[], %(probe_at)s::float8[], %(failing_since)s::float8[],
              %(held_until)s::float8[])
       AS b (webhook_id, state, failures, probes, changed_at, probe_at, failing_since, held_until)
 WHERE w.id = b.webhook_id
"""


def record(attempted: Mapping[UUID, Attempted]) -> bool:
    """Fold what a batch says into the rows of its webhooks; True where a breaker has closed."""
    failing = {webhook_id for webhook_id, said in attempted.items() if said.failures}
    healthy = [webhook_id for webhook_id in attempted if webhook_id not in failing]
    recovering = (row[0] for row in run(AILING_SQL, {"webhooks": healthy})) if healthy else ()
    concerned = failing.union(recovering)
    if not concerned:
        return False
    with limited_transaction():
        return _write({webhook_id: attempted[webhook_id] for webhook_id in concerned})


def _write(attempted: Mapping[UUID, Attempted]) -> bool:
    states: dict[UUID, Breaker] = {}
    has_closed = False
    held_until: list[float | None] = []
    now = 0.0
    for now, webhook_id, *columns in run(LOCK_SQL, {"webhooks": list(attempted)}).fetchall():
        said = attempted[webhook_id]
        outcomes = Outcomes(said.succeeded, said.failures)
        before = Breaker._make(columns)
        states[webhook_id] = breaker.after(before, outcomes, now)
        has_closed |= before.state != states[webhook_id].state == BreakerState.CLOSED
        held_until.append(now + said.hold_seconds if said.hold_seconds else None)
    run(
        WRITE_SQL,
        {
            "webhooks": list(states),
            "states": [str(state.state) for state in states.values()],
            "failures": [state.failures for state in states.values()],
            "probes": [state.probes for state in states.values()],
            "changed_at": [state.changed_at for state in states.values()],
            "probe_at": [state.probe_at for state in states.values()],
            "failing_since": [state.failing_since for state in states.values()],
            "held_until": held_until,
        },
    )
    _disable(
        (k for k in states if attempted[k].is_gone),
        "Its receiver answered 410: it is gone for good.",
        now,
    )
    days = settings.WEBHOOKS_DISABLE_AFTER_DAYS
    too_long = now - days * 86_400
    _disable(
        (k for k, state in states.items() if (state.failing_since or now) <= too_long),
        f"No delivery succeeded for {days:g} days.",
        now,
        unless_outage=True,
    )
    return has_closed


def _disable(
    webhook_ids: Iterable[UUID], reason: str, now: float, *, unless_outage: bool = False
) -> None:
    webhook_ids = list(webhook_ids)
    if not webhook_ids or (unless_outage and _most_are_failing()):
        return
    lifecycle.disable_automatically(webhook_ids, reason, datetime.fromtimestamp(now, UTC))


MOST_FAIL_SQL = """
SELECT count(*) >= 4 AND count(*) FILTER (WHERE failing * 2 > webhooks) * 2 > count(*)
  FROM (SELECT owner_id, count(*) AS webhooks, count(failing_since) AS failing
          FROM webhooks_webhook
         WHERE active AND deleted_at IS NULL
         GROUP BY owner_id) AS owner
"""


def _most_are_failing() -> bool:
    """Say whether most webhooks of most owners fail, so that it is rather our fault than theirs."""
    row = run(MOST_FAIL_SQL, {}).fetchone()
    return bool(row and row[0])
