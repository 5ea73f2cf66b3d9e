"""Data in an older version of its event type, as text. Pure.

Numbers keep their spelling wherever a version's function puts them.
"""

import json
import logging
from datetime import date
from typing import Any

from webhooks import catalog
from webhooks.errors import EventTypeUnknownError

logger = logging.getLogger(__name__)


class Spelled(float):
    """A number with a fraction or an exponent, and its text."""

    text: str

    @classmethod
    def read(cls, text: str) -> "Spelled":
        number = cls(text)
        number.text = text
        return number


DECODER = json.JSONDecoder(parse_float=Spelled.read)
ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


def in_version(event_type: str, data: bytes, stored: date, pin: date) -> bytes:
    """Return data of the version `stored` as a webhook gets it that pins this date.

    Where a version's function fails, the data stays as it is and the failure is logged: a request
    that cannot be built would never leave.
    """
    try:
        declared = catalog.get_type(event_type)
        value = DECODER.decode(data.decode())
        return _text(declared.data_at(value, stored, pin)).encode()
    except EventTypeUnknownError:
        return data
    except Exception:
        logger.exception("Data of %s has no version %s.", event_type, pin)
        return data


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{ENCODER.encode(k)}:{_text(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(_text, value)) + "]"
    return value.text if isinstance(value, Spelled) else ENCODER.encode(value)
