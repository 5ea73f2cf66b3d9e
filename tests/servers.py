"""Servers of threads that leave nothing behind: neither a thread nor an open socket."""

import select
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any


class Threaded(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Closed, it cuts its connections and waits for the threads that serve them."""

    daemon_threads = False

    def __init__(self, *args: Any) -> None:
        self._connections: set[Any] = set()
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        super().server_close()


@contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[None]:
    """Let a server serve on a thread of its own until the block ends, which closes it."""
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def relay(
    client: socket.socket, upstream: socket.socket, take_time: Callable[[bytes], None] | None = None
) -> None:
    """Copy both ways until either side ends; `take_time` is called with each piece on its way."""
    with suppress(ConnectionError):
        while True:
            for readable in select.select([client, upstream], [], [])[0]:
                data = readable.recv(65536)
                if not data:
                    return
                if take_time is not None:
                    take_time(data)
                (upstream if readable is client else client).sendall(data)


def stop_listening(listener: socket.socket, *threads: threading.Thread) -> None:
    """Close a listener and wait for the threads that accept from it."""
    # Closing alone does not end an accept() that is waiting.
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    for thread in threads:
        thread.join()
