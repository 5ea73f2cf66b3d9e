"""One request at a time: an adapter for a `requests` session."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pycurl
from django.conf import settings
from requests import PreparedRequest, Response
from requests.adapters import HTTPAdapter

from webhooks.choices import FailureKind
from webhooks.wire.addresses import AddressPolicy
from webhooks.wire.exchange import Exchange
from webhooks.wire.failures import failure
from webhooks.wire.messages import draft_of
from webhooks.wire.names import (
    Answer,
    Pin,
    Resolver,
    check,
    host_and_port,
    pin,
    system_lookup,
)

DEFAULT_TIMEOUT_SECONDS = 30.0


class CurlAdapter(HTTPAdapter):
    """Lets a `requests` session send over libcurl: one request, one connection, one response."""

    def __init__(
        self, policy: AddressPolicy, lookup: Callable[[str], Answer] = system_lookup
    ) -> None:
        super().__init__()
        self._policy = policy
        self._answered = threading.Event()
        self._resolver = Resolver(lambda host: self._answered.set(), lookup)

    def send(
        self,
        request: PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Any = None,
    ) -> Response:
        """Send a POST and return its response.

        `timeout` is the total in seconds, name look-up included. `verify`, `cert` and `proxies`
        are ignored: certificates are always verified, and only the settings name a proxy. Raises
        TransportError, and WithdrawnError if a Draft may not be sent any more.
        """
        if request.method != "POST":
            raise ValueError("CurlAdapter sends POST requests only.")
        seconds = sum(timeout) if isinstance(timeout, tuple) else timeout or DEFAULT_TIMEOUT_SECONDS
        deadline = time.monotonic() + seconds
        exchange = Exchange(self._policy)
        try:
            pinned = self._resolve(str(request.url), deadline)
            exchange.prepare(draft_of(request), max(deadline - time.monotonic(), 0.001), pinned)
            outcome = exchange.finish(_perform(exchange.handle))
        finally:
            exchange.handle.close()
        if isinstance(outcome, Response):
            return outcome
        raise outcome

    def _resolve(self, url: str, deadline: float) -> Pin | None:
        name = host_and_port(url)
        if name is None or settings.WEBHOOKS_PROXY_URL:
            return None
        while True:
            self._answered.clear()
            is_known, answer = self._resolver.get(name[0])
            if is_known:
                break
            if not self._answered.wait(max(0.0, deadline - time.monotonic())):
                raise failure(FailureKind.DNS)
        if problem := check(answer, self._policy):
            raise problem
        return pin(*name, answer or ())


def _perform(handle: pycurl.Curl) -> int:
    try:
        handle.perform()
    except pycurl.error as problem:
        return int(problem.args[0])
    return pycurl.E_OK
