"""A receiver whose answers are cheap to send and dear to read: `python -m benchmarks.dear_receiver`.

Prints its URL; the first word of a request's path chooses one of ANSWERS or DRIPS. It yields to
everybody else on the machine, as it would run on a machine of its own.
"""

import asyncio
import os
import socket

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
EMPTY = b"Content-Length: 0\r\n\r\n"
ANSWERS = {
    "plain": OK + EMPTY,
    "chunks": CHUNKED + b"1\r\nx\r\n" * 65_536 + b"0\r\n\r\n",
    "interim": b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000 + OK + EMPTY,
    "trailers": CHUNKED + b"2\r\nok\r\n0\r\n" + b"X: y\r\n" * 40_000 + b"\r\n",
    "headers": OK + b"X: y\r\n" * 40_000 + b"\r\n",
    "large": OK + (b"X: " + b"y" * 600 + b"\r\n") * 98 + b"\r\n" + b"x" * 65_536,
}
DRIPS = {
    "dripped-head": (OK, b"X: y\r\n"),
    "dripped-line": (OK + b"X: ", b"y"),
    "dripped-body": (CHUNKED, b"1\r\nx\r\n"),
}
"""What is sent first, and what again and again."""
DRIP_SECONDS = 0.01
DEAR = [name for name in (*ANSWERS, *DRIPS) if name != "plain"]


class Dear(asyncio.Protocol):
    """One connection, which sends one request after the other."""

    def __init__(self) -> None:
        self._buffer = b""

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
        kind = head.split(b" ")[1].strip(b"/").decode()
        if kind in DRIPS:
            first, piece = DRIPS[kind]
            self._write(first)
            self._drip(piece)
        else:
            self._write(ANSWERS[kind])

    def _write(self, data: bytes) -> None:
        self._transport.write(data)  # type: ignore[attr-defined]

    def _drip(self, piece: bytes) -> None:
        if not self._transport.is_closing():
            self._write(piece)
            asyncio.get_running_loop().call_later(DRIP_SECONDS, self._drip, piece)


async def serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Dear, "127.0.0.1", 0, backlog=4096)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", flush=True)
    await server.serve_forever()


def main() -> None:
    os.nice(19)
    asyncio.run(serve())


if __name__ == "__main__":
    main()
