"""The effects of a settled batch on its webhooks: breaker, Retry-After, 410, failing for days.

It writes only the rows of webhooks that failed or recover, once per batch and in the order of their
ids. It never touches a healthy webhook's row and waits for no locked one. A crash between a settle
and this loses a count, which the next failures make up for.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

from django.conf import settings

from webhooks.choices import BreakerState
from webhooks.pace import breaker
from webhooks.pace.breaker import Breaker, Outcomes
from webhooks.postgres.sql import limited_transaction, run
from webhooks.registry import switch
from webhooks.wire.url_rules import is_same_server


@dataclass(slots=True)
class HealthEffect:
    """The effect of one settled batch on the health of one webhook."""

    url: str
    """Where the requests went: the webhook may have another one by now."""
    succeeded: bool = False
    failures: int = 0
    """Failures after the last success of the batch."""
    hold_seconds: float = 0.0
    is_gone: bool = False

    def add_success(self) -> None:
        self.succeeded, self.failures = True, 0

    def add_failure(self, hold_seconds: float, is_gone: bool) -> None:
        self.failures += 1
        self.hold_seconds = max(self.hold_seconds, hold_seconds)
        self.is_gone = self.is_gone or is_gone

    def then(self, later: "HealthEffect") -> "HealthEffect":
        """Return the effect of this batch and a later one together; only the later one counts if
        the URL has changed."""
        if self.url != later.url:
            return later
        return HealthEffect(
            self.url,
            self.succeeded or later.succeeded,
            later.failures + (0 if later.succeeded else self.failures),
            max(self.hold_seconds, later.hold_seconds),
            self.is_gone or later.is_gone,
        )


LOCK_SQL = """
SELECT extract(epoch FROM clock_timestamp())::float8,
       w.id, w.url, w.breaker_state, w.breaker_failures, w.breaker_probes,
       extract(epoch FROM w.breaker_changed_at)::float8,
       extract(epoch FROM w.breaker_probe_at)::float8,
       extract(epoch FROM w.failing_since)::float8
  FROM webhooks_webhook w
 WHERE w.id = ANY(%(webhooks)s)
   FOR NO KEY UPDATE SKIP LOCKED
"""

EXISTING_SQL = "SELECT id FROM webhooks_webhook WHERE id = ANY(%(webhooks)s)"

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


class Recorded(NamedTuple):
    """The webhooks of a batch whose breaker closed, and those still to write."""

    recovered: set[UUID]
    """Webhooks whose breaker has closed."""
    locked: set[UUID]
    """Webhooks whose row another transaction has locked; their effects are still to be written."""


def record(effects: Mapping[UUID, HealthEffect]) -> Recorded:
    """Write a batch's effects into the rows of webhooks that failed or recover; skip locked rows."""
    if not effects:
        return Recorded(set(), set())
    with limited_transaction():
        return _write(effects)


def _write(effects: Mapping[UUID, HealthEffect]) -> Recorded:
    states: dict[UUID, Breaker] = {}
    gone: list[UUID] = []
    seen: set[UUID] = set()
    recovered: set[UUID] = set()
    held_until: list[float | None] = []
    now = 0.0
    for now, webhook_id, url, *columns in run(LOCK_SQL, {"webhooks": list(effects)}).fetchall():
        effect = effects[webhook_id]
        seen.add(webhook_id)
        if effect.url != url and not is_same_server(effect.url, url):
            # What the old server did says nothing about the new one.
            continue
        outcomes = Outcomes(effect.succeeded, effect.failures)
        before = Breaker._make(columns)
        states[webhook_id] = breaker.after(before, outcomes, now)
        if before.state != states[webhook_id].state == BreakerState.CLOSED:
            recovered.add(webhook_id)
        held_until.append(now + effect.hold_seconds if effect.hold_seconds else None)
        if effect.is_gone and effect.url == url:
            gone.append(webhook_id)
    missing = [webhook_id for webhook_id in effects if webhook_id not in seen]
    locked = {row[0] for row in run(EXISTING_SQL, {"webhooks": missing})} if missing else set()
    if states:
        _write_states(states, held_until)
        _disable_gone_or_failing(states, gone, now)
    return Recorded(recovered, locked)


def _write_states(states: Mapping[UUID, Breaker], held_until: Sequence[float | None]) -> None:
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


def _disable_gone_or_failing(
    states: Mapping[UUID, Breaker], gone: Iterable[UUID], now: float
) -> None:
    """Disable webhooks whose receiver is gone, and those that have failed for too long."""
    _disable(gone, "Its receiver answered 410: it is gone for good.", now)
    days = settings.WEBHOOKS_DISABLE_AFTER_DAYS
    too_long = now - days * 86_400
    _disable(
        (k for k, state in states.items() if (state.failing_since or now) <= too_long),
        f"No delivery succeeded for {days:g} days.",
        now,
        unless_outage=True,
    )


def _disable(
    webhook_ids: Iterable[UUID], reason: str, now: float, *, unless_outage: bool = False
) -> None:
    webhook_ids = list(webhook_ids)
    if not webhook_ids or (unless_outage and _most_are_failing()):
        return
    switch.disable_automatically(webhook_ids, reason, datetime.fromtimestamp(now, UTC))


MOST_FAIL_SQL = """
SELECT count(*) >= 4 AND count(*) FILTER (WHERE failing * 2 > webhooks) * 2 > count(*)
  FROM (SELECT owner_id, count(*) AS webhooks, count(failing_since) AS failing
          FROM webhooks_webhook
         WHERE active AND deleted_at IS NULL
         GROUP BY owner_id) AS owner
"""


def _most_are_failing() -> bool:
    """Say whether most webhooks of most owners fail, so that the fault is more likely ours."""
    row = run(MOST_FAIL_SQL, {}).fetchone()
    return bool(row and row[0])
