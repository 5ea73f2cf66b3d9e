"""Encode event data as JSON: the bytes to store, sign and send, and the value they decode to.

Validation uses the decoded value, never the caller's objects, so that it checks the sent data.
"""

import json
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

from django.utils.functional import Promise

from webhooks.catalog import wire_time
from webhooks.errors import EventDataInvalidError

MAX_DATA_BYTES = 256 * 1024
MAX_NESTING = 32


class EncodedData(NamedTuple):
    text: bytes
    """UTF-8."""
    value: Any
    """The value that a receiver decodes from the text."""


def encode(data: Any) -> EncodedData:
    """Return event data as JSON text and decoded value.

    UUIDs, dates, times, decimals and lazy texts become text, durations become seconds, mappings
    become objects; keys that are numbers, booleans or None become text in the way of `json.dumps()`.
    Raises EventDataInvalidError for values without a JSON form and for data that receivers may fail
    to read: NaN, Infinity, NUL, lone surrogates, duplicate keys, more than 256 KB or 32 levels.
    """
    try:
        text = ENCODER.encode(data)
        encoded = text.encode()
        _check_size(encoded)
        value = DECODER.decode(text)
    except EventDataInvalidError:
        raise
    except Exception as problem:  # the caller's objects may run any code, as lazy texts do
        raise EventDataInvalidError(
            f"The data cannot be sent as JSON: {_reason(problem)}."
        ) from None
    if "\\u0000" in text and _contains_nul(value):
        raise EventDataInvalidError("The data contains a NUL character.")
    brackets = text.count("{") + text.count("[")
    if brackets > MAX_NESTING and nesting(value) > MAX_NESTING:
        raise EventDataInvalidError(f"The data is nested deeper than {MAX_NESTING} levels.")
    return EncodedData(encoded, value)


def _check_size(encoded: bytes) -> None:
    if len(encoded) > MAX_DATA_BYTES:
        raise EventDataInvalidError(
            f"The data takes {len(encoded):,} bytes; the limit is {MAX_DATA_BYTES:,}."
        )


def _convert(value: object) -> Any:
    """Return the JSON value of an object that `json` cannot encode; raises ValueError if none."""
    if isinstance(value, datetime):
        if value.utcoffset() is None:
            raise ValueError(f"the time {value.isoformat()} has no time zone")
        return wire_time(value)
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
        return int(seconds) if seconds.is_integer() else seconds
    if isinstance(value, (UUID, Promise)):
        return str(value)
    if isinstance(value, Decimal) and value.is_finite():
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise ValueError(f"a value of type {type(value).__name__} has no JSON form")


def _object_with_unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("two keys of an object, such as 1 and '1', become the same text")
    return value


# json.dumps() and json.loads() would create these for each call.
ENCODER = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_convert
)
DECODER = json.JSONDecoder(object_pairs_hook=_object_with_unique_keys)


def _reason(problem: Exception) -> str:
    if isinstance(problem, UnicodeEncodeError):
        return "it contains a lone surrogate"
    if isinstance(problem, RecursionError):
        return f"it is nested deeper than {MAX_NESTING} levels"
    # The message of int() suggests raising a Python limit, which does not help an API client.
    text = str(problem)
    return "an integer has too many digits" if "limit (" in text else text[:200].rstrip(".")


def _contains_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(_contains_nul(part) for pair in value.items() for part in pair)
    return isinstance(value, list) and any(map(_contains_nul, value))


def nesting(value: Any) -> int:
    """Return how deep the objects and lists of a parsed JSON text are nested."""
    if isinstance(value, dict):
        return 1 + max(map(nesting, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(nesting, value), default=0)
    return 0
