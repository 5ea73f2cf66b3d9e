"""A cheap HTTP client: POSTs of prepared bytes over kept connections, from one process.

`python -m benchmarks.load` waits for orders (benchmarks.orders). It does as little as it can, since
it shares the processors with what it measures: asyncio's sockets, no HTTP library, and of an answer
only the status, the length and, where it is asked for, the id.
"""

import asyncio
import re
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from benchmarks import orders

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
ID = re.compile(rb'"id": *"([^"]*)"')
KEY = "@KEY@@@@@@@@"
"""Replaced in each request by twelve digits of its own."""
KEY_BYTES = KEY.encode()


class Connection(asyncio.Protocol):
    """A kept connection with at most one request under way."""

    def __init__(self) -> None:
        self._buffer = b""
        self._done: asyncio.Future[bytes] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def post(self, request: bytes) -> asyncio.Future[bytes]:
        """Send a request; the future gets the whole answer, or an error if there is none."""
        self._done = asyncio.get_running_loop().create_future()
        self.transport.write(request)  # type: ignore[attr-defined]
        return self._done

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0 or self._done is None:
            return
        length = LENGTH.search(self._buffer, 0, end)
        if length is None:
            self._done.set_exception(ValueError("An answer without Content-Length."))
        elif len(self._buffer) < end + 4 + int(length[1]):
            return
        else:
            self._done.set_result(self._buffer)
        self._buffer, self._done = b"", None

    def connection_lost(self, problem: Exception | None) -> None:
        if self._done is not None:
            self._done.set_exception(ConnectionResetError("Closed before the answer."))


class Load:
    """Prepared requests to one server; `sent` holds id, planned Unix time and milliseconds."""

    def __init__(self, port: int, requests: Sequence[bytes], first_key: int) -> None:
        self._port = port
        self._requests = requests
        self._number = first_key
        self._idle: list[Connection] = []
        self.sent: list[tuple[str, float, float]] = []
        self.failed: dict[str, int] = {}

    async def connect(self, count: int) -> None:
        self._idle = [await self._open() for _ in range(count)]

    async def _open(self) -> Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(Connection, "127.0.0.1", self._port)
        return connection

    async def steady(self, rate: float, seconds: float) -> None:
        """Post at planned times, whatever the server does (open loop)."""
        loop = asyncio.get_running_loop()
        started_at, waiting, tasks = loop.time() + 0.05, deque[float](), set()
        offset = time.time() - loop.time()
        for number in range(int(rate * seconds)):
            planned_at = started_at + number / rate
            await asyncio.sleep(planned_at - loop.time())
            waiting.append(planned_at)
            if self._idle:
                tasks.add(asyncio.create_task(self._serve(self._idle.pop(0), waiting, offset)))
                tasks = {task for task in tasks if not task.done()}
        await asyncio.gather(*tasks)

    async def _serve(self, connection: Connection, waiting: deque[float], offset: float) -> None:
        while waiting:
            connection = await self._post(connection, waiting.popleft(), offset)
        self._idle.append(connection)

    async def closed(self, seconds: float) -> None:
        """Post for so long, each connection the next as soon as it has its answer."""
        loop = asyncio.get_running_loop()
        offset = time.time() - loop.time()
        ends_at = loop.time() + seconds

        async def ask(connection: Connection) -> None:
            while loop.time() < ends_at:
                connection = await self._post(connection, loop.time(), offset)

        await asyncio.gather(*map(ask, self._idle))

    async def _post(self, connection: Connection, planned_at: float, offset: float) -> Connection:
        """Post once, note what became of it, and return the connection to go on with."""
        if connection.transport.is_closing():
            connection = await self._open()
        self._number += 1
        request = self._requests[self._number % len(self._requests)]
        try:
            answer = await connection.post(request.replace(KEY_BYTES, b"%012d" % self._number))
        except (OSError, ValueError) as problem:
            self._fail(str(problem))
            return await self._open()
        milliseconds = (asyncio.get_running_loop().time() - planned_at) * 1000
        if answer[9:11] != b"20":
            self._fail(answer[9:12].decode() + answer[-200:].decode(errors="replace"))
            return connection
        found = ID.search(answer)
        self.sent.append((found[1].decode() if found else "", planned_at + offset, milliseconds))
        return connection

    def _fail(self, reason: str) -> None:
        self.failed[reason] = self.failed.get(reason, 0) + 1


def request(path: str, body: str, token: str, *headers: str) -> str:
    """Return a POST of JSON, in ASCII."""
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: 127.0.0.1",
        "Content-Type: application/json",
        f"Authorization: Bearer {token}",
        f"Content-Length: {len(body)}",
        *headers,
    ]
    return "\r\n".join(lines) + "\r\n\r\n" + body


async def _run(
    port: int,
    requests: Sequence[str],
    connections: int,
    seconds: float,
    rate: float = 0,
) -> dict[str, Any]:
    """Post at a rate; without one as fast as the server answers."""
    load = Load(port, [text.encode() for text in requests], time.time_ns() // 1_000_000 % 10**11)
    await load.connect(connections)
    started_at, used = time.perf_counter(), time.process_time()
    await (load.steady(rate, seconds) if rate else load.closed(seconds))
    return {
        "seconds": time.perf_counter() - started_at,
        "cpu": time.process_time() - used,
        "failed": load.failed,
        "sent": load.sent,
    }


def main() -> None:
    orders.serve(lambda **order: asyncio.run(_run(**order)))


if __name__ == "__main__":
    main()
