"""One attempt as a person reads it: what was asked, what was answered, and how to ask again."""

import json
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from webhooks.models import Attempt

SHOWN_BYTES = 64 * 1024
"""More of a payload is downloaded, not shown."""
MAX_PRETTY = 8 * SHOWN_BYTES
"""Indenting multiplies what is nested deeply; beyond this it shows as it came."""
MAX_QUOTED = 8 * 1024
"""A longer body stands in a file beside a command; a page holds a body twice for each attempt."""
BODY_FILE = "payload.json"
PER_PAGE = 25
TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]:,]|[^\s{}\[\]:,"]+')
"""A string, a mark, or a number or word of JSON."""
CURL_LEFT_OUT = frozenset({"content-length", "host"})


@dataclass(frozen=True, slots=True)
class AttemptView:
    """An attempt with what an operator may see of it."""

    attempt: Attempt
    status_line: str
    response_text: str
    curl: str
    verify: str
    """A command that verifies the request with one of the snippets."""
    needs_file: bool
    """Whether both read the body from BODY_FILE."""
    retried_after_seconds: float | None
    """Since the attempt before it."""


@dataclass(frozen=True, slots=True)
class Body:
    """A payload, exactly and readably."""

    raw: str
    pretty: str
    """Indented, in its own order; empty where it is not JSON, or too long then."""
    size: int
    is_cut: bool


def view_attempts(attempts: Sequence[Attempt], payload: bytes) -> list[AttemptView]:
    """Return the attempts, newest first, as they are shown."""
    views = []
    needs_file = _quoted(payload) is None
    for index, attempt in enumerate(attempts):
        older = attempts[index + 1] if index + 1 < len(attempts) else None
        gap = None if older is None else (attempt.started_at - older.started_at).total_seconds()
        views.append(
            AttemptView(
                attempt,
                _status_line(attempt),
                readable(bytes(attempt.response_body or b"")),
                curl_command(attempt, payload),
                verify_command(attempt, payload),
                needs_file,
                gap,
            )
        )
    return views


def _status_line(attempt: Attempt) -> str:
    head = bytes(attempt.response_head or b"").decode("latin-1")
    return head.splitlines()[0] if head else ""


def readable(body: bytes) -> str:
    """Return bytes as text; what is not UTF-8 shows as replacement characters."""
    return body.decode("utf-8", "replace").replace("\0", "\ufffd")


def show_payload(payload: bytes) -> Body:
    is_cut = len(payload) > SHOWN_BYTES
    return Body(
        readable(payload[:SHOWN_BYTES]), "" if is_cut else _indented(payload), len(payload), is_cut
    )


def _indented(payload: bytes) -> str:
    """Return JSON with line breaks and nothing else changed: no key sorted, no digit lost."""
    try:
        text = payload.decode()
        json.loads(text)
    except (ValueError, RecursionError):
        return ""
    parts, room = [], MAX_PRETTY
    for part in _with_breaks(TOKEN.findall(text)):
        parts.append(part)
        room -= len(part)
        if room < 0:
            return ""
    return "".join(parts)


def _with_breaks(tokens: Sequence[str]) -> Iterator[str]:
    depth, before = 0, ""
    for token in tokens:
        if token in "}]":
            depth -= 1
        is_empty = before + token in ("{}", "[]")
        if before and not is_empty and (token in "}]" or before in "{[,"):
            yield "\n" + "  " * depth
        yield f"{token} " if token == ":" else token
        if token in "{[":
            depth += 1
        before = token


def _quoted(payload: bytes) -> str | None:
    """Return a body as a word of a shell's command; None if it is too long for one."""
    if len(payload) > MAX_QUOTED:
        return None
    quoted = shlex.quote(readable(payload))
    return quoted if len(quoted) <= MAX_QUOTED else None


def curl_command(attempt: Attempt, payload: bytes) -> str:
    """Return a command that sends the same request again.

    The signature is the recorded one, so its timestamp is stale; the values of custom headers are
    not recorded and have to be filled in.
    """
    lines = [f"curl --request POST {shlex.quote(attempt.url)}"]
    lines += [
        f"--header {shlex.quote(f'{name}: {value}')}"
        for name, value in attempt.request_headers
        if name.lower() not in CURL_LEFT_OUT
    ]
    lines.append(f"--data-binary {_quoted(payload) or f'@{BODY_FILE}'}")
    return " \\\n  ".join(lines)


def verify_command(attempt: Attempt, payload: bytes) -> str:
    """Return a command that verifies the same request with the Python snippet, as of its own time.

    The secret has to be filled in.
    """
    headers = {name.lower(): value for name, value in attempt.request_headers}
    timestamp = headers.get("webhook-timestamp", "")
    variables = {
        "WEBHOOK_SECRET": "whsec_…",
        "WEBHOOK_ID": headers.get("webhook-id", ""),
        "WEBHOOK_TIMESTAMP": timestamp,
        "WEBHOOK_SIGNATURE": headers.get("webhook-signature", ""),
        "WEBHOOK_NOW": timestamp,
    }
    quoted = _quoted(payload)
    lines = [f"cat {BODY_FILE} |" if quoted is None else f"printf %s {quoted} |"]
    lines += [f"{name}={shlex.quote(value)}" for name, value in variables.items()]
    return " \\\n  ".join([*lines, "python3 verify.py && echo valid"])
