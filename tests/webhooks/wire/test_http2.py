"""The same guards over HTTP/2, against Node's server."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest
from pytest_django import Settings

from tests.webhooks.certificates import Authority
from tests.webhooks.sending import answer_of, kind_of, policy, request, send_all
from webhooks.wire.many import MultiSender

HOST = "hooks.example"


@pytest.fixture
def received(tmp_path: Path, settings: Settings) -> Iterator[IO[str]]:
    """What the receiver writes: its port, then one line for each request."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("HTTP/2: node is not installed here")
    authority = Authority.make(tmp_path / "ca")
    settings.WEBHOOKS_CA_BUNDLE = str(authority.bundle)
    authority.context(HOST)
    program = Path(__file__).with_name("http2_receiver.mjs")
    command = [node, str(program), str(authority.folder / f"{HOST}.pem")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout
        process.kill()


@pytest.fixture
def base(received: IO[str]) -> str:
    return f"https://{HOST}:{received.readline().strip()}"


@pytest.fixture
def sender() -> Iterator[MultiSender]:
    sender = MultiSender(policy("127.0.0.0/8"), lookup=lambda _: ("127.0.0.1",))
    yield sender
    sender.close()


def test_http2_carries_exactly_the_expected_headers(
    received: IO[str], base: str, sender: MultiSender, dialled: list[str]
) -> None:
    headers = [("X-Team", "a"), ("Content-Type", "application/json"), ("webhook-id", "evt_1")]

    outcomes = send_all(
        [request(base + "/hook", headers=headers)] * 20, sender=sender, timeout_seconds=5
    )

    assert {kind_of(outcome) for outcome in outcomes} == {"200"}
    assert answer_of(outcomes[0]).head.startswith(b"HTTP/2 200")
    for _ in outcomes:
        fields = [tuple(field) for field in json.loads(received.readline())]
        assert sorted(fields[:4]) == [
            (":authority", base.removeprefix("https://")),
            (":method", "POST"),
            (":path", "/hook"),
            (":scheme", "https"),
        ]
        assert fields[4:] == [
            ("accept-encoding", "identity"),
            ("x-team", "a"),
            ("content-type", "application/json"),
            ("webhook-id", "evt_1"),
            ("content-length", "2"),
        ]
    assert set(dialled) == {"127.0.0.1"}


def test_http2_receiver_at_a_forbidden_address_is_not_connected_to(
    base: str, dialled: list[str]
) -> None:
    (outcome,) = send_all([request(base + "/hook")], allowed=(), lookup=lambda _: ("127.0.0.1",))

    assert (kind_of(outcome), dialled) == ("blocked_address", [])


@pytest.mark.parametrize(
    ("path", "kinds"),
    [
        ("/hang", {"timeout"}),
        ("/reset", {"reset", "protocol"}),
        ("/goaway", {"reset", "protocol", "timeout"}),
        ("/destroy", {"reset", "protocol"}),
        ("/cut", {"200"}),
        ("/early", {"201"}),
        ("/redirect", {"307"}),
        ("/headers", {"too_large", "protocol"}),
    ],
)
def test_http2_misbehaviour_is_classified(
    base: str, sender: MultiSender, path: str, kinds: set[str]
) -> None:
    (outcome,) = send_all([request(base + path)], sender=sender, timeout_seconds=1)

    assert kind_of(outcome) in kinds
    if path == "/early":
        assert dict(answer_of(outcome).headers)["x-final"] == "yes"
        assert "link" not in answer_of(outcome).headers
