"""Identifiers: UUIDv7 inside (time-ordered, so inserts stay cheap), prefixed hex on the wire."""

import re
import uuid
from datetime import datetime

from uuid_utils.compat import uuid7

from webhooks.errors import PublicIdInvalidError

WEBHOOK_PREFIX = "whk_"
EVENT_PREFIX = "evt_"
DELIVERY_PREFIX = "del_"
ATTEMPT_PREFIX = "att_"
REDELIVERY_PREFIX = "red_"
TOKEN_PREFIX = "tok_"

HEX_DIGITS = re.compile(r"[0-9A-Fa-f]{32}")


def new_id() -> uuid.UUID:
    """Return a new UUIDv7."""
    return uuid7()


def first_id_of(moment: datetime) -> uuid.UUID:
    """Return the smallest UUIDv7 that can have been made at this time or later."""
    milliseconds = max(0, int(moment.timestamp() * 1000))
    return uuid.UUID(int=(milliseconds << 80) | (7 << 76) | (2 << 62))


def parse_public_id(value: str, prefix: str) -> uuid.UUID:
    """Return the UUID behind a public id such as `evt_0190…`.

    Raises PublicIdInvalidError for anything but the prefix and 32 hex digits.
    """
    # uuid.UUID would take `0x`, underscores and the digits of other scripts, too.
    if not (value.startswith(prefix) and HEX_DIGITS.fullmatch(value, len(prefix))):
        raise PublicIdInvalidError(f"{value!r} is not an id of the form {prefix}<32 hex digits>.")
    return uuid.UUID(hex=value[len(prefix) :])
