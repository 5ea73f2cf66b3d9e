"""One request at a time: an adapter for a `requests` session."""

from collections.abc import Callable
from typing import Any

from requests import PreparedRequest, Response
from requests.adapters import HTTPAdapter

from webhooks.choices import FailureKind
from webhooks.wire.addresses import AddressPolicy
from webhooks.wire.failures import SuspendedError, WithdrawnError, failure
from webhooks.wire.many import MultiSender, Outcome
from webhooks.wire.names import Answer, system_lookup

DEFAULT_TIMEOUT_SECONDS = 30.0


class CurlAdapter(HTTPAdapter):
    """Lets a `requests` session send over libcurl: one request, one connection, one response."""

    def __init__(
        self, policy: AddressPolicy, lookup: Callable[[str], Answer] = system_lookup
    ) -> None:
        super().__init__()
        self._policy = policy
        self._lookup = lookup

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
        # Its meter bounds what reading the response may cost.
        sender = MultiSender(self._policy, max_connections=1, lookup=self._lookup)
        try:
            sender.start(request, timeout_seconds=seconds, context=None)
            outcome = _end_of(sender, seconds)
        except SuspendedError:
            raise failure(FailureKind.TIMEOUT) from None
        finally:
            sender.close()
        if outcome.response is not None:
            return outcome.response
        raise outcome.error or WithdrawnError()


def _end_of(sender: MultiSender, seconds: float) -> Outcome:
    while not (ended := sender.poll(seconds)):
        pass
    return ended[0]
