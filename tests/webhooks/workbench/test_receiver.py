"""Whatever a connection is about when the receiver closes, its socket is closed with it."""

import gc
import socket
import threading
from pathlib import Path

import pytest

from tests.webhooks.certificates import Authority
from tests.workers import wait_until
from webhooks.workbench.receiver import Behaviour, HttpReceiver


def connected_to(receiver: HttpReceiver) -> socket.socket:
    return socket.create_connection(("127.0.0.1", receiver.port), timeout=10)


def assert_all_are_closed(connections: list[socket.socket]) -> None:
    """Fail where the receiver's side is open, or was left for the garbage collector to close."""
    gc.collect()
    for connection in connections:
        with connection:
            try:
                while connection.recv(65536):
                    pass
            except ConnectionError:
                pass


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.make(tmp_path / "ca")


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x02\x00"])
def test_handshake_that_never_ends(authority: Authority, sent: bytes) -> None:
    with HttpReceiver(tls=authority.context("hooks.example")) as receiver:
        connection = connected_to(receiver)
        connection.sendall(sent)
        wait_until(lambda: receiver.connections == 1)

    assert_all_are_closed([connection])


def stop_for_a_while(receiver: HttpReceiver) -> threading.Event:
    """Stop the receiver's thread until the event is set."""
    is_stopped, go_on = threading.Event(), threading.Event()

    def stop() -> None:
        is_stopped.set()
        go_on.wait()

    receiver._loop.call_soon_threadsafe(stop)
    is_stopped.wait()
    return go_on


@pytest.mark.parametrize("is_tls", [False, True])
@pytest.mark.parametrize("comes_first", ["connection", "end"])
def test_connection_that_comes_with_the_end(
    authority: Authority, is_tls: bool, comes_first: str
) -> None:
    tls = authority.context("hooks.example") if is_tls else None
    with HttpReceiver(tls=tls) as receiver:
        go_on = stop_for_a_while(receiver)
        connections = [connected_to(receiver) for _ in range(5)]
        closing = threading.Thread(target=receiver.close)
        if comes_first == "end":
            closing.start()
        go_on.set()
        if comes_first == "connection":
            closing.start()
        closing.join()

    assert_all_are_closed(connections)


@pytest.mark.parametrize(
    "behaviour",
    [
        Behaviour(mode="hang"),
        Behaviour(mode="drip"),
        Behaviour(delay_seconds=3600),
        Behaviour(flood=b"x" * 65536),
        Behaviour(body=b"x" * 50_000_000, end="close"),
    ],
)
def test_answer_under_way(behaviour: Behaviour) -> None:
    with HttpReceiver(behaviour=behaviour) as receiver:
        connection = connected_to(receiver)
        connection.sendall(b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n")
        receiver.wait_for(1)

    assert_all_are_closed([connection])


@pytest.mark.parametrize("length", ["1" * 5000, "1" * 19, "-1", "", "one"])
def test_length_that_no_request_has_is_refused(
    length: str, caplog: pytest.LogCaptureFixture
) -> None:
    with HttpReceiver() as receiver, connected_to(receiver) as connection:
        connection.sendall(f"POST / HTTP/1.1\r\nContent-Length: {length}\r\n\r\n".encode())

        assert connection.recv(65536).startswith(b"HTTP/1.1 400 ")

    assert not caplog.records


def test_host_that_cannot_be_looked_up_is_an_error_and_ends_the_thread() -> None:
    receiver = HttpReceiver(host="x" * 300)

    with pytest.raises(UnicodeError), receiver:
        pass

    assert not receiver._thread.is_alive()
