"""The rate limit of a webhook, as one point in time (GCRA): pure.

`ready_at` is when the allowance would be whole again. It is kept with the webhook and moved on
under a row lock, so that all workers together keep the limit.
"""

from typing import NamedTuple

BURST_SECONDS = 1.0
"""How much of the allowance may go out at once; never less than one request."""


class Allowance(NamedTuple):
    """How many requests may go out now, and when the next one may if none can."""

    requests: int
    next_at: float


def allowance(rate_limit: float, ready_at: float | None, now: float) -> Allowance:
    """Return what a limit of `rate_limit` requests per second allows at `now` (Unix seconds)."""
    used_until = max(ready_at or 0.0, now)
    room_seconds = now + _burst(rate_limit) - used_until
    # A millionth of a request: sums of fractions must not round a whole one away.
    count = int(room_seconds * rate_limit + 1e-6)
    return Allowance(max(count, 0), used_until - _burst(rate_limit) + 1 / rate_limit)


def spend(rate_limit: float, ready_at: float | None, now: float, count: int) -> float:
    """Return `ready_at` after `count` requests went out."""
    return max(ready_at or 0.0, now) + count / rate_limit


def _burst(rate_limit: float) -> float:
    return max(BURST_SECONDS, 1 / rate_limit)
