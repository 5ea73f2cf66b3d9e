"""Attempts and payloads as a person reads them."""

import json
import subprocess
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from webhooks.models import Attempt, Delivery
from webhooks.workbench.attempts import (
    SHOWN_BYTES,
    curl_command,
    readable,
    show_payload,
    view_attempts,
)
from webhooks.workbench.receiver import HttpReceiver


def attempt(**fields: Any) -> Attempt:
    values: dict[str, Any] = {
        "number": 1, "started_at": timezone.now(), "duration_ms": 5, "response_code": 200,
        "url": "https://receiver.example/hook?a=1&b=$(id)", "request_head": "X-One: it's",
    }  # fmt: skip
    return Attempt(**(values | fields))


@pytest.mark.parametrize(
    ("raw", "pretty"),
    [
        ('{"b":1,"a":[]}', '{\n  "b": 1,\n  "a": []\n}'),
        (
            '{"n":1.10,"big":12345678901234567890}',
            '{\n  "n": 1.10,\n  "big": 12345678901234567890\n}',
        ),
        ('[{"x":null},"a{b],\\""]', '[\n  {\n    "x": null\n  },\n  "a{b],\\""\n]'),
        ('"ü"', '"ü"'),
        ("{}", "{}"),
        ("not json", ""),
    ],
)
def test_readable_json_changes_breaks_alone(raw: str, pretty: str) -> None:
    assert show_payload(raw.encode()).pretty == pretty
    if pretty:
        assert json.loads(pretty) == json.loads(raw)


def test_a_big_payload_is_cut_on_the_page() -> None:
    body = show_payload(b'"' + b"x" * SHOWN_BYTES + b'"')

    assert (body.is_cut, body.pretty, len(body.raw)) == (True, "", SHOWN_BYTES)
    assert body.size == SHOWN_BYTES + 2


def test_bytes_that_are_no_text_are_shown_all_the_same() -> None:
    assert readable(b"a\xff\x00b") == "a\ufffd\ufffdb"


def test_attempts_know_the_time_between_them() -> None:
    now = timezone.now()
    newer, older = (
        attempt(number=2, started_at=now),
        attempt(started_at=now - timedelta(seconds=60), response_head=b"HTTP/2 503 \r\n\r\n"),
    )

    views = view_attempts([newer, older], b"{}")

    assert [view.retried_after_seconds for view in views] == [60.0, None]
    assert [view.status_line for view in views] == ["", "HTTP/2 503 "]


def test_curl_sends_the_recorded_request_again() -> None:
    payload = '{"quote":"it\'s $HOME `id` \\\\ ü"}'.encode()
    with HttpReceiver() as receiver:
        command = curl_command(
            attempt(
                url=f"{receiver.url}?a=1&b=$(id)",
                request_head='X-One: it\'s "quoted"\nContent-Length: 3\nwebhook-id: evt_1',
            ),
            payload,
        )
        subprocess.run(["/bin/sh", "-c", f"{command} --silent --noproxy '*'"], check=True)
        (request,) = receiver.wait_for(1)

    assert request.body == payload
    assert request.headers["x-one"] == 'it\'s "quoted"'
    assert request.headers["webhook-id"] == "evt_1"
    assert request.path.endswith("?a=1&b=$(id)")


@pytest.mark.django_db
def test_files_are_plain_text_whatever_they_hold(operator: Client, delivery: Delivery) -> None:
    payload = operator.get(f"/admin/webhooks/event/{delivery.event_id}/payload/")
    answer = operator.get(f"/admin/webhooks/delivery/{delivery.pk}/answer/1/")

    assert payload.content == bytes(delivery.event.payload)
    assert answer.content == b"<h1>it broke</h1>"
    for file in (payload, answer):
        assert file["Content-Type"] == "text/plain; charset=utf-8"
        assert file["Content-Disposition"].startswith("attachment; filename=")
        assert file["X-Content-Type-Options"] == "nosniff"
    assert operator.get(f"/admin/webhooks/delivery/{delivery.pk}/answer/9/").status_code == 404


@pytest.mark.django_db
def test_a_delivery_shows_its_attempts_and_takes_public_ids(
    operator: Client, delivery: Delivery
) -> None:
    page = operator.get(f"/admin/webhooks/delivery/{delivery.public_id}/change/").content.decode()

    for text in (
        "The receiver answered 500.", "HTTP/1.1 500 Oops", "&lt;h1&gt;it broke&lt;/h1&gt;", "83 ms",
        "X-Api-Key", "(not recorded)", "curl --request POST https://receiver.example/hook",
        "card_declined",
    ):  # fmt: skip
        assert text in page, text
    assert operator.get("/admin/webhooks/delivery/del_nonsense/change/").status_code == 404


def test_commands_read_a_long_body_from_a_file(tmp_path: Path) -> None:
    payload = b"'" * 5000
    (tmp_path / "payload.json").write_bytes(payload)
    (tmp_path / "verify.py").write_text("import sys; sys.exit(len(sys.stdin.read()) != 5000)")
    with HttpReceiver() as receiver:
        (view,) = view_attempts([attempt(url=receiver.url)], payload)
        for command in (f"{view.curl} --silent --noproxy '*'", view.verify):
            subprocess.run(["/bin/sh", "-c", command], check=True, cwd=tmp_path)
        (request,) = receiver.wait_for(1)

    assert request.body == payload
    assert view.needs_file
    assert "payload.json" in view.verify
    assert not view_attempts([attempt()], b"{}")[0].needs_file
