"""The meaning of responses and the times of retries: pure, without clock or database."""

import random
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from webhooks.choices import FailureKind

MAX_DELAY_SECONDS = 12 * 3600
"""The longest delay before a retry, however many attempts failed (docs/architecture.md)."""

MAX_RETRY_AFTER_SECONDS = 24 * 3600
"""The longest wait that a receiver may request."""

JITTER = 0.1
"""The jitter: the share by which a delay varies either way, so that retries spread out."""

GONE = 410
SLOW_DOWN = frozenset((429, 502, 503, 504))
"""Statuses of an overloaded receiver."""


class Policy(NamedTuple):
    """The number and delays of retries of a webhook's deliveries."""

    max_retries: int
    retry_delay_seconds: int
    schedule: Sequence[int] | None = None
    """Seconds before each retry; replaces the two settings above."""


class Verdict(NamedTuple):
    """The consequences of an attempt's outcome for its delivery and its webhook."""

    succeeded: bool
    delay_seconds: float | None = None
    """Seconds until the next attempt; None if there is none."""
    kind: FailureKind | None = None
    error: str = ""
    hold_seconds: float = 0.0
    """Seconds without any request to the webhook, at its receiver's request."""
    is_gone: bool = False
    """Whether the receiver responded with 410 Gone, which disables the webhook."""


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
    """Return the consequences of an attempt's outcome.

    `attempt_number` counts from 1 within the current round, `status` is None without a response
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
        return "The receiver answered 410: it is gone for good."
    return f"The receiver answered {status}."


def delay_before_retry(
    policy: Policy, attempt_number: int, *, spread: float | None = None
) -> float | None:
    """Return the seconds to wait after failed attempt `attempt_number` (from 1), or None to give up.

    The delay is `retry_delay_seconds * 2 ** (n - 1)`, or the schedule's n-th entry if there is
    one, capped at 12 h and spread by `spread` (-1 to 1, random by default) times ten per cent.
    """
    schedule = policy.schedule
    retries = len(schedule) if schedule is not None else policy.max_retries
    if attempt_number > retries:
        return None
    if schedule is not None:
        seconds = float(schedule[attempt_number - 1])
    else:
        # Bound the exponent first: 2 ** 10_000 does not fit a float.
        seconds = float(policy.retry_delay_seconds) * 2 ** min(attempt_number - 1, 32)
    return jittered(min(seconds, MAX_DELAY_SECONDS), spread)


def jittered(seconds: float, share: float | None = None) -> float:
    """Return a delay with jitter; `share` from -1 to 1 says how much, at random by default."""
    return seconds * (1 + JITTER * (random.uniform(-1, 1) if share is None else share))


_SECONDS = re.compile(r"[0-9]{1,10}")
_TIME = r"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})"
_HTTP_DATES = (
    # IMF-fixdate, and RFC 850's form with hyphens and two digits of the year.
    re.compile(
        r"[A-Z][a-z]{2,8}, (?P<day>[0-9]{1,2})[ -](?P<month>[A-Z][a-z]{2})[ -]"
        rf"(?P<year>[0-9]{{4}}|[0-9]{{2}}) {_TIME} GMT"
    ),
    # That of asctime(), which names no zone and means GMT too.
    re.compile(
        rf"[A-Z][a-z]{{2}} (?P<month>[A-Z][a-z]{{2}}) (?P<day>[ 0-9][0-9]) {_TIME} (?P<year>[0-9]{{4}})"
    ),
)
_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]


def parse_retry_after(value: str, now: float) -> float | None:
    """Return the seconds of a Retry-After header, at most a day; None for garbage.

    Accepts the forms of RFC 9110: whole seconds, or a date in any of its three forms (section 5.6.7);
    a date that has passed gives 0.
    """
    value = value.strip(" \t")
    if _SECONDS.fullmatch(value):
        return float(min(int(value), MAX_RETRY_AFTER_SECONDS))
    present = datetime.fromtimestamp(now, UTC)
    moment = _parse_http_date(value, present)
    if moment is None:
        return None
    return min(max((moment - present).total_seconds(), 0.0), float(MAX_RETRY_AFTER_SECONDS))


def _parse_http_date(text: str, now: datetime) -> datetime | None:
    """Not by strptime() or email.utils: the former reads the names of the locale, the latter puts
    two-digit years into another century than RFC 9110, and times without a zone into ours."""
    found = next(filter(None, (form.fullmatch(text) for form in _HTTP_DATES)), None)
    if found is None or found["month"] not in _MONTHS:
        return None
    year = int(found["year"])
    has_century = len(found["year"]) == 4
    if not has_century:
        # The latest year with these digits that is not more than 50 years in the future.
        year = now.year + 50 - (now.year + 50 - year) % 100
    try:
        moment = datetime(
            year,
            _MONTHS.index(found["month"]) + 1,
            int(found["day"]),
            int(found["hour"]),
            int(found["minute"]),
            # 60 is a leap second, which datetime does not know.
            59 if found["second"] == "60" else int(found["second"]),
            tzinfo=UTC,
        )
        is_too_late = year == now.year + 50 and moment.timetuple()[1:6] > now.timetuple()[1:6]
        return moment if has_century or not is_too_late else moment.replace(year=year - 100)
    except ValueError:
        return None
