"""How our commands read their arguments; what is wrong is said in words that help."""

from argparse import ArgumentTypeError
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from django.contrib.auth import get_user_model
from django.core.management.base import CommandError, CommandParser
from django.db.models import Q
from django.utils.dateparse import parse_date, parse_datetime

from webhooks import catalog
from webhooks.choices import DeliveryStatus
from webhooks.errors import PublicIdInvalidError
from webhooks.ids import EVENT_PREFIX, WEBHOOK_PREFIX, parse_public_id
from webhooks.models import Event, Webhook

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}

LONGEST = timedelta(days=36_525)
YEARS = range(1900, 9001)
"""Of a time that is given: Python and Postgres calculate with all of them, in any time zone."""


def add_format(parser: CommandParser) -> None:
    parser.add_argument(
        "--format", choices=["table", "json"], default="table", help="How to print (table)."
    )


def add_no_input(parser: CommandParser) -> None:
    parser.add_argument(
        "--no-input", action="store_false", dest="is_interactive", help="Do not ask."
    )


def public_id(prefix: str) -> Callable[[str], UUID]:
    """Return an argument type for ids such as `whk_…`; a bare UUID will do, too."""

    def read(text: str) -> UUID:
        try:
            return UUID(text) if "-" in text else parse_public_id(text, prefix)
        except (PublicIdInvalidError, ValueError):
            raise ArgumentTypeError(
                f"{text!r} is not an id of the form {prefix}<32 hex digits>"
            ) from None

    return read


def duration(text: str) -> timedelta:
    """Read `90s`, `15m`, `2h`, `7d` or `4w`, a hundred years at most."""
    number, unit = text[:-1], text[-1:]
    is_readable = number.isascii() and number.isdecimal() and unit in UNITS and len(number) <= 6
    found = timedelta(seconds=int(number) * UNITS[unit]) if is_readable else None
    if found is None or found > LONGEST:
        raise ArgumentTypeError(
            f"{text!r} is not a duration such as 90s, 15m, 2h, 7d or 4w, of a hundred years at most"
        )
    return found


def moment(text: str) -> datetime:
    """Read a duration before now, an ISO date or an ISO time; UTC where no zone is given."""
    if text[-1:] in UNITS and text[:-1].isdecimal():
        return datetime.now(UTC) - duration(text)
    try:
        found = parse_datetime(text)
        if found is None and (date := parse_date(text)) is not None:
            found = datetime(date.year, date.month, date.day)  # noqa: DTZ001 (a zone follows)
    except ValueError:
        found = None
    if found is None or found.year not in YEARS:
        raise ArgumentTypeError(
            f"{text!r} is not a time such as 2h, 7d, 2026-11-23 or 2026-11-23T10:30:00Z, "
            f"of the years {YEARS[0]} to {YEARS[-1]}"
        )
    # In UTC: Postgres knows no zone that is more than 16 hours away.
    return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)


def pattern(text: str) -> str:
    if not catalog.is_known_pattern(text):
        raise ArgumentTypeError(
            f"{text!r} selects no event type; manage.py trigger --list shows them all"
        )
    return text


def event_type(text: str) -> str:
    if text not in catalog.WEBHOOK_EVENTS:
        raise ArgumentTypeError(
            f"{text!r} is not an event type; manage.py trigger --list shows them all"
        )
    return text


def patterns(text: str) -> list[str]:
    return [pattern(part.strip()) for part in text.split(",")]


def statuses(text: str) -> list[str]:
    """Read statuses, comma-separated, in any case."""
    found = [part.strip().upper() for part in text.split(",")]
    if unknown := [part for part in found if part not in DeliveryStatus.values]:
        raise ArgumentTypeError(
            f"{unknown[0].lower()!r} is not a status; choose from "
            f"{', '.join(DeliveryStatus.values).lower()}"
        )
    return found


def at_least(low: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and len(text) <= 9 and int(text) >= low):
            raise ArgumentTypeError(f"{text!r} is not a whole number from {low} on")
        return int(text)

    return read


def rate(text: str) -> float:
    """Read `50`, `50/s` or `30/m` as a number per second."""
    number, _, unit = text.partition("/")
    try:
        per_second = float(number) / UNITS[unit or "s"]
    except (ValueError, KeyError):
        per_second = 0.0
    if not 1 / UNITS["w"] <= per_second <= 100_000:
        raise ArgumentTypeError(
            f"{text!r} is not a rate such as 50/s or 30/m, from 1/w to 100000/s"
        )
    return per_second


def find_owner(text: str) -> Any:
    """Return the user with this e-mail address, user name or id; raises CommandError."""
    users = get_user_model()._default_manager
    wanted = Q(email__iexact=text) | Q(username=text)
    with suppress(ValueError):
        wanted |= Q(pk=UUID(text))
    found = list(users.filter(wanted)[:2])
    if len(found) != 1:
        problem = "is not known" if not found else "is not unique"
        raise CommandError(f"The owner {text!r} {problem}: give an e-mail address or an id.")
    return found[0]


def find_owner_id(text: str) -> UUID:
    """Return the id of a user, also of one who was deleted and whose id is given."""
    try:
        return UUID(text)
    except ValueError:
        return UUID(str(find_owner(text).pk))


def find_event(event_id: UUID) -> Event:
    """Return an event; raises CommandError when there is none."""
    event = Event.objects.filter(id=event_id).first()
    if event is None:
        raise CommandError(f"There is no event {EVENT_PREFIX}{event_id.hex}.")
    return event


def find_webhook(webhook_id: UUID, *, even_deleted: bool = False) -> Webhook:
    """Return a webhook; raises CommandError when there is none, or it was deleted."""
    webhook = Webhook.objects.filter(id=webhook_id).first()
    if webhook is None or (webhook.deleted_at and not even_deleted):
        raise CommandError(f"There is no webhook {WEBHOOK_PREFIX}{webhook_id.hex}.")
    return webhook
