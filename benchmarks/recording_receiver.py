"""A receiver that notes when each event arrived: `python -m benchmarks.recording_receiver FILE`.

Prints its URL, answers 200 to everything, and writes `event id, Unix seconds` lines to FILE when
it is told to stop. It does as little as it can, so that what is measured is the sender.
"""

import asyncio
import signal
import sys
import time
from pathlib import Path

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
LENGTH = b"\r\nContent-Length: "
EVENT_ID = b"\r\nwebhook-id: "


class Recording(asyncio.Protocol):
    """One connection; `received` is shared by all."""

    def __init__(self, received: list[tuple[bytes, float]]) -> None:
        self._received = received
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if end and len(rest) >= int(_value(head, LENGTH)):
            self._received.append((_value(head, EVENT_ID), time.time()))
            self._buffer = b""
            self._transport.write(ANSWER)  # type: ignore[attr-defined]


def _value(head: bytes, name: bytes) -> bytes:
    return head.partition(name)[2].partition(b"\r\n")[0]


async def record(path: Path) -> None:
    """Serve until SIGTERM, then write down what came."""
    received: list[tuple[bytes, float]] = []
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    server = await loop.create_server(lambda: Recording(received), "127.0.0.1", 0, backlog=1024)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", flush=True)
    await stop.wait()
    path.write_text("\n".join(f"{event_id.decode()} {at}" for event_id, at in received))


if __name__ == "__main__":
    asyncio.run(record(Path(sys.argv[1])))
