"""The breaker of a webhook: when sending stops, when a probe is sent, how sending resumes. Pure.

A closed breaker lets deliveries pass. THRESHOLD failures in a row open it, and all deliveries wait; at
growing intervals one delivery is sent as a probe (half-open). Its success closes the breaker, and
sending ramps up. Times are Unix seconds by the database's clock.
"""

from typing import NamedTuple

from webhooks.choices import BreakerState

THRESHOLD = 10
"""Failures in a row that open the breaker."""
FIRST_INTERVAL_SECONDS = 30
LONGEST_INTERVAL_SECONDS = 600
RAMP_SECONDS = 30
"""How long after closing the requests in flight stay limited."""
RAMP_PER_SECOND = 4
"""How many more requests may be in flight for each second since closing."""


class Breaker(NamedTuple):
    """The state of one webhook's breaker; the default is a healthy one."""

    state: str = BreakerState.CLOSED
    failures: int = 0
    """Consecutive failures."""
    probes: int = 0
    """Failed probes since it opened."""
    changed_at: float | None = None
    """When it last opened or closed."""
    probe_at: float | None = None
    """When the next probe may be sent."""
    failing_since: float | None = None
    """The first failure after the last success."""


class Outcomes(NamedTuple):
    """The results of a batch of attempts of one webhook."""

    succeeded: bool
    """Whether any attempt succeeded."""
    failures: int
    """The number of failures after the last success of the batch."""


def after(breaker: Breaker, outcomes: Outcomes, now: float) -> Breaker:
    """Return the state after a batch of attempts."""
    failures = outcomes.failures + (0 if outcomes.succeeded else breaker.failures)
    if failures == 0:
        if breaker.state == BreakerState.CLOSED:
            return breaker._replace(failures=0, failing_since=None)
        return Breaker(changed_at=now)
    failing_since = now if outcomes.succeeded else (breaker.failing_since or now)
    going_on = breaker._replace(failures=failures, failing_since=failing_since)
    if breaker.state == BreakerState.CLOSED or outcomes.succeeded:
        if failures < THRESHOLD:
            closed = going_on._replace(state=BreakerState.CLOSED, probes=0, probe_at=None)
            return (
                closed if breaker.state == BreakerState.CLOSED else closed._replace(changed_at=now)
            )
        return going_on._replace(
            state=BreakerState.OPEN,
            probes=0,
            changed_at=now,
            probe_at=now + FIRST_INTERVAL_SECONDS,
        )
    if breaker.state == BreakerState.HALF_OPEN:
        probes = breaker.probes + 1
        return going_on._replace(
            state=BreakerState.OPEN, probes=probes, probe_at=now + interval_seconds(probes)
        )
    # Stragglers that were in flight when it opened.
    return going_on


def interval_seconds(probes: int) -> int:
    """Return the seconds until the next probe after this many failed ones."""
    return int(min(FIRST_INTERVAL_SECONDS * 2 ** min(probes, 10), LONGEST_INTERVAL_SECONDS))


def is_probe_ahead(probe_at: float | None, now: float) -> bool:
    """Say whether the next probe has to wait.

    A time beyond the longest interval was stored before the database's clock was set back.
    """
    return probe_at is not None and now < probe_at <= now + LONGEST_INTERVAL_SECONDS


def probing(breaker: Breaker, now: float) -> Breaker | None:
    """Return the state while a probe is in flight, or None if no probe may be sent now.

    A probe whose worker died never reports; after one more interval another may be sent.
    """
    if is_probe_ahead(breaker.probe_at, now):
        return None
    return breaker._replace(
        state=BreakerState.HALF_OPEN, probe_at=now + interval_seconds(breaker.probes)
    )


def most_in_flight(changed_at: float | None, now: float) -> int | None:
    """Return the limit of requests in flight of a closed breaker; None means no limit."""
    # Farther in the future, it was stored before the database's clock was set back.
    if changed_at is None or abs(now - changed_at) >= RAMP_SECONDS:
        return None
    return 1 + int(RAMP_PER_SECOND * max(now - changed_at, 0.0))
