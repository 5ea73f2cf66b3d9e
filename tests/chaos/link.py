"""The way of some processes of a chaos run to a server: `python -m tests.chaos.link PORT PATH`.

Listens on a TCP port and carries bytes to the socket at PATH and back, whichever server that leads to
when a connection is opened. Stopped (SIGSTOP) it is a network that lets nothing through and closes
nothing; killed, one that resets every connection.
"""

import socket
import sys
from contextlib import suppress
from threading import Thread

from tests.servers import relay


def main() -> None:
    port, path = sys.argv[1:]
    with socket.create_server(("127.0.0.1", int(port)), backlog=128) as listener:
        while True:
            client, _ = listener.accept()
            Thread(target=_carry, args=(client, path), daemon=True).start()


def _carry(client: socket.socket, path: str) -> None:
    with client, socket.socket(socket.AF_UNIX) as server, suppress(OSError):
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        server.connect(path)
        relay(client, server)


if __name__ == "__main__":
    main()
