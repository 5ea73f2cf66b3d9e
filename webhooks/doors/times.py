"""Times and durations as people type them, at the commands and in the admin."""

from datetime import UTC, datetime, timedelta

from django.utils.dateparse import parse_date, parse_datetime

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
LONGEST = timedelta(days=36_525)
YEARS = range(1900, 9001)
"""Years that a time may have: Python and Postgres can calculate with them in any time zone."""

YEARS_OF_IDS = range(1971, 9001)
"""Years that a time which becomes an id may have."""


def parse_duration(text: str) -> timedelta:
    """Parse `90s`, `15m`, `2h`, `7d` or `4w`; raises ValueError above a hundred years."""
    number, unit = text[:-1], text[-1:]
    is_valid = number.isascii() and number.isdecimal() and unit in UNITS and len(number) <= 6
    parsed = timedelta(seconds=int(number) * UNITS[unit]) if is_valid else None
    if parsed is None or parsed > LONGEST:
        raise ValueError(
            f"{text!r} is not a duration such as 90s, 15m, 2h, 7d or 4w, of at most a hundred years"
        )
    return parsed


def parse_moment(text: str) -> datetime:
    """Parse a duration before now, an ISO date or an ISO time into an aware UTC time.

    A time without a time zone is in UTC. Raises ValueError.
    """
    if text[-1:] in UNITS and text[:-1].isdecimal():
        return datetime.now(UTC) - parse_duration(text)
    try:
        parsed = parse_datetime(text)
        if parsed is None and (date := parse_date(text)) is not None:
            parsed = datetime(date.year, date.month, date.day)  # noqa: DTZ001 (a zone follows)
    except ValueError:
        parsed = None
    if parsed is None or parsed.year not in YEARS:
        raise ValueError(
            f"{text!r} is not a time such as 2h, 7d, 2026-11-23 or 2026-11-23T10:30:00Z, "
            f"of the years {YEARS[0]} to {YEARS[-1]}"
        )
    # Postgres rejects UTC offsets of 16 hours and more.
    return parsed.astimezone(UTC) if parsed.tzinfo else parsed.replace(tzinfo=UTC)
