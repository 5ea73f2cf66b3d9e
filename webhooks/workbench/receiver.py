"""A small HTTP server that receives webhooks and checks them: for development, the demo and tests.

It runs on a thread of its own and can misbehave on request. Never use it in production.
"""

import asyncio
import contextlib
import random
import socket
import ssl
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Literal, Self

from webhooks.wire.signing import verify_hex, verify_standard

MAX_HEADER_BYTES = 64 * 1024
MAX_LENGTH_DIGITS = 18
"""Of a Content-Length; int() refuses some thousands."""
DRIP_SECONDS = 0.2

TLS_HANDSHAKE = b"\x16"
"""How an https request begins that was sent to a plain port."""
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with which closing a socket sends RST."""

Mode = Literal["answer", "raw", "hang", "drip", "reset", "garbage", "close"]
End = Literal["keep", "close", "reset"]


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How to answer. `drip` sends the answer byte by byte and slowly, `reset` cuts the connection,
    `close` ends it without an answer, `garbage` answers with what is not HTTP, `raw` sends `body`
    as the whole answer, status line and headers included."""

    status: int = 200
    delay_seconds: float = 0.0
    fail_rate: float = 0.0
    """The share of requests answered with 500 instead."""
    mode: Mode = "answer"
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b"ok"
    flood: bytes = b""
    """Sent after the answer again and again, as long as the other side takes it."""
    end: End = "keep"
    """What becomes of the connection after the answer."""
    is_early: bool = False
    """Answer as soon as the request's headers are there, without reading its body."""


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it came in."""

    received_at: float
    """Unix seconds."""
    connection: int
    """The sequence number of its TCP connection."""
    path: str
    raw_headers: tuple[tuple[str, str], ...]
    headers: dict[str, str]
    """By lower-case name."""
    body: bytes
    status: int
    """What was answered; 0 for no proper answer."""
    standard_ok: bool | None
    """Whether the Standard Webhooks signature fits; None when no secret is known."""
    hex_ok: bool | None
    """The same for X-Webhook-Signature."""

    @property
    def event_id(self) -> str:
        return self.headers.get("webhook-id", "")

    @property
    def event_type(self) -> str:
        return self.headers.get("x-webhook-event", "")

    @property
    def delivery_id(self) -> str:
        return self.headers.get("x-webhook-delivery", "")

    @property
    def attempt(self) -> str:
        return self.headers.get("x-webhook-attempt", "")


class HttpReceiver:
    """The server; a context manager. `secrets` and `behaviour` may be changed while it runs."""

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        secrets: Sequence[str] = (),
        behaviour: Behaviour | None = None,
        seed: int = 0,
        on_request: Callable[[Received], None] | None = None,
        keep: int | None = None,
    ) -> None:
        """`keep` bounds how many requests are kept, the latest; None keeps all."""
        self.secrets = list(secrets)
        self.behaviour = behaviour or Behaviour()
        self.connections = 0
        self._host, self._port, self._tls = host, port, tls
        self._random = random.Random(seed)
        self._on_request = on_request
        self._script: deque[Behaviour] = deque()
        self._requests: deque[Received] = deque(maxlen=keep)
        self._arrived = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._transports: set[asyncio.Transport] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: asyncio.Server | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        future = asyncio.run_coroutine_threadsafe(self._listen(), self._loop)
        try:
            future.result()
        except (OSError, UnicodeError):  # the latter of a host's name
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def _listen(self) -> None:
        self._server = await self._loop.create_server(
            lambda: _Connection(self), self._host, self._port, backlog=1024, ssl=self._tls
        )
        self._port = self._server.sockets[0].getsockname()[1]

    @property
    def url(self) -> str:
        scheme = "http" if self._tls is None else "https"
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{scheme}://{host}:{self._port}/"

    @property
    def port(self) -> int:
        return self._port

    @property
    def requests(self) -> list[Received]:
        with self._arrived:
            return list(self._requests)

    def script(self, *behaviours: Behaviour) -> None:
        """Behave like this for the next requests, one each, before falling back to `behaviour`."""
        self._script.extend(behaviours)

    def wait_for(self, count: int, timeout_seconds: float = 60) -> list[Received]:
        """Return the requests once there are `count`; raises TimeoutError that says how many came."""
        with self._arrived:
            if not self._arrived.wait_for(lambda: len(self._requests) >= count, timeout_seconds):
                raise TimeoutError(
                    f"{len(self._requests)} of {count} requests came in {timeout_seconds} s."
                )
            return list(self._requests)

    def close(self) -> None:
        """Stop, cutting all connections."""
        if self._loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(self._shut_down(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _shut_down(self) -> None:
        if self._server is not None:
            await self._stop_accepting(self._server)
        for transport in list(self._transports):
            transport.abort()
        # One turn of the loop, so that the aborted transports close their sockets.
        await asyncio.sleep(0)

    async def _stop_accepting(self, server: asyncio.Server) -> None:
        """Close the server and what it has accepted and not handed over, such as TLS handshakes."""
        for listener in server.sockets:
            self._loop.remove_reader(listener)
        # In one turn of the loop each accepted connection has a transport; a server that is closed
        # before that would leave the socket open.
        await asyncio.sleep(0)
        server.close()
        accepting = asyncio.all_tasks() - {asyncio.current_task()}
        for task in accepting:
            task.cancel()
        await asyncio.gather(*accepting, return_exceptions=True)

    def _is_early(self) -> bool:
        return (self._script[0] if self._script else self.behaviour).is_early

    def _next_behaviour(self, path: str, headers: dict[str, str]) -> Behaviour:
        with contextlib.suppress(IndexError):
            return self._script.popleft()
        return self.behaviour

    def _receive(
        self, connection: int, path: str, pairs: list[tuple[str, str]], body: bytes
    ) -> tuple[Behaviour, int]:
        headers = {name.lower(): value for name, value in pairs}
        behaviour = self._next_behaviour(path, headers)
        status = behaviour.status if behaviour.mode in ("answer", "drip") else 0
        if status and self._random.random() < behaviour.fail_rate:
            status = 500
        now = time.time()
        standard_ok, hex_ok = verdicts(self.secrets, headers, body, now)
        received = Received(
            received_at=now,
            connection=connection,
            path=path,
            raw_headers=tuple(pairs),
            headers=headers,
            body=body,
            status=status,
            standard_ok=standard_ok,
            hex_ok=hex_ok,
        )
        with self._arrived:
            self._requests.append(received)
            self._arrived.notify_all()
        if self._on_request is not None:
            self._on_request(received)
        return behaviour, status


def verdicts(
    secrets: Sequence[str], headers: dict[str, str], body: bytes, now: float
) -> tuple[bool | None, bool | None]:
    """Return whether each of the two signatures fits any secret; None when none is known."""
    if not secrets:
        return None, None
    standard, hexadecimal = (
        any(verify(secret, headers, body, now=now) for secret in secrets)
        for verify in (verify_standard, verify_hex)
    )
    return standard, hexadecimal


class _Connection(asyncio.Protocol):
    """One connection: requests with a Content-Length, one after the other."""

    transport: asyncio.Transport

    def __init__(self, receiver: HttpReceiver) -> None:
        self._receiver = receiver
        self._buffer = b""
        self._is_busy = False
        self._can_write = True
        self._flood = b""
        receiver.connections += 1
        self._number = receiver.connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self._receiver._transports.add(self.transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._receiver._transports.discard(self.transport)

    def pause_writing(self) -> None:
        self._can_write = False

    def resume_writing(self) -> None:
        self._can_write = True
        self._go_on_flooding()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._is_busy:
            self._read_request()

    def _read_request(self) -> None:
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if head[:1] == TLS_HANDSHAKE:
            self._refuse()
            return
        if not end:
            if len(self._buffer) > MAX_HEADER_BYTES:
                self.transport.abort()
            return
        request_line, *lines = head.decode("latin-1").split("\r\n")
        pairs = [
            (name, value.strip()) for name, _, value in (line.partition(":") for line in lines)
        ]
        length = next((value for name, value in pairs if name.lower() == "content-length"), "0")
        words = request_line.split(" ")
        is_length = length.isascii() and length.isdecimal() and len(length) <= MAX_LENGTH_DIGITS
        if not (is_length and len(words) == 3):
            self._refuse()
            return
        if len(rest) < int(length) and not self._receiver._is_early():
            return
        body, self._buffer = rest[: int(length)], rest[int(length) :]
        behaviour, status = self._receiver._receive(self._number, words[1], pairs, body)
        self._is_busy = True
        if behaviour.delay_seconds:
            loop = self._receiver._loop
            loop.call_later(behaviour.delay_seconds, self._answer, behaviour, status)
        else:
            self._answer(behaviour, status)

    def _refuse(self) -> None:
        self.transport.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        self.transport.close()

    def _answer(self, behaviour: Behaviour, status: int) -> None:
        if self.transport.is_closing() or behaviour.mode == "hang":
            return
        if behaviour.mode == "reset":
            self.transport.abort()
        elif behaviour.mode == "close":
            self.transport.close()
        elif behaviour.mode == "garbage":
            self.transport.write(b"\x00\xff this is not HTTP\r\n\r\n")
            self.transport.close()
        elif behaviour.mode == "drip":
            self._drip(_answer_bytes(behaviour, status))
        else:
            self.transport.write(_answer_bytes(behaviour, status))
            self._flood = behaviour.flood
            self._go_on_flooding()
            self._end(behaviour.end)

    def _end(self, end: End) -> None:
        if end == "close":
            self.transport.close()
        elif end == "reset":
            connection = self.transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self.transport.abort()
        elif not self._flood:
            self._is_busy = False
            if self._buffer:
                self._read_request()

    def _go_on_flooding(self) -> None:
        while self._flood and self._can_write and not self.transport.is_closing():
            self.transport.write(self._flood)

    def _drip(self, rest: bytes) -> None:
        if rest and not self.transport.is_closing():
            self.transport.write(rest[:1])
            self._receiver._loop.call_later(DRIP_SECONDS, self._drip, rest[1:])


def _answer_bytes(behaviour: Behaviour, status: int) -> bytes:
    if behaviour.mode == "raw":
        return behaviour.body
    try:
        reason = HTTPStatus(status).phrase
    except ValueError:
        reason = "Unknown"
    lines = [f"HTTP/1.1 {status} {reason}", f"Content-Length: {len(behaviour.body)}"]
    lines += [f"{name}: {value}" for name, value in behaviour.headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + behaviour.body
