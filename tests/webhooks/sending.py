"""Send over the real transport, one request or many, and listen where nothing may ever arrive."""

import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from ipaddress import ip_network
from typing import Any, Self

import requests
from requests import PreparedRequest, Response

from tests.servers import stop_listening
from webhooks.wire.addresses import AddressPolicy
from webhooks.wire.header_lines import header_line
from webhooks.wire.many import MultiSender, Outcome
from webhooks.wire.messages import HeaderBlock, Post, Reply
from webhooks.wire.names import Answer, host_and_port, system_lookup
from webhooks.wire.one import CurlAdapter

LOOPBACK = ("127.0.0.0/8", "::1/128")


class Canary:
    """A listener on loopback that counts connections; it should die without having sung."""

    def __init__(self) -> None:
        self.connections = 0
        self._listeners = [_listen(socket.AF_INET, "127.0.0.1", 0)]
        self.port: int = self._listeners[0].getsockname()[1]
        if socket.has_ipv6:
            self._listeners.append(_listen(socket.AF_INET6, "::1", self.port))
        self._threads = [
            threading.Thread(target=self._count, args=(listener,)) for listener in self._listeners
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for listener, thread in zip(self._listeners, self._threads, strict=True):
            stop_listening(listener, thread)

    def _count(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self.connections += 1
            connection.close()


def _listen(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.bind((host, port))
    listener.listen(1024)
    return listener


def policy(*networks: str) -> AddressPolicy:
    return AddressPolicy([ip_network(network) for network in networks])


def request(url: str, body: bytes = b"{}", headers: Iterable[tuple[str, str]] = ()) -> Post:
    """A request as the dispatcher makes it: nothing of `requests` has touched the URL."""
    return Post(url, body, HeaderBlock([header_line(*pair) for pair in headers]))


def send_all(
    requests: Sequence[PreparedRequest],
    *,
    sender: MultiSender | None = None,
    allowed: Sequence[str] = LOOPBACK,
    timeout_seconds: float = 0.5,
    at_once: int = 64,
    lookup: Callable[[str], Answer] | None = None,
) -> list[Outcome]:
    """Send all and return their outcomes in order; fails where one takes its timeout + 1 s."""
    own = sender or MultiSender(policy(*allowed), lookup=lookup or no_lookup)
    outcomes: list[Outcome | None] = [None] * len(requests)
    waiting = list(enumerate(requests))[::-1]
    last_progress = time.monotonic()
    while waiting or own.in_flight:
        while waiting and own.in_flight < at_once:
            number, prepared = waiting.pop()
            own.start(prepared, timeout_seconds=timeout_seconds, context=number)
        for outcome in own.poll(0.1):
            outcomes[outcome.context] = outcome
            last_progress = time.monotonic()
            assert outcome.duration_ms <= (timeout_seconds + 1) * 1000
        assert time.monotonic() - last_progress <= timeout_seconds + 2, "a request is stuck"
    if sender is None:
        own.close()
    assert all(outcome is not None for outcome in outcomes)
    return [outcome for outcome in outcomes if outcome is not None]


def send(url: str, *, body: bytes = b"{}", timeout_seconds: float = 0.5) -> Outcome:
    (outcome,) = send_all([request(url, body)], timeout_seconds=timeout_seconds)
    return outcome


class CurlSession(requests.Session):
    """A `requests` session that sends over libcurl and takes nothing from the environment.

    A session of its own making would put what `.netrc` holds for the host into the request.
    """

    def __init__(
        self, policy: AddressPolicy, lookup: Callable[[str], Answer] = system_lookup
    ) -> None:
        super().__init__()
        self.trust_env = False
        self.headers.clear()
        self.adapters.clear()
        for scheme in ("http://", "https://"):
            self.mount(scheme, CurlAdapter(policy, lookup))

    def send(self, request: PreparedRequest, **options: Any) -> Response:
        """Send a POST and return its answer; raises TransportError, for a bad URL too."""
        host_and_port(request.url or "")
        return super().send(request, **options)


def kind_of(outcome: Outcome) -> str:
    """The failure's kind, or the status of the answer."""
    if outcome.error is not None:
        return outcome.error.kind.value
    assert outcome.response is not None
    return str(outcome.response.status_code)


def answer_of(outcome: Outcome) -> Reply:
    assert isinstance(outcome.response, Reply), outcome.error
    return outcome.response


def no_lookup(host: str) -> Answer:
    """No test asks a name server."""
    return None
