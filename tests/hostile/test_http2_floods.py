"""Frames without an answer, as fast as they are taken: a connection of HTTP/2 has its budget, too."""

import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_django import Settings

from tests.servers import stop_listening
from tests.webhooks.certificates import Authority
from tests.webhooks.sending import kind_of, policy, request
from webhooks.wire.many import MultiSender


def frame(kind: int, payload: bytes, stream: int = 0) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, 0]) + stream.to_bytes(4, "big") + payload


SETTINGS = frame(4, b"")
FLOODS = {
    "unknown": frame(0xFA, b"x" * 64) * 200,
    "priority": frame(2, b"\0\0\0\3\1", 5) * 1000,
    "window": frame(8, b"\0\0\0\1") * 1000,
}


class Flooding:
    """A TLS server that speaks HTTP/2 to everybody, and nothing but one flood."""

    def __init__(self, context: ssl.SSLContext, flood: bytes) -> None:
        self.connections = 0
        self._context = context
        self._flood = flood
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}/"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            try:
                with self._context.wrap_socket(connection, server_side=True) as secure:
                    secure.sendall(SETTINGS)
                    while True:
                        secure.sendall(self._flood)
            except OSError:
                pass

    def close(self) -> None:
        stop_listening(self._listener, self._thread)


@pytest.fixture(params=FLOODS)
def flooding(
    request: pytest.FixtureRequest, tmp_path: Path, settings: Settings
) -> Iterator[Flooding]:
    authority = Authority.make(tmp_path / "ca")
    settings.WEBHOOKS_CA_BUNDLE = str(authority.bundle)
    context = authority.context("127.0.0.1")
    context.set_alpn_protocols(["h2"])
    flooding = Flooding(context, FLOODS[request.param])
    yield flooding
    flooding.close()


def test_flood_of_frames_is_cut_off_and_not_asked_again(flooding: Flooding) -> None:
    sender = MultiSender(policy("127.0.0.0/8"))
    sender.start(request(flooding.url), timeout_seconds=30, context=None)

    while not (outcomes := sender.poll(0.1)):
        pass
    sender.close()

    (outcome,) = outcomes
    # nghttp2 sees through some of them by itself.
    assert kind_of(outcome) in ("too_large", "protocol")
    assert outcome.duration_ms < 15_000
    assert flooding.connections == 1
