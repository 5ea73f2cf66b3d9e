"""The rate limit of a webhook, as one point in time (GCRA): pure.

`ready_at` is when the allowance would be whole again. It is kept with the webhook and moved on
under a row lock, so that all workers together keep the limit.
"""

from typing import NamedTuple

BURST_SECONDS = 1.0
"""How much of the allowance may go out at once; never less than one request."""


ROUNDING_SECONDS = 0.001
"""Times are stored in whole microseconds."""


class Allowance(NamedTuple):
    """How many requests may go out now, and when the next one may if none can."""

    requests: int
    next_at: float


def allowance(rate_limit: float, ready_at: float | None, now: float) -> Allowance:
    """Return what a limit of `rate_limit` requests per second allows at `now` (Unix seconds)."""
    used_until = _used_until(rate_limit, ready_at, now)
    room_seconds = now + _burst(rate_limit) - used_until
    # A millionth of a request: sums of fractions must not round a whole one away.
    count = int(room_seconds * rate_limit + 1e-6)
    return Allowance(max(count, 0), used_until - _burst(rate_limit) + 1 / rate_limit)


def spend(rate_limit: float, ready_at: float | None, now: float, count: int) -> float:
    """Return `ready_at` after `count` requests went out."""
    return _used_until(rate_limit, ready_at, now) + count / rate_limit


def _used_until(rate_limit: float, ready_at: float | None, now: float) -> float:
    """Return until when the allowance is spent.

    Nobody spends more than a burst ahead. A later time was stored before the database's clock was set
    back, or before the limit was raised; one request may go out then, which stores a time that can be.
    """
    latest = now + _burst(rate_limit)
    if ready_at is not None and ready_at > latest + ROUNDING_SECONDS:
        return latest - 1 / rate_limit
    return max(ready_at or 0.0, now)


def _burst(rate_limit: float) -> float:
    return max(BURST_SECONDS, 1 / rate_limit)
