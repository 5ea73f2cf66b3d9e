"""Receivers that are cheap to run and dear to listen to: `python -m tests.hostile.receivers`.

Prints its URL; the first word of a request's path chooses what is answered. It runs in a process of
its own, whose time and memory are not the sender's, and yields to all others on the machine.
"""

import asyncio
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
EMPTY = b"Content-Length: 0\r\n\r\n"
PLAIN = "plain"
ANSWERS = {
    PLAIN: OK + EMPTY,
    "chunks": CHUNKED + b"1\r\nx\r\n" * 65_536 + b"0\r\n\r\n",
    "interim": b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000 + OK + EMPTY,
    "trailers": CHUNKED + b"2\r\nok\r\n0\r\n" + b"X: y\r\n" * 40_000 + b"\r\n",
    "headers": OK + b"X: y\r\n" * 40_000 + b"\r\n",
    "large": OK
    + (b"X: " + b"y" * 600 + b"\r\n") * 98
    + b"Content-Length: 65536\r\n\r\n"
    + b"x" * 65_536,
}
"""Complete answers."""
HOLDS = {
    "hang": b"",
    "held-line": OK + b"X: " + b"y" * 99_000,
    "held-lines": OK + (b"X: " + b"y" * 1400 + b"\r\n") * 190,
    "held-long-lines": OK + (b"X: " + b"y" * 98_000 + b"\r\n") * 2 + b"X: " + b"y" * 98_000,
    "held-interim": (b"HTTP/1.1 103 E\r\nX: " + b"y" * 90_000 + b"\r\n\r\n") * 8,
    "held-body": CHUNKED + (b"4000\r\n" + b"x" * 0x4000 + b"\r\n") * 3 + b"3000\r\n",
    "held-trailer": CHUNKED + b"2\r\nok\r\n0\r\nX: " + b"y" * 99_000,
}
"""Beginnings of answers, after which nothing comes."""
DRIPS = {
    "dripped-lines": (OK, b"X: y\r\n"),
    "dripped-line": (OK + b"X: ", b"y"),
    "dripped-chunks": (CHUNKED, b"1\r\nx\r\n"),
    "dripped-extension": (CHUNKED + b"1;", b"e"),
}
"""What is sent first, and then again and again, a little at a time."""
DRIP_SECONDS = 0.02
FLOODS = {
    "flood-extension": (CHUNKED + b"1;", b"e" * 0x4000),
    "flood-zeros": (CHUNKED, b"0" * 0x4000),
    "flood-line": (OK + b"X: ", b"y" * 0x4000),
    "flood-lines": (OK, b"X: y\r\n" * 2500),
    "flood-interim": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 600),
}
"""What is sent first, and then without end, as fast as it is taken."""


class Hostile(asyncio.Protocol):
    """One connection, which sends one request after the other."""

    def __init__(self) -> None:
        self._buffer = b""
        self._flood = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        length = head.partition(b"\r\nContent-Length: ")[2].partition(b"\r\n")[0]
        if not end or len(rest) < int(length):
            return
        self._buffer = b""
        self._answer(head.split(b" ")[1].strip(b"/").decode())

    def _answer(self, kind: str) -> None:
        if kind in DRIPS:
            first, piece = DRIPS[kind]
            self._write(first)
            self._drip(piece)
        elif kind in FLOODS:
            first, self._flood = FLOODS[kind]
            self._write(first)
            self.resume_writing()
        else:
            self._write(ANSWERS.get(kind) or HOLDS[kind])

    def _write(self, data: bytes) -> None:
        if data and not self._transport.is_closing():
            self._transport.write(data)  # type: ignore[attr-defined]

    def _drip(self, piece: bytes) -> None:
        if not self._transport.is_closing():
            self._write(piece)
            asyncio.get_running_loop().call_later(DRIP_SECONDS, self._drip, piece)

    def pause_writing(self) -> None:
        self._can_write = False

    def resume_writing(self) -> None:
        self._can_write = True
        while self._flood and self._can_write and not self._transport.is_closing():
            self._write(self._flood)


async def serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Hostile, "127.0.0.1", 0, backlog=4096)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", flush=True)  # noqa: T201
    await server.serve_forever()


@contextmanager
def hostile_receivers() -> Iterator[str]:
    """Run them in a process of their own; yields the URL, which ends with a slash."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.hostile.receivers"],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        # asyncio complains of connections that are cut while it writes.
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def main() -> None:
    os.nice(19)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    asyncio.run(serve())


if __name__ == "__main__":
    main()
