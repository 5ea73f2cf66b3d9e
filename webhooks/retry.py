"""What an answer means and when a failed attempt is tried again: pure, no clock, no database."""

import random
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple

from webhooks.choices import FailureKind

MAX_DELAY_SECONDS = 12 * 3600
"""No retry waits longer than this, whatever the exponential says (DESIGN.md section 6)."""

MAX_RETRY_AFTER_SECONDS = 24 * 3600
"""Longest wait a receiver may ask for."""

JITTER = 0.1
"""Each delay is spread by up to this share either way, so that retries do not march in step."""

GONE = 410
SLOW_DOWN = frozenset((429, 502, 503, 504))
"""Statuses by which a receiver says that it cannot keep up."""


class Policy(NamedTuple):
    """How often and after which pauses a webhook's deliveries are tried again."""

    max_retries: int
    retry_delay_seconds: int
    schedule: Sequence[int] | None = None
    """Seconds before each retry; replaces the two settings above."""


class Verdict(NamedTuple):
    """What one attempt's outcome means for its delivery and its webhook."""

    succeeded: bool
    delay_seconds: float | None = None
    """Until the next try; None where there is none."""
    kind: FailureKind | None = None
    error: str = ""
    hold_seconds: float = 0.0
    """How long the webhook gets no request at all, because its receiver asked for it."""
    is_gone: bool = False
    """Whether the receiver said that it is gone for good, which disables the webhook."""


SUCCESS = Verdict(succeeded=True)


def judge(
    policy: Policy,
    attempt_number: int,
    *,
    status: int | None,
    retry_after: str | None = None,
    failure: tuple[FailureKind, str] | None = None,
    now: float = 0.0,
    spread: float | None = None,
) -> Verdict:
    """Return what an attempt's outcome means.

    `attempt_number` counts from 1 within the present round, `status` is None where no answer came
    (`failure` then says why), `now` is Unix seconds, `spread` as in delay_before_retry().
    """
    if status is not None and 200 <= status < 300:
        return SUCCESS
    kind, error = failure or (FailureKind.HTTP_STATUS, _status_error(status))
    if status == GONE:
        return Verdict(succeeded=False, kind=kind, error=error, is_gone=True)
    delay = delay_before_retry(policy, attempt_number, spread=spread)
    wished = parse_retry_after(retry_after, now) if status in SLOW_DOWN and retry_after else None
    if wished and delay is not None:
        delay = max(delay, wished)
    return Verdict(
        succeeded=False, delay_seconds=delay, kind=kind, error=error, hold_seconds=wished or 0.0
    )


def _status_error(status: int | None) -> str:
    if status is not None and 300 <= status < 400:
        return (
            f"The receiver answered {status}; redirects are not followed, so enter the final URL."
        )
    if status == GONE:
        return "The receiver answered 410: it is gone for good, so the webhook was disabled."
    return f"The receiver answered {status}."


def delay_before_retry(
    policy: Policy, attempt_number: int, *, spread: float | None = None
) -> float | None:
    """Return the seconds to wait after failed attempt `attempt_number` (from 1), or None to give up.

    The delay is `retry_delay_seconds * 2 ** (n - 1)`, or the schedule's n-th entry where there is
    one, capped at 12 h and spread by `spread` (-1 to 1, random by default) times ten per cent.
    """
    schedule = policy.schedule
    retries = len(schedule) if schedule is not None else policy.max_retries
    if attempt_number > retries:
        return None
    if schedule is not None:
        seconds = float(schedule[attempt_number - 1])
    else:
        # The exponent is bounded before it is used: 2 ** 10_000 does not fit a float.
        seconds = float(policy.retry_delay_seconds) * 2 ** min(attempt_number - 1, 32)
    share = random.uniform(-1, 1) if spread is None else spread
    return min(seconds, MAX_DELAY_SECONDS) * (1 + JITTER * share)


_SECONDS = re.compile(r"[0-9]{1,10}", re.ASCII)
_HTTP_DATE = re.compile(r"[A-Z][a-z]{2,8}, [0-9A-Za-z -]{8,12} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT")


def parse_retry_after(value: str, now: float) -> float | None:
    """Return the seconds that a Retry-After header asks for, at most a day; None for garbage.

    Takes what RFC 9110 allows, whole seconds or a date in GMT; a date that has passed gives 0.
    """
    value = value.strip(" \t")
    if _SECONDS.fullmatch(value):
        return float(min(int(value), MAX_RETRY_AFTER_SECONDS))
    if not _HTTP_DATE.fullmatch(value):
        return None
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    seconds = (moment.astimezone(UTC) - datetime.fromtimestamp(now, UTC)).total_seconds()
    return min(max(seconds, 0.0), float(MAX_RETRY_AFTER_SECONDS))
