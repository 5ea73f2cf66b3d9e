"""Read JSON bodies that may be hostile, in bounded time, memory and depth; refuse ambiguous ones."""

import json
import math
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, UnreadablePostError
from rest_framework.exceptions import ParseError
from rest_framework.parsers import BaseParser

from webhooks.api.errors import BodyTooLargeError

MAX_NESTING = 40
"""The maximum depth of a body: 32 levels for an event's data, and some around it."""

MAX_PARTS = 50_000
"""The maximum arrays, objects and members: a megabyte of them takes 0.5 s and 30 MB to parse."""

TEXT = re.compile(r'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
"""A string, or the rest of the body after an unfinished string, so that no part is read twice."""
NUL_ESCAPE = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
SURROGATE_ESCAPE = re.compile(r"\\u[dD][89abAB]|\\u[dD][c-fC-F]")


class StrictJSONParser(BaseParser):
    """A parser that refuses bodies that receivers and databases read differently or not at all.

    It refuses encodings other than UTF-8, a BOM, NaN and Infinity, numbers out of range, duplicate
    keys, NUL, lone surrogates, and more than 40 levels.
    """

    media_type = "application/json"

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Any = None) -> Any:
        return parse_strictly(read_body(parser_context["request"]._request))


def read_body(request: HttpRequest) -> bytes:
    """Return the body, at most DATA_UPLOAD_MAX_MEMORY_SIZE of it; raises BodyTooLargeError and
    ParseError.
    """
    try:
        # The request keeps the bytes, for example for Idempotency-Key.
        return request.body
    except RequestDataTooBig:
        raise BodyTooLargeError from None
    except UnreadablePostError:
        raise ParseError("The body ended too early.") from None


def parse_strictly(body: bytes) -> Any:
    """Return the value of a JSON text; raises ParseError with the reason."""
    try:
        text = body.decode()
        _check_parts(text)
        is_deep = _count_containers(text) > MAX_NESTING
        value = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_float=_finite,
            parse_constant=_refuse_constant,
        )
    except UnicodeDecodeError:
        raise ParseError("The body is not UTF-8.") from None
    except RecursionError:
        raise ParseError(f"The body is nested deeper than {MAX_NESTING} levels.") from None
    except ValueError as problem:
        raise ParseError(f"The body is not valid JSON: {_reason(problem)}") from None
    if is_deep:
        _check_nesting(value)
    if NUL_ESCAPE.search(text):
        raise ParseError("The body holds a NUL character (\\u0000); leave it out.")
    if SURROGATE_ESCAPE.search(text):
        _check_surrogates(value)
    return value


def _check_parts(text: str) -> None:
    if _count_containers(text) + text.count(":") <= MAX_PARTS:
        return
    bare = TEXT.sub("", text)
    if _count_containers(bare) + bare.count(":") > MAX_PARTS:
        raise ParseError(f"The body holds more than {MAX_PARTS:,} arrays, objects and members.")


def _count_containers(text: str) -> int:
    """Return the number of arrays and objects; brackets within strings count too."""
    return text.count("[") + text.count("{")


class _NotJsonError(ValueError):
    """Python accepts the text, but JSON does not allow it; the message is for the client."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _NotJsonError("an object has the same key twice.")
    return found


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise _NotJsonError("a number is out of range.")
    return number


def _refuse_constant(text: str) -> NoReturn:
    raise _NotJsonError(f"{text} is not JSON.")


def _reason(problem: ValueError) -> str:
    if isinstance(problem, json.JSONDecodeError):
        return f"{problem.msg} at line {problem.lineno}, column {problem.colno}."
    if isinstance(problem, _NotJsonError):
        return str(problem)
    # The message of int() recommends a Python function.
    return "an integer has too many digits."


def _check_nesting(value: Any) -> None:
    # Level by level: a hostile body would exhaust recursion.
    level = [value]
    for _ in range(MAX_NESTING):
        level = [
            child
            for part in level
            if isinstance(part, (dict, list))
            for child in (part.values() if isinstance(part, Mapping) else part)
            if isinstance(child, (dict, list))
        ]
        if not level:
            return
    raise ParseError(f"The body is nested deeper than {MAX_NESTING} levels.")


def _check_surrogates(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ParseError("The body holds half of a surrogate pair (\\ud800 to \\udfff).") from None
