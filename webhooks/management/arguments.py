"""Parse the arguments of our commands, with error messages that show the expected form."""

from argparse import ArgumentTypeError
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from django.core.management.base import CommandError, CommandParser

from webhooks import catalog
from webhooks.choices import DeliveryStatus
from webhooks.doors import owners
from webhooks.doors.times import UNITS, parse_duration, parse_moment
from webhooks.errors import PublicIdInvalidError
from webhooks.ids import EVENT_PREFIX, WEBHOOK_PREFIX, parse_public_id
from webhooks.models import Event, Webhook
from webhooks.models.filters import UNSTORABLE


def add_format(parser: CommandParser) -> None:
    parser.add_argument(
        "--format", choices=["table", "json"], default="table", help="Output format (table)."
    )


def add_no_input(parser: CommandParser) -> None:
    parser.add_argument(
        "--no-input",
        action="store_false",
        dest="is_interactive",
        help="Do not ask for confirmation.",
    )


def text(given: str) -> str:
    """Return a text as it is given; raises ArgumentTypeError for one that can mean nothing.

    An empty one comes from a variable without a value: taken for an option that was left out, it
    would widen what the command does to everybody's rows.
    """
    if not given.strip():
        raise ArgumentTypeError("the value is empty; give one, or leave the option out")
    if UNSTORABLE.search(given):
        raise ArgumentTypeError(f"{given!r} holds NUL or bytes that are not UTF-8")
    return given


def path(given: str) -> Path:
    """Return a path; raises ArgumentTypeError for an empty one, which Path takes for this folder."""
    if not given:
        raise ArgumentTypeError("the path is empty; give one, or leave the option out")
    return Path(given)


def public_id(prefix: str) -> Callable[[str], UUID]:
    """Return an argument type for public ids with this prefix; it also accepts UUIDs."""

    def read(text: str) -> UUID:
        try:
            return UUID(text) if "-" in text else parse_public_id(text, prefix)
        except (PublicIdInvalidError, ValueError):
            raise ArgumentTypeError(
                f"{text!r} is not an id of the form {prefix}<32 hex digits>"
            ) from None

    return read


def duration(text: str) -> timedelta:
    """Parse a duration; raises ArgumentTypeError."""
    try:
        return parse_duration(text)
    except ValueError as problem:
        raise ArgumentTypeError(str(problem)) from None


def moment(text: str) -> datetime:
    """Parse a time; raises ArgumentTypeError."""
    try:
        return parse_moment(text)
    except ValueError as problem:
        raise ArgumentTypeError(str(problem)) from None


def pattern(text: str) -> str:
    if not catalog.is_known_pattern(text):
        raise ArgumentTypeError(
            f"{text!r} selects no event type; manage.py trigger --list shows all event types"
        )
    return text


def event_type(text: str) -> str:
    if text not in catalog.WEBHOOK_EVENTS:
        raise ArgumentTypeError(
            f"{text!r} is not an event type; manage.py trigger --list shows all event types"
        )
    return text


def patterns(text: str) -> list[str]:
    return [pattern(part.strip()) for part in text.split(",")]


def statuses(text: str) -> list[str]:
    """Parse comma-separated statuses in upper or lower case; raises ArgumentTypeError."""
    parts = [part.strip().upper() for part in text.split(",")]
    if unknown := [part for part in parts if part not in DeliveryStatus.values]:
        raise ArgumentTypeError(
            f"{unknown[0].lower()!r} is not a status; choose from "
            f"{', '.join(DeliveryStatus.values).lower()}"
        )
    return parts


def at_least(low: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and len(text) <= 9 and int(text) >= low):
            raise ArgumentTypeError(f"{text!r} is not a whole number of at least {low}")
        return int(text)

    return read


def rate(text: str) -> float:
    """Parse `50`, `50/s` or `30/m` into a number per second; raises ArgumentTypeError."""
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
    """Return the owner with this id or name (webhooks/doors/owners.py); raises CommandError."""
    found = list(owners.find_owners(text)[:2])
    if len(found) != 1:
        problem = "does not exist" if not found else "is not unique"
        raise CommandError(f"The owner {text!r} {problem}: use an {owners.name_word()} or an id.")
    return found[0]


def find_owner_id(text: str) -> Any:
    """Return an owner's id; a UUID or number may be a deleted one's. Raises CommandError."""
    found = owners.key_of_owner(text)
    return find_owner(text).pk if found is None else found


def find_event(event_id: UUID) -> Event:
    """Return an event; raises CommandError if it does not exist."""
    event = Event.objects.filter(id=event_id).first()
    if event is None:
        raise CommandError(f"There is no event {EVENT_PREFIX}{event_id.hex}.")
    return event


def find_webhook(webhook_id: UUID, *, even_deleted: bool = False) -> Webhook:
    """Return a webhook; raises CommandError if it does not exist or was deleted."""
    webhook = Webhook.objects.filter(id=webhook_id).first()
    if webhook is None or (webhook.deleted_at and not even_deleted):
        raise CommandError(f"There is no webhook {WEBHOOK_PREFIX}{webhook_id.hex}.")
    return webhook
