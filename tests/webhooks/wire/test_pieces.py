"""An answer in many pieces costs little more than one in a few: calls are counted."""

import socket
from collections.abc import Iterator

import pytest

from tests.concurrency import calls_of
from tests.webhooks.sending import answer_of, kind_of, policy, request, send, send_all
from webhooks.wire import meter
from webhooks.wire.exchange import MAX_BODY_PIECES, MAX_LINES_READ, Exchange
from webhooks.wire.many import MultiSender, Outcome
from webhooks.wire.one import CurlAdapter
from webhooks.wire.sockets import Sockets
from webhooks.workbench.receiver import Behaviour, HttpReceiver

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


def raw(answer: bytes) -> Behaviour:
    return Behaviour(mode="raw", body=answer, end="close")


def in_bytes(count: int) -> bytes:
    return CHUNKED + b"1\r\nx\r\n" * count + b"0\r\n\r\n"


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    return calls_of(Exchange, "_write", monkeypatch)


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    return calls_of(Exchange, "_take_line", monkeypatch)


@pytest.mark.parametrize("piece", [b"1\r\nx\r\n", b"1;ext=" + b"e" * 100 + b"\r\nx\r\n"])
def test_body_in_too_many_pieces_is_cut_and_the_request_has_succeeded(
    receiver: HttpReceiver, pieces: list[float], piece: bytes
) -> None:
    receiver.behaviour = raw(CHUNKED + piece * 65_536 + b"0\r\n\r\n")

    outcomes = send_all([request(receiver.url)] * 10, timeout_seconds=5)

    assert {kind_of(outcome) for outcome in outcomes} == {"200"}
    assert all(answer_of(outcome).truncated for outcome in outcomes)
    assert len(pieces) <= 10 * (MAX_BODY_PIECES + 1)


def test_single_request_reads_no_more_pieces(receiver: HttpReceiver, pieces: list[float]) -> None:
    receiver.behaviour = raw(in_bytes(65_536))

    answer = CurlAdapter(policy("127.0.0.0/8")).send(request(receiver.url), timeout=5)

    assert answer.status_code == 200
    assert len(pieces) <= MAX_BODY_PIECES + 1


def test_body_in_as_many_pieces_as_are_read_is_whole(receiver: HttpReceiver) -> None:
    receiver.behaviour = raw(in_bytes(MAX_BODY_PIECES))

    answer = answer_of(send(receiver.url))

    assert (len(answer.content), answer.truncated) == (MAX_BODY_PIECES, False)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (OK + b"X: y\r\n" * 40_000 + b"\r\n", "too_large"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000 + OK + b"\r\n", "too_large"),
        (CHUNKED + b"2\r\nok\r\n0\r\n" + b"X: y\r\n" * 40_000 + b"\r\n", "200"),
    ],
)
def test_lines_of_headers_interim_answers_and_trailers_are_counted(
    receiver: HttpReceiver, lines: list[float], answer: bytes, kind: str
) -> None:
    receiver.behaviour = raw(answer)

    assert kind_of(send(receiver.url)) == kind
    assert len(lines) <= MAX_LINES_READ + 1


class Drip:
    """A receiver that sends its answer byte by byte, and the sender that reads it in between."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self.sender = MultiSender(policy("127.0.0.0/8"))
        self.ended: list[Outcome] = []

    def start(self) -> None:
        url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/"
        self.sender.start(request(url), timeout_seconds=30, context=None)
        self.sender.poll(0.0)

    def accept(self) -> socket.socket:
        connection, _ = self._listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def send(self, connection: socket.socket, answer: bytes, size: int = 1) -> None:
        for start in range(0, len(answer), size):
            connection.send(answer[start : start + size])
            self.ended += self.sender.poll(0.0)

    def end(self) -> Outcome:
        while not self.ended:
            self.ended += self.sender.poll(0.1)
        return self.ended.pop()


@pytest.fixture
def drip() -> Iterator[Drip]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        drip = Drip(listener)
        yield drip
        drip.sender.close()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    return calls_of(Sockets, "_act", monkeypatch)


@pytest.mark.parametrize(
    "head", [OK + b"X: ", OK + b"Content-Length: 2000\r\n\r\n", CHUNKED + b"1;"]
)
def test_socket_that_is_read_from_too_often_rests(
    drip: Drip, reads: list[float], monkeypatch: pytest.MonkeyPatch, head: bytes
) -> None:
    monkeypatch.setattr(meter, "REST_SECONDS", 3600)
    drip.start()
    with drip.accept() as connection:
        reads.clear()

        drip.send(connection, head + b"1" * 1000)

    assert not drip.ended
    assert len(reads) <= meter.FREE_READS + 10


def test_socket_that_has_rested_is_read_from_again(drip: Drip, reads: list[float]) -> None:
    answer = OK + b"X-Long: " + b"y" * 2000 + b"\r\nContent-Length: 2000\r\n\r\n" + b"z" * 2000
    drip.start()
    with drip.accept() as connection:
        drip.send(connection, answer)

        outcome = drip.end()

    assert kind_of(outcome) == "200"
    assert (len(answer_of(outcome).content), answer_of(outcome).truncated) == (2000, False)
    assert len(reads) < len(answer) / 2


def test_connection_of_which_each_answer_is_short_never_rests(
    drip: Drip, reads: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meter, "REST_SECONDS", 3600)
    drip.start()
    with drip.accept() as connection:
        for _ in range(8):
            drip.send(connection, OK + b"Content-Length: 2\r\n\r\nok", size=2)
            assert kind_of(drip.end()) == "200"
            drip.start()

    assert len(reads) > 3 * meter.FREE_READS
