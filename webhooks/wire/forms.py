"""How a stored event becomes the body of a request. Pure: a delivery sends the same bytes each time.

A form never changes what it renders: another rendering is another form. No value is decoded, so that
keys, order, numbers and Unicode survive as they were stored.
"""

import json
import re
from typing import NamedTuple
from urllib.parse import quote

from webhooks.choices import Form

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


def render(form: str | None, payload: bytes, object_reference: str) -> Rendered:
    """Return what is sent of an event in a form; None is the standard one.

    `object_reference` is the event's, empty where it has none. Never raises: a payload that is not
    an envelope, such as an erased one, stays as it is, and so does one in a form of a later release.
    """
    found = None if form is None else ENVELOPE.fullmatch(payload)
    if found is None:
        return Rendered(payload, JSON_TYPE)
    event_id, event_type, created, data = found.groups()
    reference = json.dumps(object_reference, ensure_ascii=False).encode()
    if form == Form.THIN:
        shown = reference if object_reference else b"null"
        body = b'{"id":"%b","type":"%b","created":"%b","object":%b,"url":"%b%b"}' % (
            event_id, event_type, created, shown, EVENT_PATH, event_id,
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
