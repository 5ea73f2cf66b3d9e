"""A receiver that notes when each event arrived: `python -m benchmarks.recording_receiver FILE`.

Prints its URL, answers after `--delay` seconds with `--status`, works on `--at-once` requests at a
time (on all, without it), and writes `event id, Unix seconds`
lines to FILE when it is told to stop. It does as little as it can, so that what is measured is the
sender.
"""

import argparse
import asyncio
import signal
import time
from functools import partial
from heapq import heappop, heappush
from pathlib import Path

LENGTH = b"\r\nContent-Length: "
EVENT_ID = b"\r\nwebhook-id: "


class Recording(asyncio.Protocol):
    """One connection; `received` is shared by all."""

    def __init__(
        self, received: list[tuple[bytes, float]], status: int, delay: float, turns: list[float]
    ) -> None:
        """`turns` says when each place of the receiver is free again; empty for endless places."""
        self._received = received
        self._turns = turns
        self._answer = b"HTTP/1.1 %d Bench\r\nContent-Length: 0\r\n\r\n" % status
        self._delay = delay
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if end and len(rest) >= int(_value(head, LENGTH)):
            self._received.append((_value(head, EVENT_ID), time.time()))
            self._buffer = b""
            if self._delay:
                loop = asyncio.get_running_loop()
                loop.call_at(self._ends_at(loop.time()), self._reply)
            else:
                self._reply()

    def _ends_at(self, now: float) -> float:
        if not self._turns:
            return now + self._delay
        ends_at = max(heappop(self._turns), now) + self._delay
        heappush(self._turns, ends_at)
        return ends_at

    def _reply(self) -> None:
        self._transport.write(self._answer)  # type: ignore[attr-defined]


def _value(head: bytes, name: bytes) -> bytes:
    return head.partition(name)[2].partition(b"\r\n")[0]


async def record(path: Path, status: int, delay: float, at_once: int) -> None:
    """Serve until SIGTERM, then write down what came."""
    received: list[tuple[bytes, float]] = []
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    connect = partial(Recording, received, status, delay, [0.0] * at_once)
    server = await loop.create_server(connect, "127.0.0.1", 0, backlog=4096)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", flush=True)
    await stop.wait()
    path.write_text("\n".join(f"{event_id.decode()} {at}" for event_id, at in received))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--status", type=int, default=200)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--at-once", type=int, default=0)
    options = parser.parse_args()
    asyncio.run(record(options.file, options.status, options.delay, options.at_once))


if __name__ == "__main__":
    main()
