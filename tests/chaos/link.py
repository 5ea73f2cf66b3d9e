"""The way of some processes of a chaos run to a server: `python -m tests.chaos.link PORT PATH`.

Listens on a TCP port and carries bytes to the socket at PATH and back, whichever server that leads to
when a connection is opened. Stopped (SIGSTOP) it is a network that lets nothing through and closes
nothing; killed, one that resets every connection. From SIGUSR1 to SIGUSR2 it is slow.
"""

import signal
import socket
import sys
import time
from contextlib import suppress
from threading import Event, Thread

from tests.servers import relay

SLOW_SECONDS = 0.1
"""What each piece takes on its way while the link is slow."""
SLOW_BYTES_PER_SECOND = 250_000

_is_slow = Event()


def main() -> None:
    port, path = sys.argv[1:]
    signal.signal(signal.SIGUSR1, lambda *_: _is_slow.set())
    signal.signal(signal.SIGUSR2, lambda *_: _is_slow.clear())
    with socket.create_server(("127.0.0.1", int(port)), backlog=128) as listener:
        while True:
            client, _ = listener.accept()
            Thread(target=_carry, args=(client, path), daemon=True).start()


def _carry(client: socket.socket, path: str) -> None:
    with client, socket.socket(socket.AF_UNIX) as server, suppress(OSError):
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        server.connect(path)
        relay(client, server, _take_time)


def _take_time(data: bytes) -> None:
    if _is_slow.is_set():
        time.sleep(SLOW_SECONDS + len(data) / SLOW_BYTES_PER_SECOND)


if __name__ == "__main__":
    main()
