"""Forward an owner's events to a URL on this machine: what `manage.py listen` does.

Events come from the feed (webhooks/outbox/feed.py), read from the database or from a server's API. They
are signed and sent by this process, so the workers' address guard stays as it is; this process may
connect to its own machine beside what is public. Nothing is stored: an event goes out once, and
whoever listens later starts where the cursor says.
"""

import base64
import hmac
import ipaddress
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Protocol
from uuid import UUID

import requests
from django.conf import settings
from django.db import InterfaceError, OperationalError, connection

from webhooks.conf import DEFAULT_API_ROOT
from webhooks.errors import FeedRefusedError, UrlRefusedError
from webhooks.ids import EVENT_PREFIX, new_id, parse_public_id
from webhooks.outbox import feed
from webhooks.outbox.feed import FeedEvent, Page
from webhooks.wire.addresses import AddressPolicy
from webhooks.wire.failures import TransportError
from webhooks.wire.messages import Draft, Post
from webhooks.wire.one import CurlAdapter
from webhooks.wire.request import build_request
from webhooks.wire.signing import SECRET_PREFIX, SigningKey
from webhooks.wire.url_rules import parse_url

THIS_MACHINE = (ipaddress.IPv4Network("127.0.0.0/8"), ipaddress.IPv6Network("::1/128"))
POLL_SECONDS = 0.25
SERVER_POLL_SECONDS = 1.0
SERVER_TIMEOUT_SECONDS = 30.0
FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 15.0
FORWARD_TIMEOUT_SECONDS = 30


class SourceAwayError(Exception):
    """The source of events does not answer; it is worth trying again."""


class Source(Protocol):
    """Where events come from; `after` None means from now on."""

    @property
    def poll_seconds(self) -> float:
        """How long to wait when there was nothing."""

    def read(self, after: str | None) -> Page:
        """Return the events behind a cursor. Raises SourceAwayError, or a WebhooksError for good."""


@dataclass(frozen=True)
class DatabaseSource:
    """The feed of this installation."""

    owner_id: UUID | None
    patterns: Sequence[str]
    poll_seconds: float = POLL_SECONDS

    def read(self, after: str | None) -> Page:
        try:
            return feed.read(after, owner_id=self.owner_id, patterns=self.patterns)
        except (OperationalError, InterfaceError) as problem:
            connection.close()
            raise SourceAwayError(f"Postgres does not answer: {problem}".strip()) from None


WHERE_TO = "The token only goes to https:// servers, or to this machine."


class ServerSource:
    """The feed of a server, through its API; the token says whose events. The server's address ends
    with the path of its API where that is not DEFAULT_API_ROOT.

    Raises FeedRefusedError where there can be no such server or token.
    """

    poll_seconds = SERVER_POLL_SECONDS

    def __init__(self, server: str, token: str, patterns: Sequence[str]) -> None:
        try:
            url = parse_url(server)
        except UrlRefusedError as problem:
            raise FeedRefusedError(f"{WHERE_TO} {problem}") from None
        if url.scheme != "https" and url.host not in ("localhost", "127.0.0.1", "::1"):
            raise FeedRefusedError(WHERE_TO)
        if not (token.isascii() and token.isprintable()):
            raise FeedRefusedError("The token holds a character that no token has.")
        root = "" if url.target.strip("/") else DEFAULT_API_ROOT
        self._url = f"{str(url).rstrip('/')}{root}/events/feed"
        self._patterns = list(patterns)
        self._session = requests.Session()
        # The token goes to the server alone, not to a proxy that the environment names.
        self._session.trust_env = False
        # Set as `auth`, or else a .netrc entry for the server would replace the token.
        self._session.auth = _BearerToken(token)

    def read(self, after: str | None) -> Page:
        parameters: dict[str, Any] = {"types": self._patterns}
        if after is not None:
            parameters["after"] = after
        try:
            answer = self._session.get(
                self._url,
                params=parameters,
                timeout=SERVER_TIMEOUT_SECONDS,
                allow_redirects=False,
                headers={"Accept": "application/json"},
            )
        except requests.RequestException as problem:
            raise SourceAwayError(f"The server does not answer: {_short(problem)}") from None
        if answer.status_code == 429 or answer.status_code >= 500:
            raise SourceAwayError(f"The server answered {answer.status_code}.")
        if answer.status_code != 200:
            raise FeedRefusedError(_refusal(answer))
        try:
            return _read_page(answer.json())
        except (ValueError, TypeError, KeyError):
            raise FeedRefusedError(
                f"{self._url} answered with something else than a page of events."
            ) from None


