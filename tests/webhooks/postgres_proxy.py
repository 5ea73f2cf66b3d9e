"""A way to the test database that can be shut, or that swallows what goes through it."""

import os
import select
import socket
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from django.db import connection


class PostgresProxy:
    """Forwards a TCP port to the test database's socket until `shut()` or `freeze()`."""

    def __init__(self) -> None:
        settings = connection.settings_dict
        host = settings["HOST"] or settings["OPTIONS"]["host"]
        self._target = str(Path(host) / ".s.PGSQL.5432")
        user = settings["USER"] or settings["OPTIONS"]["user"]
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        self.url = f"postgres://{user}@127.0.0.1:{port}/{settings['NAME']}"
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._is_frozen = False
        self._wake, self._waker = os.pipe()
        self._thread = threading.Thread(target=self._forward)
        self._thread.start()

    def __enter__(self) -> "PostgresProxy":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._waker)
        self._thread.join()
        os.close(self._wake)
        self.shut()

    def shut(self) -> None:
        """End all connections and refuse new ones."""
        self._listener.close()
        for end in list(self._pairs):
            end.close()

    def freeze(self) -> None:
        """Accept connections and bytes, and answer nothing."""
        self._is_frozen = True

    def _forward(self) -> None:
        while True:
            ends: list[Any] = [end for end in (self._listener, *self._pairs) if end.fileno() >= 0]
            with suppress(OSError, ValueError):
                ready, _, _ = select.select([self._wake, *ends], [], [], 0.1)
                if self._wake in ready:
                    return
                for end in ready:
                    self._serve(end)

    def _serve(self, end: object) -> None:
        if end is self._listener:
            client, server = self._listener.accept()[0], socket.socket(socket.AF_UNIX)
            self._pairs |= {client: server, server: client}
            try:
                server.connect(self._target)
            except OSError:
                self._end(client)
        elif isinstance(end, socket.socket):
            read = end.recv(65536)
            if not read:
                self._end(end)
            elif not self._is_frozen:
                self._pairs[end].sendall(read)

    def _end(self, end: socket.socket) -> None:
        other = self._pairs.pop(end)
        del self._pairs[other]
        end.close()
        other.close()
