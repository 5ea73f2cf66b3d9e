"""Identifiers: UUIDv7 in the database (time-ordered, so that inserts are cheap), prefixed hex outside."""

import re
import uuid
from datetime import datetime
from typing import Any

from django.conf import settings
from uuid_utils.compat import uuid7

from webhooks.errors import PublicIdInvalidError

WEBHOOK_PREFIX = "whk_"
EVENT_PREFIX = "evt_"
DELIVERY_PREFIX = "del_"
ATTEMPT_PREFIX = "att_"
BATCH_PREFIX = "bat_"
REDELIVERY_PREFIX = "red_"
TOKEN_PREFIX = "tok_"
PORTAL_LINK_PREFIX = "lnk_"

HEX_DIGITS = re.compile(r"[0-9A-Fa-f]{32}")


def new_id() -> uuid.UUID:
    """Return a new UUIDv7."""
    return uuid7()


def mark_of(owner_id: Any) -> str:
    """Return what an owner's tokens and portal keys begin with; see WEBHOOKS_OWNER_MARK."""
    mark = settings.WEBHOOKS_OWNER_MARK
    return "" if mark is None else str(mark(owner_id))


def first_id_of(moment: datetime) -> uuid.UUID:
    """Return the smallest UUIDv7 of this or a later time."""
    milliseconds = max(0, int(moment.timestamp() * 1000))
    return uuid.UUID(int=(milliseconds << 80) | (7 << 76) | (2 << 62))


def parse_public_id(value: str, prefix: str) -> uuid.UUID:
    """Return the UUID behind a public id such as `evt_0190…`.

    Raises PublicIdInvalidError for anything but the prefix and 32 hex digits.
    """
    # uuid.UUID() would also accept `0x`, underscores and digits of other scripts.
    if not (value.startswith(prefix) and HEX_DIGITS.fullmatch(value, len(prefix))):
        raise PublicIdInvalidError(f"{value!r} is not an id of the form {prefix}<32 hex digits>.")
    return uuid.UUID(hex=value[len(prefix) :])
