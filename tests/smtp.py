"""A mail server on loopback that refuses, delays and counts, as the recipient's name says."""

import socketserver
import threading
from collections import Counter
from contextlib import ExitStack
from typing import Any, Self

from tests.servers import Threaded, serving


class MailServer:
    """Takes mails; `refuse` maps an address to its reply, and `hang` names those never replied to."""

    def __init__(self) -> None:
        self.received: list[str] = []
        self.asked: Counter[str] = Counter()
        self.refuse: dict[str, str] = {}
        self.refuse_data: dict[str, str] = {}
        self.hang: set[str] = set()
        self.go_on = threading.Event()
        self._server = Threaded(("127.0.0.1", 0), self._handler())
        self._running = ExitStack()
        self.port: int = self._server.server_address[1]

    def __enter__(self) -> Self:
        self._running.enter_context(serving(self._server))
        return self

    def __exit__(self, *_: object) -> None:
        self.go_on.set()
        self._running.close()

    def _handler(self) -> type[socketserver.StreamRequestHandler]:
        server = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                server._serve(self.rfile, self.wfile)

        return Handler

    def _serve(self, lines: Any, answers: Any) -> None:
        def say(reply: str) -> None:
            answers.write(f"{reply}\r\n".encode())

        say("220 loopback")
        address = ""
        for line in lines:
            verb = line[:4].upper()
            if verb == b"RCPT":
                address = line.decode().partition("<")[2].partition(">")[0]
                self.asked[address] += 1
                if address in self.hang:
                    self.go_on.wait()
                say(self.refuse.get(address, "250 Ok"))
            elif verb == b"DATA":
                say("354 Go on")
                while lines.readline() != b".\r\n":
                    pass
                reply = self.refuse_data.get(address, "250 Ok")
                if reply.startswith("250"):
                    self.received.append(address)
                say(reply)
            elif verb == b"QUIT":
                say("221 Bye")
                return
            else:
                say("250 Ok")