@dataclass(frozen=True)
class _BearerToken(requests.auth.AuthBase):
    token: str

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self.token}"
        return request


def _read_page(document: Any) -> Page:
    events = [
        FeedEvent(
            one["id"],
            one["type"],
            datetime.fromisoformat(one["createdAt"]),
            one["payload"].encode(),
        )
        for one in document["events"]
    ]
    return Page(events, str(document["next"]), has_more=bool(events))


def _refusal(answer: requests.Response) -> str:
    detail = ""
    with suppress(ValueError, AttributeError):
        document = answer.json()
        detail = str(document.get("detail") or document.get("title") or "")
    if answer.status_code in (401, 403):
        return f"The server refuses the token ({answer.status_code}). {detail}".strip()
    return f"The server answered {answer.status_code}. {detail}".strip()


def _short(problem: Exception) -> str:
    return type(problem).__name__


@dataclass(frozen=True, slots=True)
class Away:
    """The source did not answer; it is asked again after this time."""

    message: str
    retry_seconds: float


def follow(
    source: Source,
    after: str | None,
    *,
    stop: threading.Event,
    moved: Callable[[str], None] = lambda cursor: None,
) -> Iterator[FeedEvent | Away]:
    """Yield events as they come until `stop` is set, waiting out every absence of the source.

    `moved` hears of the cursor once everything before it was taken.
    """
    backoff = FIRST_BACKOFF_SECONDS
    while not stop.is_set():
        try:
            page = source.read(after)
        except SourceAwayError as problem:
            yield Away(str(problem), backoff)
            stop.wait(backoff)
            backoff = min(2 * backoff, LONGEST_BACKOFF_SECONDS)
            continue
        backoff = FIRST_BACKOFF_SECONDS
        yield from page.events
        after = page.next
        moved(after)
        if not page.has_more:
            stop.wait(source.poll_seconds)


@dataclass(frozen=True, slots=True)
class Forwarded:
    """What the local receiver answered."""

    status: int | None
    error: str
    """Why there was no answer, or empty."""
    duration_ms: int

    @property
    def succeeded(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


class LocalPolicy(AddressPolicy):
    """What is public, and this machine; a developer's server listens on any port."""

    def __init__(self) -> None:
        super().__init__([*THIS_MACHINE, *settings.WEBHOOKS_ALLOWED_NETWORKS])

    def is_port_allowed(self, port: int) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class Target:
    """The one URL that events are forwarded to."""

    url: str
    key: SigningKey
    header_lines: tuple[bytes, ...] = ()

    @property
    def keys(self) -> tuple[SigningKey]:
        return (self.key,)


class Forwarder:
    """Sends events to one URL as a worker would: the same bytes, the same headers, signed."""

    def __init__(self, url: str, secret: str) -> None:
        self._to = Target(url, SigningKey.from_secret(secret))
        self._adapter = CurlAdapter(LocalPolicy())

    def send(self, event: FeedEvent) -> Forwarded:
        """Send one event and wait for the answer; never raises because of the receiver."""
        request = Draft(self._to.url, partial(self._build, event), lambda: True)
        started_at = time.monotonic()
        status, error = None, ""
        try:
            status = self._adapter.send(request, timeout=FORWARD_TIMEOUT_SECONDS).status_code
        except TransportError as problem:
            error = str(problem)
        return Forwarded(status, error, int((time.monotonic() - started_at) * 1000))

    def _build(self, event: FeedEvent) -> Post:
        return build_request(
            self._to,
            event_id=parse_public_id(event.id, EVENT_PREFIX),
            event_type=event.type,
            payload=event.payload,
            delivery_id=new_id(),
            attempt=1,
            timestamp=int(time.time()),
        )


def signing_secret(key: str) -> str:
    """Return the secret that a listener signs with: the same every time for the same key.

    The key is an owner's id here, or the token of a server.
    """
    digest = hmac.digest(
        settings.SECRET_KEY.encode(), b"webhooks.workbench.listen:" + key.encode(), "sha256"
    )
    return SECRET_PREFIX + base64.b64encode(digest).decode()
