"""The same guards over HTTP/2, against Node's server."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest
from pytest_django import Settings

from tests.concurrency import calls_of
from tests.webhooks.certificates import Authority
from tests.webhooks.sending import answer_of, kind_of, policy, request, send_all
from webhooks.wire import meter, names
from webhooks.wire.exchange import MAX_BODY_PIECES, Exchange
from webhooks.wire.many import MultiSender

HOST = "hooks.example"


@pytest.fixture
def most_streams() -> int:
    """How many requests the receiver allows at a time on a connection."""
    return 100


@pytest.fixture
def received(tmp_path: Path, settings: Settings, most_streams: int) -> Iterator[IO[str]]:
    """What the receiver writes: its port, then one line for each request."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("HTTP/2: node is not installed here")
    authority = Authority.make(tmp_path / "ca")
    settings.WEBHOOKS_CA_BUNDLE = str(authority.bundle)
    authority.context(HOST)
    program = Path(__file__).with_name("http2_receiver.mjs")
    command = [node, str(program), str(authority.folder / f"{HOST}.pem"), str(most_streams)]
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


@pytest.mark.parametrize("most_streams", [1])
def test_http2_request_never_waits_in_libcurl_for_a_stream(
    received: IO[str], base: str, sender: MultiSender
) -> None:
    send_all([request(base + "/ok")], sender=sender, timeout_seconds=5)
    for number in range(5):
        sender.start(request(base + "/hang"), timeout_seconds=5, context=number)
    while sender.unsent():
        sender.poll(0.1)

    # What was handed over has arrived, on connections of their own.
    paths = [dict(json.loads(received.readline()))[":path"] for _ in range(6)]
    assert paths == ["/ok"] + ["/hang"] * 5


def test_http2_connection_ends_when_its_name_moves_and_while_it_is_busy(
    received: IO[str], base: str, monkeypatch: pytest.MonkeyPatch, dialled: list[str]
) -> None:
    addresses: list[tuple[str, ...]] = [("127.0.0.1",)]
    monkeypatch.setattr(names, "RESOLVED_SECONDS", 0.0)
    sender = MultiSender(policy("127.0.0.0/8"), lookup=lambda _: addresses[0])
    # A stream that stays open keeps libcurl from ever closing the connection for its age.
    sender.start(request(base + "/hang"), timeout_seconds=30, context="hangs")
    while sender.unsent():
        sender.poll(0.1)

    def next_dialled() -> list[str]:
        before = len(dialled)
        for _ in range(100):
            sender.start(request(base + "/ok"), timeout_seconds=5, context="ok")
            while not sender.poll(0.1):
                pass
            if len(dialled) > before:
                break
        return dialled[before:]

    # Where nobody listens it goes on to the next: it is the set of addresses that has changed.
    addresses[0] = ("127.0.0.9", "127.0.0.1")
    assert "127.0.0.9" in next_dialled()
    monkeypatch.setattr(names, "MAX_LIFE_SECONDS", 0.01)
    assert next_dialled()
    sender.close()


@pytest.mark.parametrize(
    "target", ["/a/../b", "/a/./b", "/%2f%2F%41", "/?x=/../%2f", "//a//b", "?x"]
)
def test_http2_path_is_sent_as_it_is_stored(
    received: IO[str], base: str, sender: MultiSender, target: str
) -> None:
    send_all([request(base + target)], sender=sender, timeout_seconds=5)

    path = dict(json.loads(received.readline()))[":path"]
    assert path == (target if target.startswith("/") else "/" + target)


def test_http2_body_in_too_many_frames_is_cut(
    base: str, sender: MultiSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = calls_of(Exchange, "_write", monkeypatch)

    outcomes = send_all(
        [request(base + path) for path in ("/bytes", "/ok")], sender=sender, timeout_seconds=5
    )

    assert [kind_of(outcome) for outcome in outcomes] == ["200", "200"]
    assert [answer_of(outcome).truncated for outcome in outcomes] == [True, False]
    assert len(pieces) <= MAX_BODY_PIECES + 2


def test_http2_connection_by_which_requests_end_never_rests(
    base: str, sender: MultiSender, monkeypatch: pytest.MonkeyPatch, dialled: list[str]
) -> None:
    monkeypatch.setattr(meter, "REST_SECONDS", 3600)
    # Keeps the connection in use all the time.
    sender.start(request(base + "/hang"), timeout_seconds=60, context=None)
    while sender.unsent():
        sender.poll(0.1)

    for _ in range(2 * meter.FREE_READS):
        sender.start(request(base + "/ok"), timeout_seconds=5, context=None)
        while not (outcomes := sender.poll(0.1)):
            pass
        assert [kind_of(outcome) for outcome in outcomes] == ["200"]

    assert len(dialled) == 1
