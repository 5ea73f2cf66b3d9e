"""The rate limit of a webhook, as one point in time (GCRA): pure.

`ready_at` is the time at which the allowance would be full again. The webhook's row stores it, and
workers change it under a row lock, so that all of them together keep the limit.
"""

from typing import NamedTuple

BURST_SECONDS = 1.0
"""The part of the allowance, in seconds, that may be sent at once; at least one request."""


ROUNDING_SECONDS = 0.001
"""The tolerance for stored times, which have whole microseconds."""


class Allowance(NamedTuple):
    """The number of requests that may be sent now, and the time of the next one if there are none."""

    requests: int
    next_at: float


def allowance(rate_limit: float, ready_at: float | None, now: float) -> Allowance:
    """Return the allowance of a limit of `rate_limit` requests per second at `now` (Unix seconds)."""
    used_until = _used_until(rate_limit, ready_at, now)
    room_seconds = now + _burst(rate_limit) - used_until
    # A millionth of a request, so that rounding of sums does not lose a whole one.
    count = int(room_seconds * rate_limit + 1e-6)
    return Allowance(max(count, 0), used_until - _burst(rate_limit) + 1 / rate_limit)


def spend(rate_limit: float, ready_at: float | None, now: float, count: int) -> float:
    """Return `ready_at` after `count` requests were sent."""
    return _used_until(rate_limit, ready_at, now) + count / rate_limit


def _used_until(rate_limit: float, ready_at: float | None, now: float) -> float:
    """Return the time until which the allowance is spent.

    It is at most a burst ahead of `now`. A later time was stored before the database's clock was set
    back or the limit was raised; then one request may be sent, which stores a possible time.
    """
    latest = now + _burst(rate_limit)
    if ready_at is not None and ready_at > latest + ROUNDING_SECONDS:
        return latest - 1 / rate_limit
    return max(ready_at or 0.0, now)


def _burst(rate_limit: float) -> float:
    return max(BURST_SECONDS, 1 / rate_limit)
