"""A proxy such as smokescreen: answers CONNECT, refuses what it does not like, tells what it saw."""

import base64
import socket
import socketserver
from contextlib import ExitStack
from typing import Self

from tests.servers import Threaded, relay, serving


class EgressProxy:
    """`routes` maps `host:port` to a loopback port; anything else is refused with `refusal`."""

    def __init__(self, routes: dict[str, int], refusal: str = "407 Request Rejected by Proxy"):
        self.routes, self.refusal = routes, refusal
        self.heads: list[str] = []
        proxy = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                proxy._serve(self.request)

        self._server = Threaded(("127.0.0.1", 0), Handler)
        self._running = ExitStack()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._running.enter_context(serving(self._server))
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def _serve(self, client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            if not (more := client.recv(65536)):
                return
            head += more
        self.heads.append(head.decode("latin-1"))
        port = self.routes.get(self.heads[-1].split(" ")[1])
        if port is None:
            client.sendall(
                f"HTTP/1.1 {self.refusal}\r\nX-Smokescreen-Error: 10.0.0.1 is private\r\n"
                "Content-Length: 6\r\n\r\ndenied".encode()
            )
            return
        with socket.create_connection(("127.0.0.1", port)) as upstream:
            client.sendall(b"HTTP/1.1 200 Connection Established\r\nX-Proxy: canary\r\n\r\n")
            relay(client, upstream)


def credentials_of(head: str) -> str:
    """Return what a CONNECT request carries as Proxy-Authorization, decoded."""
    lines = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
    return base64.b64decode(lines["Proxy-Authorization"].removeprefix("Basic ")).decode()
