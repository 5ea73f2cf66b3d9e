"""How a stored event becomes the body of a request. Pure: a delivery sends the same bytes each time.

A form never changes what it renders: another rendering is another form. No value is decoded, so that
keys, order, numbers and Unicode survive as they were stored.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from functools import lru_cache
from json.decoder import scanstring  # type: ignore[attr-defined]  # typeshed leaves it out
from typing import Any, NamedTuple
from urllib.parse import quote

from webhooks.choices import Form
from webhooks.wire.shapes import in_version

ENVELOPE = re.compile(
    rb'\{"id":"([^"]*)","type":"([^"]*)","created":"([^"]*)","data":(.*)\}', re.DOTALL
)
"""As build_event() in webhooks/outbox/store.py writes it."""
JSON_TYPE = b"application/json"
CLOUDEVENTS_TYPE = b"application/cloudevents+json"
SOURCE = b"urn:remotedevai:webhooks"
EVENT_PATH = b"/api/v1/events/"
HEADER_CHARACTERS = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')
"""What stands for itself in a header of CloudEvents' HTTP binding (3.1.3.2); the rest is encoded."""


BATCH_TYPE = b"application/cloudevents-batch+json"
BATCHED_FORMS = (Form.STANDARD, Form.THIN, Form.CLOUDEVENTS)
"""The forms whose bodies name their events, so that they may stand in one list."""


class Rendered(NamedTuple):
    """What a form makes of an event."""

    body: bytes
    content_type: bytes
    header_lines: tuple[bytes, ...] = ()


class Spec(NamedTuple):
    """A form and its parameters."""

    form: str
    fields: list[str] | None = None
    """The dotted paths of the form `fields`."""
    version: str | None = None
    """The date that its webhook pins, where the event is of a newer version."""


def spec_text(
    form: str, *, fields: Sequence[str] | None = None, version: date | None = None
) -> str:
    """Return a form and its parameters as they are stored."""
    given = {"form": str(form), "fields": fields, "version": version and version.isoformat()}
    return json.dumps(
        {name: value for name, value in given.items() if value is not None},
        ensure_ascii=False,
        separators=(",", ":"),
    )


@lru_cache(maxsize=1000)
def read_spec(text: str) -> Spec:
    """Return what spec_text() wrote."""
    return Spec(**json.loads(text))


def render(
    form: str | None,
    payload: bytes,
    object_reference: str,
    spec: str | None = None,
    stored_version: date | None = None,
) -> Rendered:
    """Return what is sent of an event in a form; None is the standard one.

    `object_reference` is the event's, empty where it has none; `spec` that of the StoredForm whose
    key `form` is, and `stored_version` the version of the event's data. Never raises: a payload that is
    not an envelope, such as an erased one, stays as it is, and so does one in a form of a later release.
    """
    found = None if form is None else ENVELOPE.fullmatch(payload)
    if found is None:
        return Rendered(payload, JSON_TYPE)
    event_id, event_type, created, data = found.groups()
    fields: list[str] | None = None
    if spec is not None:
        form, fields, version = read_spec(spec)
        if version is not None and stored_version is not None:
            pin = date.fromisoformat(version)
            data = in_version(event_type.decode(), data, stored_version, pin)
            payload = payload[: found.start(4)] + data + b"}"
    reference = json.dumps(object_reference, ensure_ascii=False).encode()
    if form == Form.THIN:
        shown = reference if object_reference else b"null"
        body = b'{"id":"%b","type":"%b","created":"%b","object":%b,"url":"%b%b"}' % (
            event_id, event_type, created, shown, EVENT_PATH, event_id,
        )  # fmt: skip
        return Rendered(body, JSON_TYPE)
    if fields is not None:
        body = b'{"id":"%b","type":"%b","created":"%b","data":%b}' % (
            event_id, event_type, created, pick(data, fields),
        )  # fmt: skip
        return Rendered(body, JSON_TYPE)
    if form == Form.RAW:
        return Rendered(data, JSON_TYPE)
    if form == Form.CLOUDEVENTS:
        subject = b'"subject":%b,' % reference if object_reference else b""
        body = (
            b'{"specversion":"1.0","id":"%b","source":"%b","type":"%b",%b"time":"%b",'
            b'"datacontenttype":"%b","data":%b}'
        ) % (event_id, SOURCE, event_type, subject, created, JSON_TYPE, data)
        return Rendered(body, CLOUDEVENTS_TYPE)
    if form == Form.CLOUDEVENTS_BINARY:
        lines = [
            b"ce-specversion: 1.0",
            b"ce-id: " + event_id,
            b"ce-source: " + SOURCE,
            b"ce-type: " + event_type,
            b"ce-time: " + created,
        ]
        if object_reference:
            lines.append(b"ce-subject: " + quote(object_reference, HEADER_CHARACTERS).encode())
        return Rendered(payload, JSON_TYPE, tuple(lines))
    return Rendered(payload, JSON_TYPE)


def content_type_of(form: str | None) -> bytes:
    """Return the content type of a batch of bodies in one of BATCHED_FORMS; None is the standard one."""
    return BATCH_TYPE if form == Form.CLOUDEVENTS else JSON_TYPE


# Chosen fields.

DECODER = json.JSONDecoder()
BLANK = re.compile(r"[ \t\r\n]*")
Tree = dict[str, Any]
"""Keys and the tree of what is chosen below them; None is all of it."""


@lru_cache(maxsize=1000)
def _tree_of(fields: tuple[str, ...]) -> Tree:
    tree: Tree = {}
    # Short paths first: a whole object is not cut down to some of its keys.
    for *above, last in sorted((path.split(".") for path in fields), key=len):
        branch: Tree | None = tree
        for key in above:
            branch = None if branch is None else branch.setdefault(key, {})
        if branch is not None:
            branch[last] = None
    return tree


def pick(data: bytes, fields: Iterable[str]) -> bytes:
    """Return an object with the chosen fields of data that are there, in its own order and bytes."""
    text = data.decode()
    start = _skip(text, 0)
    return _picked(text, start, _tree_of(tuple(fields))).encode() if text[start] == "{" else b"{}"


def _picked(text: str, start: int, tree: Tree) -> str:
    parts = []
    for key, name_at, value_at, end in _members(text, start):
        if key not in tree:
            continue
        below = tree[key]
        if below is None:
            value = text[value_at:end]
        elif text[value_at] == "{":
            value = _picked(text, value_at, below)
        else:
            continue
        parts.append(f"{text[name_at:value_at]}{value}")
    return "{" + ",".join(parts) + "}"


def _members(text: str, start: int) -> Iterator[tuple[str, int, int, int]]:
    """Yield the keys of the object at `start`, and where the key and the value begin and the value ends."""
    place = _skip(text, start + 1)
    while text[place] != "}":
        name_at = place
        key, place = scanstring(text, place + 1)
        value_at = _skip(text, _skip(text, place) + 1)
        _, end = DECODER.raw_decode(text, value_at)
        yield key, name_at, value_at, end
        place = _skip(text, end)
        if text[place] == ",":
            place = _skip(text, place + 1)


def _skip(text: str, place: int) -> int:
    return BLANK.match(text, place).end()  # type: ignore[union-attr]  # it matches nothing, too
