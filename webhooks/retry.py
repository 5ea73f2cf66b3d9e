"""When a failed attempt is tried again: a pure decision, no clock and no database."""

import random
from collections.abc import Sequence
from datetime import timedelta

MAX_DELAY_SECONDS = 12 * 3600
"""No retry waits longer than this, whatever the exponential says (DESIGN.md section 6)."""

JITTER = 0.1
"""Each delay is spread by up to this share either way, so that retries do not march in step."""


def delay_before_retry(
    attempt_number: int,
    *,
    max_retries: int,
    retry_delay_seconds: int,
    schedule: Sequence[int] | None = None,
    spread: float | None = None,
) -> timedelta | None:
    """Return how long to wait after failed attempt `attempt_number` (from 1), or None to give up.

    The delay is `retry_delay_seconds * 2 ** (n - 1)`, or the schedule's n-th entry where there is
    one, capped at 12 h and spread by `spread` (-1 to 1, random by default) times ten per cent.
    """
    retries = len(schedule) if schedule is not None else max_retries
    if attempt_number > retries:
        return None
    if schedule is not None:
        seconds = float(schedule[attempt_number - 1])
    else:
        # The exponent is bounded before it is used: 2 ** 10_000 does not fit a float.
        seconds = float(retry_delay_seconds) * 2 ** min(attempt_number - 1, 32)
    share = random.uniform(-1, 1) if spread is None else spread
    return timedelta(seconds=min(seconds, MAX_DELAY_SECONDS) * (1 + JITTER * share))
