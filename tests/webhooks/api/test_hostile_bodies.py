"""Bodies meant to exhaust or to deceive (A13, A14): refused at once, in bounded memory."""

import gc
import resource
import socket
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from rest_framework.exceptions import ParseError
from rest_framework.test import APIClient

from projects.models import Project
from webhooks.api.parsers import parse_strictly

MAX_SECONDS = 0.05
PATIENCE = 6
"""A machine that does other things too may take so many times as long as the rule says."""
MAX_GROWTH_BYTES = 20 * 1024 * 1024
MEGABYTE = 1024 * 1024

BOMBS = {
    "100,000 nested arrays": b"[" * 100_000,
    "100,000 nested arrays that end": b"[" * 100_000 + b"]" * 100_000,
    "100,000 nested objects": b'{"a":' * 100_000,
    "41 levels": b"[" * 41 + b"]" * 41,
    "an integer of 5,000 digits": b'{"name":' + b"9" * 5000 + b"}",
    "a number out of range": b'{"name":1e999}',
    "a negative number out of range": b'{"name":-1e999}',
    "NaN": b'{"name":NaN}',
    "Infinity": b'{"name":-Infinity}',
    "a key twice": b'{"name":"a","name":"b"}',
    "a key twice, escaped": b'{"name":"a","n\\u0061me":"b"}',
    "a BOM": b'\xef\xbb\xbf{"name":"a"}',
    "UTF-16": '{"name":"a"}'.encode("utf-16"),
    "UTF-32": '{"name":"a"}'.encode("utf-32"),
    "Latin-1": '{"name":"ä"}'.encode("latin-1"),
    "an overlong encoding": b'{"name":"\xc0\xaf"}',
    "half of a surrogate pair": b'{"name":"\\ud800"}',
    "the other half": b'{"name":"\\udc00"}',
    "halves in the wrong order": b'{"name":"\\udc00\\ud800"}',
    "an encoded surrogate": b'{"name":"\xed\xa0\x80"}',
    "a NUL": b'{"name":"a\\u0000b"}',
    "a NUL in a key": b'{"na\\u0000me":"b"}',
    "a NUL behind a backslash": b'{"name":"\\\\\\u0000"}',
    "a raw control character": b'{"name":"a\x01b"}',
    "nothing": b" ",
    "two values": b"{} {}",
    "a comment": b'{"name":"a"} // b',
    "an array": b'["name"]',
    "text": b'"name"',
    "null": b"null",
    "350,000 empty arrays": b"[" + b"[]," * 349_000 + b"[]]",
    "350,000 empty objects": b"[" + b"{}," * 349_000 + b"{}]",
    "110,000 members": b"{" + b",".join(b'"%x":1' % one for one in range(110_000)) + b"}",
    "quotes without end": b'["' + b'\\"[' * 349_000,
}


@pytest.fixture(autouse=True)
def _only_own_garbage() -> Iterator[None]:
    """What other tests left behind is not looked through while the time is taken."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.parametrize("name", BOMBS)
def test_bomb_is_refused(client: APIClient, name: str) -> None:
    client.get("/api/v1/projects")
    peak, started_at = _peak(), time.thread_time()

    response = client.post("/api/v1/projects", BOMBS[name], content_type="application/json")

    assert time.thread_time() - started_at <= MAX_SECONDS * PATIENCE
    assert _peak() - peak <= MAX_GROWTH_BYTES
    assert response.status_code == 400
    assert response["Content-Type"] == "application/problem+json"
    assert not Project.objects.exists()


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize(
    "bomb",
    [
        b"[" + b"[]," * 49_000 + b"[]]",
        b'{"a":"' + b"[{" * 524_000 + b'"}',
        b"[" + b"1.5," * 262_000 + b"1]",
        b'{"a":"' + b"\\ud83d\\ude00" * 87_000 + b'"}',
        b'{"a":"' + b"\\\\" * 524_000 + b'"}',
        b"{" + b",".join(b'"%020x":1' % number for number in range(40_000)) + b"}",
    ],
    ids=["arrays", "brackets", "numbers", "pairs", "backslashes", "keys"],
)
def test_largest_body_is_read_in_bearable_time(bomb: bytes) -> None:
    assert len(bomb) <= MEGABYTE + 100
    started_at = time.thread_time()

    parse_strictly(bomb)

    assert time.thread_time() - started_at <= MAX_SECONDS * PATIENCE


def test_what_only_looks_forbidden_is_read() -> None:
    assert parse_strictly(b'{"a":"\\\\u0000 \\ud83d\\ude00"}') == {"a": "\\u0000 😀"}
    assert parse_strictly(b"[" * 40 + b"]" * 40)
    assert parse_strictly(b'"' + b"[" * 1000 + b'"') == "[" * 1000
    assert parse_strictly(b"123456789012345678901234567890") == 123456789012345678901234567890
    with pytest.raises(ParseError, match="40 levels"):
        parse_strictly(b"[" * 500 + b"]" * 500)


@pytest.mark.parametrize("size", [MEGABYTE + 1, 10 * MEGABYTE])
def test_body_over_the_limit(client: APIClient, size: int) -> None:
    response = client.post("/api/v1/projects", b" " * size, content_type="application/json")

    assert response.status_code == 413
    assert "1,048,576" in response.json()["detail"]


# Real sockets from here on.


def _exchange(address: tuple[str, int], head: str, body: bytes = b"") -> tuple[bytes, float]:
    started_at = time.perf_counter()
    with socket.create_connection(address, timeout=5) as connection:
        connection.sendall(head.replace("\n", "\r\n").encode() + body)
        answer = b""
        while b"requestId" not in answer and (chunk := connection.recv(65536)):
            answer += chunk
    return answer, time.perf_counter() - started_at


HEAD = """POST /api/v1/projects HTTP/1.1
Host: localhost
Authorization: Bearer {token}
Content-Type: application/json
{length}

"""


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("length", "body", "status"),
    [
        ("Content-Length: 1073741824", b'{"name":', b"413"),
        ("Content-Length: 99999999999999999999999999", b"", b"413"),
        ("Transfer-Encoding: chunked", b'd\r\n{"name":"a"}\n\r\n0\r\n\r\n', b"411"),
        ("Transfer-Encoding: chunked\nContent-Length: 13", b'{"name":"a"}', b"411"),
        ("Transfer-Encoding: gzip, chunked", b"0\r\n\r\n", b"411"),
        ("Content-Encoding: gzip\nContent-Length: 4", b"\x1f\x8b\x08\x00", b"415"),
        ("X-Nothing: 1", b"", b"400"),
    ],
)
def test_body_without_a_bound_is_refused_unread(
    live_server: Any, user: Any, make_token: Any, length: str, body: bytes, status: bytes
) -> None:
    address = (live_server.thread.host, live_server.thread.port)
    process = psutil.Process()
    before = process.memory_info().rss

    answer, seconds = _exchange(address, HEAD.format(token=make_token(user), length=length), body)

    assert answer.split(b" ")[1] == status, answer
    assert b"application/problem+json" in answer
    assert seconds <= MAX_SECONDS * PATIENCE
    assert process.memory_info().rss - before <= MAX_GROWTH_BYTES
    assert not Project.objects.exists()
