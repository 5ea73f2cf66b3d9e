"""Forms: the bytes of each are those of the golden files, in every process and for ever."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_http_event

from tests.webhooks.wire.golden_forms import FOLDER, golden_text
from webhooks.choices import Form
from webhooks.wire.forms import pick, render, spec_text
from webhooks.wire.header_rules import is_forbidden

ROOT = Path(__file__).resolve().parents[3]
DATA = (
    b'{"n":1.10,"big":12345678901234567890,"b":1,"a":"Zo\xc3\xab \\"data\\":{}} \xf0\x9f\x9a\x80"}'
)
PAYLOAD = b'{"id":"evt_1","type":"a.b","created":"2026-11-23T10:30:00.123Z","data":%b}' % DATA
OTHER_FORMS = [form for form in Form if form != Form.STANDARD]


@pytest.mark.parametrize("form", Form)
def test_a_form_renders_what_it_always_did(form: Form) -> None:
    assert (FOLDER / f"{form}.txt").read_text() == golden_text(form)


def test_another_process_renders_the_same() -> None:
    script = (
        "import django; django.setup(); from tests.webhooks.wire.golden_forms import main; main()"
    )
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in FOLDER.iterdir()}
    environment = {**os.environ, "PYTHONHASHSEED": "7", "DJANGO_SETTINGS_MODULE": "config.settings"}

    subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, check=True)

    for path, (content, written_at) in before.items():
        assert path.read_bytes() == content
        assert path.stat().st_mtime_ns > written_at


def test_data_keeps_its_bytes() -> None:
    assert render(None, PAYLOAD, "").body == PAYLOAD
    assert render(Form.RAW, PAYLOAD, "").body == DATA
    assert render(Form.CLOUDEVENTS, PAYLOAD, "").body.endswith(b'"data":%b}' % DATA)
    assert render(Form.CLOUDEVENTS_BINARY, PAYLOAD, "").body == PAYLOAD
    assert DATA not in render(Form.THIN, PAYLOAD, "").body


@pytest.mark.parametrize(
    ("fields", "picked"),
    [
        (["b", "n"], b'{"n":1.10,"b":1}'),
        (["big"], b'{"big":12345678901234567890}'),
        (["none", "n.x", "b"], b'{"b":1}'),
        (["a"], DATA[DATA.index(b'"a"') - 1 :].replace(b',"a"', b'{"a"')),
        (["none"], b"{}"),
    ],
)
def test_chosen_fields_keep_their_order_and_bytes(fields: list[str], picked: bytes) -> None:
    rendered = render("key", PAYLOAD, "", spec_text(Form.FIELDS, fields=fields))

    assert rendered.body == PAYLOAD.replace(DATA, picked)


@pytest.mark.parametrize(
    ("data", "fields", "picked"),
    [
        (b'{"a":{"x":1,"y":2},"b":3}', ["a.y", "b"], b'{"a":{"y":2},"b":3}'),
        (b'{"a":{"x":1,"y":2},"b":3}', ["a.y", "a"], b'{"a":{"x":1,"y":2}}'),
        (b'{ "a" : { "x" : [1, {"x": 2}] } , "b" : 3 }', ["a.x"], b'{"a" : {"x" : [1, {"x": 2}]}}'),
        (b'{"a":{"x":{"y":null}}}', ["a.x.y", "a.x.z"], b'{"a":{"x":{"y":null}}}'),
        (b'{"a":{},"b":null}', ["a.x", "b.x"], b'{"a":{}}'),
        (b'{"\\u0061":1,"\\"b":2}', ["a"], b'{"\\u0061":1}'),
        (b"{}", ["a"], b"{}"),
        (b"[1]", ["a"], b"{}"),
    ],
)
def test_fields_are_chosen_by_their_path(data: bytes, fields: list[str], picked: bytes) -> None:
    assert pick(data, fields) == picked


@pytest.mark.parametrize("form", OTHER_FORMS)
@pytest.mark.parametrize("payload", [b"", b"{}", b"[1]", PAYLOAD[1:]])
def test_what_is_no_envelope_goes_as_it_is(form: Form, payload: bytes) -> None:
    assert render(form, payload, "").body == payload
    assert render("of_a_later_release", PAYLOAD, "").body == PAYLOAD


@pytest.mark.parametrize("reference", ["", "project:1", 'Zoë 🚀 "100 %"\r\nX-Evil: 1'])
@pytest.mark.parametrize("form", [Form.CLOUDEVENTS, Form.CLOUDEVENTS_BINARY])
def test_the_official_library_reads_cloudevents(form: Form, reference: str) -> None:
    rendered = render(form, PAYLOAD, reference)
    headers = dict(line.decode().split(": ", 1) for line in rendered.header_lines)
    assert not any(character in line for line in rendered.header_lines for character in b"\r\n")

    event = from_http_event(
        HTTPMessage({**headers, "content-type": rendered.content_type.decode()}, rendered.body)
    )

    assert event.get_id() == "evt_1"
    assert event.get_type() == "a.b"
    assert event.get_source() == "urn:remotedevai:webhooks"
    assert str(event.get_time()) == "2026-11-23 10:30:00.123000+00:00"
    assert event.get_subject() == (reference or None)
    assert event.get_datacontenttype() == "application/json"
    expected = DATA if form == Form.CLOUDEVENTS else PAYLOAD
    assert event.get_data() == json.loads(expected)


def test_no_custom_header_speaks_for_a_cloudevent() -> None:
    assert is_forbidden("ce-id")
    assert is_forbidden("Ce_Type")
    assert not is_forbidden("certificate")
