"""HTTP to receivers over libcurl: the only module that opens sockets to them.

Speaks `requests`: a PreparedRequest goes in, a Response or a TransportError comes out. CurlAdapter
sends one request and waits; MultiSender keeps hundreds in flight for a worker. Both configure
libcurl alike (`Exchange`): only http and https, every address checked when its socket opens, no
redirects, no cookies, nothing from the environment, bounded time and memory. The one proxy ever
used is that of WEBHOOKS_PROXY_URL; it is given host names and guards the addresses in our place.
"""

import contextlib
import math
import os
import select
import socket
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property, lru_cache
from typing import Any

import certifi
import pycurl
import requests
from django.conf import settings
from requests import PreparedRequest, Response
from requests.adapters import HTTPAdapter
from requests.cookies import RequestsCookieJar
from requests.structures import CaseInsensitiveDict

from webhooks.addresses import AddressPolicy
from webhooks.choices import FailureKind
from webhooks.errors import UrlRefusedError
from webhooks.url_rules import parse_url

MAX_BODY_BYTES = 64 * 1024
"""Of an answer's body; reading stops there."""
MAX_HEADER_BYTES = 64 * 1024
"""Of an answer's headers, interim answers included; libcurl itself stops at 300 KB."""
MAX_HEADER_LINES = 102
"""A status line, a hundred headers and the blank line."""
MAX_INTERIM_ANSWERS = 8
MAX_SENDS = 2
"""Of one request in one attempt. libcurl sends it again where a kept connection breaks before a full
line of an answer came (it does not say whether less came), each time on the next kept one, up to
six times."""
MAX_IDLE_SECONDS = 50
"""A kept connection older than this is not used again; many servers close after 60 s."""
DEFAULT_TIMEOUT_SECONDS = 30.0
RESOLVED_SECONDS = 30.0
UNRESOLVED_SECONDS = 5.0
STALE_SECONDS = 300.0
"""An old answer is still used while a new one is fetched."""
MAX_LOOKUPS = 64
MAX_HOSTS = 10_000
"""That are remembered; when there are more, what is of no use any more is forgotten."""
SUSPENDED_SECONDS = 7.0
"""A wait that takes so much longer than asked for: the process was stopped, or its machine slept."""


class SuspendedError(Exception):
    """The process stood still for so long that what it was about to send may not be its own now."""


class TransportError(requests.RequestException):
    """No answer came; `kind` sorts it, the text tells the receiver's developer what happened.

    The text never says more than a stranger may know: neither addresses of our network, nor
    whether such an address exists behind a name, nor whether a port is open, closed or filtered.
    """

    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind


NOT_PUBLIC = "The URL's host does not lead to a public address."
NO_ANSWER = (
    "No complete HTTP answer came in time. Check that the receiver can be reached from the "
    "internet, speaks HTTP (for https with TLS 1.2 or newer) and answers within the timeout."
)
MESSAGES = {
    FailureKind.DNS: NOT_PUBLIC,
    FailureKind.BLOCKED_ADDRESS: NOT_PUBLIC,
    FailureKind.CONNECT: NO_ANSWER,
    FailureKind.TLS: NO_ANSWER,
    FailureKind.TIMEOUT: NO_ANSWER,
    FailureKind.RESET: NO_ANSWER,
    FailureKind.PROTOCOL: NO_ANSWER,
    FailureKind.TOO_LARGE: "The receiver's answer has too many or too large headers.",
}
CERTIFICATE_MESSAGES = {
    1: "The receiver's TLS certificate is for another host name.",
    9: "The receiver's TLS certificate is not valid yet.",
    10: "The receiver's TLS certificate has expired.",
    18: "The receiver's TLS certificate is self-signed.",
}
"""By OpenSSL's verification result; libcurl, which compares the names, leaves a 1."""
UNKNOWN_ISSUER = (
    "The receiver's TLS certificate is not from a known authority, or its chain is cut."
)

# libcurl's numbers that pycurl has no names for.
E_TOO_LARGE = 100
SUPPRESS_CONNECT_HEADERS = 265

KINDS = {
    pycurl.E_COULDNT_RESOLVE_HOST: FailureKind.DNS,
    pycurl.E_COULDNT_RESOLVE_PROXY: FailureKind.CONNECT,
    pycurl.E_COULDNT_CONNECT: FailureKind.CONNECT,
    pycurl.E_OPERATION_TIMEDOUT: FailureKind.TIMEOUT,
    pycurl.E_SSL_CONNECT_ERROR: FailureKind.TLS,
    pycurl.E_PEER_FAILED_VERIFICATION: FailureKind.TLS,
    pycurl.E_SSL_CERTPROBLEM: FailureKind.TLS,
    pycurl.E_SSL_CIPHER: FailureKind.TLS,
    pycurl.E_SSL_ISSUER_ERROR: FailureKind.TLS,
    pycurl.E_SSL_INVALIDCERTSTATUS: FailureKind.TLS,
    pycurl.E_GOT_NOTHING: FailureKind.RESET,
    pycurl.E_RECV_ERROR: FailureKind.RESET,
    pycurl.E_SEND_ERROR: FailureKind.RESET,
    pycurl.E_PARTIAL_FILE: FailureKind.RESET,
    # By us, in _may_send().
    pycurl.E_ABORTED_BY_CALLBACK: FailureKind.RESET,
    E_TOO_LARGE: FailureKind.TOO_LARGE,
}
"""All other codes mean that what came is not HTTP as we accept it."""
PROXY_REFUSALS = {403: FailureKind.BLOCKED_ADDRESS, 407: FailureKind.BLOCKED_ADDRESS}
"""How an egress proxy answers CONNECT for an address it does not allow (smokescreen: 407)."""
PROXY_TIMEOUT = 504


def failure(kind: FailureKind) -> TransportError:
    return TransportError(kind, MESSAGES[kind])


def _unsendable() -> TransportError:
    return TransportError(FailureKind.PROTOCOL, "The request cannot be sent to this URL.")


class Reply(Response):
    """A Response whose headers are parsed when somebody looks at them."""

    # Response.__init__ makes a cookie jar and more for each answer, at thrice the cost of all else.
    raw = None
    reason = None  # type: ignore[assignment]
    encoding = None
    history = []
    cookies = RequestsCookieJar()
    elapsed = timedelta(0)
    # A `requests` session follows what calls itself a redirect.
    is_redirect = False
    is_permanent_redirect = False
    _content_consumed = True

    def __init__(
        self,
        status: int,
        lines: list[bytes],
        body: bytes,
        *,
        request: PreparedRequest,
        is_truncated: bool,
    ) -> None:
        self.head = _last_block(b"".join(lines))
        """The raw header block of the final answer, status line first."""
        self._content = body
        self.status_code = status
        self.request = request
        self.url = request.url or ""
        self.truncated = is_truncated
        """Whether the body is longer than what was read of it."""

    @cached_property
    def headers(self) -> CaseInsensitiveDict[str]:  # type: ignore[override]
        joined: dict[str, str] = {}
        for name, value in answer_pairs(self.head):
            joined[name] = f"{joined[name]}, {value}" if name in joined else value
        return CaseInsensitiveDict(joined)


class HeaderBlock(CaseInsensitiveDict[str]):
    """Request headers as the lines libcurl takes, made into a dictionary when somebody asks."""

    def __init__(self, lines: list[bytes]) -> None:
        self.lines = lines

    def __repr__(self) -> str:
        """Names only: values may be credentials."""
        return f"HeaderBlock({[name for name, _ in header_pairs(self.lines)]})"

    @cached_property
    def _store(self) -> dict[str, tuple[str, str]]:
        return {name.lower(): (name, value) for name, value in header_pairs(self.lines)}


class Post(PreparedRequest):
    """A POST whose parts are ready; nothing of it is parsed, encoded or copied again."""

    method = "POST"
    headers: HeaderBlock
    hooks = {}
    _cookies = None
    _body_position = None

    def __init__(self, url: str, body: bytes, headers: HeaderBlock) -> None:
        self.url = url
        self.body = body
        self.headers = headers


def header_line(name: str, value: str) -> bytes:
    """Return a header as libcurl takes it; `Name;` sends an empty value."""
    return (f"{name}: {value}" if value else f"{name};").encode("latin-1")


def header_pairs(lines: Iterable[bytes]) -> list[tuple[str, str]]:
    """Return the names and values of header lines; what is not one is passed over."""
    pairs = []
    for line in lines:
        name, colon, value = line.decode("latin-1").partition(":")
        if colon:
            pairs.append((name, value.strip(" \t")))
        elif name.endswith(";"):
            pairs.append((name[:-1], ""))
    return pairs


def answer_pairs(head: bytes) -> list[tuple[str, str]]:
    """Return the headers of an answer's head, in their order, without its status line."""
    return header_pairs(head.splitlines()[1:])


def _last_block(blocks: bytes) -> bytes:
    """Return the header block of the final answer; those before it belong to interim ones."""
    return blocks[blocks.rfind(b"\nHTTP/") + 1 :]


class Exchange:
    """One libcurl handle and what comes back on it; used again for request after request."""

    def __init__(
        self,
        policy: AddressPolicy,
        *,
        on_new_socket: Callable[[int], None] = lambda _: None,
        is_awake: Callable[[], bool] = lambda: True,
    ) -> None:
        self.context: Any = None
        self.started_at = 0.0
        self._policy = policy
        self._lines: list[bytes] = []
        self._chunks: list[bytes] = []
        self._body_size = 0
        self._is_blocked = False
        self._sends = 0
        self._opened: list[socket.socket] = []
        self._on_new_socket = on_new_socket
        self._is_awake = is_awake
        self._url: str | None = None
        self._timeout_ms: int | None = None
        self._has_proxy = bool(settings.WEBHOOKS_PROXY_URL)
        self._request = PreparedRequest()
        handle: Any = pycurl.Curl()
        handle.exchange = self
        self.handle = handle
        self._configure(self.handle)

    def _configure(self, handle: Any) -> None:
        ca_bundle = settings.WEBHOOKS_CA_BUNDLE or certifi.where()
        for option, value in (
            (pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS),
            (pycurl.FOLLOWLOCATION, 0),
            # Even when empty, both keep libcurl from reading the environment.
            (pycurl.PROXY, settings.WEBHOOKS_PROXY_URL),
            (pycurl.NOPROXY, ""),
            (pycurl.PROXY_CAINFO, ca_bundle),
            (pycurl.HTTPPROXYTUNNEL, int(self._has_proxy)),
            (SUPPRESS_CONNECT_HEADERS, 1),
            (pycurl.NETRC, pycurl.NETRC_IGNORED),
            (pycurl.NOSIGNAL, 1),
            (pycurl.POST, 1),
            (pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_2TLS),
            (pycurl.SSLVERSION, pycurl.SSLVERSION_TLSv1_2),
            (pycurl.SSL_VERIFYPEER, 1),
            (pycurl.SSL_VERIFYHOST, 2),
            (pycurl.CAINFO, ca_bundle),
            (pycurl.CAPATH, ""),
            (pycurl.MAXAGE_CONN, MAX_IDLE_SECONDS),
            (pycurl.HEADERFUNCTION, self._lines.append),
            (pycurl.WRITEFUNCTION, self._write),
            (pycurl.OPENSOCKETFUNCTION, self._open_socket),
            (pycurl.SOCKOPTFUNCTION, self._has_socket),
            (pycurl.PREREQFUNCTION, self._may_send),
        ):
            handle.setopt(option, value)

    def prepare(self, request: PreparedRequest, timeout_seconds: float, pins: list[str]) -> None:
        """Point the handle at a request; raises TransportError when libcurl will not have it.

        `pins` are RESOLVE entries: the addresses already looked up for the host.
        """
        handle = self.handle
        self._request = request
        try:
            if request.url != self._url:
                handle.setopt(pycurl.URL, str(request.url).encode("ascii"))
                self._url = request.url
            handle.setopt(pycurl.RESOLVE, pins)
            handle.setopt(pycurl.POSTFIELDS, request.body or b"")
            handle.setopt(pycurl.HTTPHEADER, _header_lines(request))
            timeout_ms = max(1, int(timeout_seconds * 1000))
            if timeout_ms != self._timeout_ms:
                handle.setopt(pycurl.TIMEOUT_MS, timeout_ms)
                handle.setopt(pycurl.CONNECTTIMEOUT_MS, timeout_ms)
                self._timeout_ms = timeout_ms
        except (pycurl.error, UnicodeError, TypeError, ValueError):
            raise _unsendable() from None

    @property
    def url(self) -> str:
        """Of the request that was prepared last."""
        return self._url or ""

    def finish(self, error_code: int) -> Response | TransportError:
        """Return the outcome of the transfer that just ended, and be ready for the next one."""
        lines, body = self._lines[:], b"".join(self._chunks)
        is_blocked, self._is_blocked = self._is_blocked, False
        self._lines.clear()
        self._chunks.clear()
        self._body_size = 0
        self._sends = 0
        status = self.handle.getinfo(pycurl.RESPONSE_CODE)
        if lines and lines[-1] not in BLANK:
            lines = _without_trailers(lines)
        header_bytes = sum(map(len, lines))
        is_long = len(lines) > 2 * MAX_INTERIM_ANSWERS or header_bytes > MAX_HEADER_BYTES
        if is_long and _is_too_large(lines):
            return failure(FailureKind.TOO_LARGE)
        # Once the header block has ended the receiver has answered, whatever becomes of the body.
        if status >= 200 and lines and lines[-1] in BLANK:
            return Reply(
                status,
                lines,
                body,
                request=self._request,
                is_truncated=error_code != pycurl.E_OK,
            )
        return failure(FailureKind.BLOCKED_ADDRESS) if is_blocked else self._failure(error_code)

    def _failure(self, error_code: int) -> TransportError:
        if error_code == pycurl.E_PEER_FAILED_VERIFICATION:
            verdict = self.handle.getinfo(pycurl.SSL_VERIFYRESULT)
            return TransportError(
                FailureKind.TLS, CERTIFICATE_MESSAGES.get(verdict, UNKNOWN_ISSUER)
            )
        if self._has_proxy:
            answer = self.handle.getinfo(pycurl.HTTP_CONNECTCODE)
            if answer == PROXY_TIMEOUT:
                return failure(FailureKind.TIMEOUT)
            if answer >= 300:
                return failure(PROXY_REFUSALS.get(answer, FailureKind.CONNECT))
        return failure(KINDS.get(error_code, FailureKind.PROTOCOL))

    def _write(self, chunk: bytes) -> int | None:
        room = MAX_BODY_BYTES - self._body_size
        self._chunks.append(chunk[:room])
        self._body_size += len(chunk)
        # Anything but None or the full length makes libcurl give up the transfer.
        return None if len(chunk) <= room else 0

    def _may_send(self, *_: object) -> int:
        """A connection is there and the request about to go out on it."""
        self._sends += 1
        may = self._sends <= MAX_SENDS and self._is_awake()
        return pycurl.PREREQFUNC_OK if may else pycurl.PREREQFUNC_ABORT

    def _open_socket(self, purpose: int, address: Any) -> Any:
        family, kind, protocol, target = address
        if not (self._has_proxy or self._may_connect(family, target)):
            self._is_blocked = True
            return pycurl.SOCKET_BAD
        self._opened.append(socket.socket(family, kind, protocol))
        return self._opened[-1]

    def _has_socket(self, fd: int, purpose: int) -> int:
        """libcurl got a duplicate of ours, of this number."""
        while self._opened:
            self._opened.pop().close()
        self._on_new_socket(fd)
        return int(pycurl.SOCKOPT_OK)

    def _may_connect(self, family: int, target: Any) -> bool:
        return (
            family in (socket.AF_INET, socket.AF_INET6)
            and self._policy.is_allowed(target[0])
            and self._policy.is_port_allowed(target[1])
        )


BLANK = (b"\r\n", b"\n")


def _without_trailers(lines: list[bytes]) -> list[bytes]:
    """Return the lines up to the blank one that ends the final answer's headers.

    libcurl hands over what follows a chunked body as if it were more headers.
    """
    is_interim, is_start = False, True
    for number, line in enumerate(lines):
        if is_start:
            is_interim = line.partition(b" ")[2][:1] == b"1"
        is_start = line in BLANK
        if is_start and not is_interim:
            return lines[: number + 1]
    return lines


def _is_too_large(lines: list[bytes]) -> bool:
    answers = sum(line.startswith(b"HTTP/") for line in lines)
    return (
        sum(map(len, lines)) > MAX_HEADER_BYTES
        or len(lines) > MAX_HEADER_LINES
        or answers > MAX_INTERIM_ANSWERS + 1
    )


def _header_lines(request: PreparedRequest) -> list[bytes]:
    headers = request.headers
    if isinstance(headers, HeaderBlock):
        return WITHOUT_OWN_HEADERS + headers.lines
    return WITHOUT_OWN_HEADERS + [header_line(name, value) for name, value in headers.items()]


WITHOUT_OWN_HEADERS = [
    b"Accept:", b"Expect:", b"User-Agent:", b"Content-Type:", b"Accept-Encoding: identity",
]  # fmt: skip
"""Keeps libcurl from adding these by itself; a later line with a value is sent all the same.
Compressed answers are not asked for and never inflated."""


@lru_cache(maxsize=MAX_HOSTS)
def _host_and_port(url: str) -> tuple[str, int] | None:
    """Return the host name and port that have to be looked up, or None for a numeric host.

    Raises TransportError for a URL that libcurl might read in another way than we do.
    """
    try:
        parsed = parse_url(url)
    except UrlRefusedError:
        raise _unsendable() from None
    return None if parsed.is_numeric else (parsed.host, parsed.port)


Answer = tuple[str, ...] | None
"""The addresses of a host, or None when there is no answer."""


def _system_lookup(host: str) -> Answer:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return None
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in found))


class Resolver:
    """Looks names up on threads of its own: a dead name server delays only its own hosts.

    libcurl's own resolver is not used: ten dead names stall it for everybody. One look-up per host
    at a time, at most MAX_LOOKUPS together; `on_answer` is called on the look-up's thread.
    """

    def __init__(
        self,
        on_answer: Callable[[str], None] = lambda host: None,
        lookup: Callable[[str], Answer] = _system_lookup,
    ) -> None:
        self._on_answer = on_answer
        self._lookup = lookup
        self._known: dict[str, tuple[float, Answer]] = {}
        self._prune_above = MAX_HOSTS
        self._under_way: set[str] = set()
        self._queue: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()
        self._threads = 0

    def get(self, host: str) -> tuple[bool, Answer]:
        """Return (whether an answer is known, the answer), asking for a new one when it is due."""
        asked_at, answer = self._known.get(host, (float("-inf"), None))
        age = time.monotonic() - asked_at
        if age > (RESOLVED_SECONDS if answer else UNRESOLVED_SECONDS):
            self._ask(host)
        return age <= _lasts(answer), answer or None

    def drop(self, host: str) -> None:
        """Do not look a host up, unless that has begun: nobody waits for it any more."""
        with self._lock:
            if host in self._queue:
                del self._queue[host]
                self._under_way.discard(host)

    def _ask(self, host: str) -> None:
        with self._lock:
            if host in self._under_way:
                return
            self._under_way.add(host)
            self._queue[host] = None
            if self._threads >= MAX_LOOKUPS:
                return
            self._threads += 1
        # A daemon: getaddrinfo cannot be interrupted and must not hold up the end of the process.
        threading.Thread(target=self._work, name="resolver", daemon=True).start()

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._queue:
                    self._threads -= 1
                    return
                host, _ = self._queue.popitem(last=False)
            answer = self._lookup(host)
            with self._lock:
                self._known[host] = (time.monotonic(), answer)
                self._under_way.discard(host)
                if len(self._known) > self._prune_above:
                    self._prune()
            self._on_answer(host)

    def _prune(self) -> None:
        """Forget the answers that get() gives nobody any more."""
        now = time.monotonic()
        self._known = {
            host: (asked_at, answer)
            for host, (asked_at, answer) in self._known.items()
            if now - asked_at <= _lasts(answer) or host in self._under_way
        }
        # Not again before as many have come: nothing walks over all for each look-up.
        self._prune_above = max(MAX_HOSTS, 2 * len(self._known))


def _lasts(answer: Answer) -> float:
    """Return for how many seconds an answer is given out."""
    return STALE_SECONDS if answer else UNRESOLVED_SECONDS


def _pins(host: str, port: int, addresses: Iterable[str]) -> list[str]:
    listed = ",".join(f"[{address}]" if ":" in address else address for address in addresses)
    return [f"{host}:{port}:{listed}"]


def _check(answer: Answer, policy: AddressPolicy) -> TransportError | None:
    """One forbidden address among the answers refuses the host: nobody needs that by accident."""
    if not answer:
        return failure(FailureKind.DNS)
    if not all(map(policy.is_allowed, answer)):
        return failure(FailureKind.BLOCKED_ADDRESS)
    return None


class CurlAdapter(HTTPAdapter):
    """Lets a `requests` session send over libcurl: one request, one connection, then the answer."""

    def __init__(
        self, policy: AddressPolicy, lookup: Callable[[str], Answer] = _system_lookup
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
        """Send a POST and return its answer; raises TransportError.

        `timeout` is the total in seconds, name look-up included. `verify`, `cert` and `proxies`
        are ignored: certificates are always verified, and the settings alone name a proxy.
        """
        if request.method != "POST":
            raise ValueError("CurlAdapter sends POST requests only.")
        seconds = sum(timeout) if isinstance(timeout, tuple) else timeout or DEFAULT_TIMEOUT_SECONDS
        deadline = time.monotonic() + seconds
        exchange = Exchange(self._policy)
        try:
            pins = self._resolve(str(request.url), deadline)
            exchange.prepare(request, max(deadline - time.monotonic(), 0.001), pins)
            outcome = exchange.finish(_perform(exchange.handle))
        finally:
            exchange.handle.close()
        if isinstance(outcome, TransportError):
            raise outcome
        return outcome

    def _resolve(self, url: str, deadline: float) -> list[str]:
        name = _host_and_port(url)
        if name is None or settings.WEBHOOKS_PROXY_URL:
            return []
        while True:
            self._answered.clear()
            is_known, answer = self._resolver.get(name[0])
            if is_known:
                break
            if not self._answered.wait(max(0.0, deadline - time.monotonic())):
                raise failure(FailureKind.DNS)
        if problem := _check(answer, self._policy):
            raise problem
        return _pins(*name, answer or ())


class CurlSession(requests.Session):
    """A `requests` session that sends over libcurl and takes nothing from the environment.

    A session of its own making would put what `.netrc` holds for the host into the request.
    """

    def __init__(
        self, policy: AddressPolicy, lookup: Callable[[str], Answer] = _system_lookup
    ) -> None:
        super().__init__()
        self.trust_env = False
        self.headers.clear()
        self.adapters.clear()
        for scheme in ("http://", "https://"):
            self.mount(scheme, CurlAdapter(policy, lookup))

    def send(self, request: PreparedRequest, **options: Any) -> Response:
        """Send a POST and return its answer; raises TransportError, for a bad URL too."""
        _host_and_port(request.url or "")
        return super().send(request, **options)


def _perform(handle: pycurl.Curl) -> int:
    try:
        handle.perform()
    except pycurl.error as problem:
        return int(problem.args[0])
    return pycurl.E_OK


@dataclass(slots=True)
class Outcome:
    """How one request ended: exactly one of `response` and `error` is set."""

    context: Any
    response: Response | None
    error: TransportError | None
    started_at_monotonic: float
    duration_ms: int


@dataclass(slots=True)
class Waiting:
    """A request whose host is being looked up."""

    request: PreparedRequest
    deadline: float
    context: Any
    started_at: float
    name: tuple[str, int]


class MultiSender:
    """Keeps many requests in flight on one thread. Only wake() may be called from other threads.

    libcurl's sockets and the wake-up live in one epoll, so a wake-up is noticed at once even while
    every connection is silent. Connections are kept between batches.
    """

    def __init__(
        self,
        policy: AddressPolicy,
        *,
        max_connections: int = 512,
        lookup: Callable[[str], Answer] = _system_lookup,
    ) -> None:
        self._policy = policy
        self._has_proxy = bool(settings.WEBHOOKS_PROXY_URL)
        self._resolver = Resolver(self._answered, lookup)
        self._epoll = select.epoll()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake_fd, select.EPOLLIN)
        self._watched: dict[int, int] = {}
        """Every socket in the epoll, and for which events."""
        self._wanted: set[int] = set()
        """Those of them that libcurl waits for."""
        self._timer_at: float | None = None
        self._awake_at = 0.0
        self._was_suspended = False
        self._multi: Any = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._set_timer)
        self._multi.setopt(pycurl.M_MAXCONNECTS, max_connections)
        self._idle: list[Exchange] = []
        self._active: set[Exchange] = set()
        self._waiting: dict[str, list[Waiting]] = {}
        """For the look-up of a host. Many may wait for dead ones: nothing here walks over all."""
        self._first_deadline = math.inf
        self._pinned: set[tuple[str, int]] = set()
        """The hosts and ports whose addresses libcurl was told, until they are taken back."""
        self._hosts_answered: deque[str] = deque()
        self._ended: list[Outcome] = []

    @property
    def in_flight(self) -> int:
        """How many requests were started and not yet returned by poll()."""
        waiting = sum(map(len, self._waiting.values()))
        return len(self._active) + waiting + len(self._ended)

    def start(self, request: PreparedRequest, *, timeout_seconds: float, context: Any) -> None:
        """Send a POST; its outcome comes out of poll() within the timeout, with this context."""
        now = time.monotonic()
        try:
            name = _host_and_port(request.url or "")
        except TransportError as problem:
            self._end(context, problem, now)
            return
        if name is None or self._has_proxy:
            self._begin(request, now + timeout_seconds, context, now, [])
            return
        waiting = Waiting(request, now + timeout_seconds, context, now, name)
        if not self._begin_if_resolved(waiting):
            self._waiting.setdefault(name[0], []).append(waiting)
            self._first_deadline = min(self._first_deadline, waiting.deadline)

    def poll(self, timeout_seconds: float) -> list[Outcome]:
        """Wait for sockets, at most `timeout_seconds`, and return the requests that ended.

        Raises SuspendedError, before anything else is sent, when the process was stopped meanwhile.
        """
        now = time.monotonic()
        wait = timeout_seconds
        if self._ended:
            wait = 0.0
        if self._timer_at is not None:
            wait = min(wait, self._timer_at - now)
        wait = min(wait, self._first_deadline - now)
        act = self._multi.socket_action
        ready = self._epoll.poll(max(0.0, wait))
        self._awake_at = time.monotonic()
        if self._awake_at - now > max(0.0, wait) + SUSPENDED_SECONDS:
            raise SuspendedError
        for fd, events in ready:
            if fd == self._wake_fd:
                self._calm()
            elif fd not in self._wanted:
                # Its receiver closed it while no request was on it.
                self._unwatch(fd)
            else:
                # EPOLLHUP and EPOLLERR count as readable: libcurl then reads the error itself.
                readable = pycurl.CSELECT_IN if events & ~select.EPOLLOUT else 0
                act(fd, readable | (pycurl.CSELECT_OUT if events & select.EPOLLOUT else 0))
        if self._timer_at is not None and self._timer_at <= time.monotonic():
            self._timer_at = None
            act(pycurl.SOCKET_TIMEOUT, 0)
        self._begin_answered()
        if len(self._pinned) > MAX_HOSTS:
            self._unpin()
        if self._first_deadline <= time.monotonic():
            self._end_overdue()
        if self._was_suspended:
            raise SuspendedError
        self._read_ended()
        ended, self._ended = self._ended, []
        return ended

    def wake(self) -> None:
        """Make a poll() that is waiting return at once; safe from threads and signal handlers."""
        # Full means that a wake-up is already pending; closed means that nobody polls any more.
        with contextlib.suppress(OSError, ValueError):
            os.eventfd_write(self._wake_fd, 1)

    def close(self) -> None:
        """Drop everything that is in flight, without outcomes."""
        for exchange in self._active:
            self._multi.remove_handle(exchange.handle)
            exchange.finish(pycurl.E_OK)
            exchange.handle.close()
        for exchange in self._idle:
            exchange.handle.close()
        self._active.clear()
        self._idle.clear()
        for host in self._waiting:
            self._resolver.drop(host)
        self._waiting.clear()
        self._multi.close()
        self._epoll.close()
        os.close(self._wake_fd)
        self._wake_fd = -1

    # Names.

    def _begin_if_resolved(self, waiting: Waiting) -> bool:
        is_known, answer = self._resolver.get(waiting.name[0])
        if not is_known:
            return False
        problem = _check(answer, self._policy)
        if problem is None:
            pins = _pins(*waiting.name, answer or ())
            self._pinned.add(waiting.name)
            self._begin(
                waiting.request, waiting.deadline, waiting.context, waiting.started_at, pins
            )
        else:
            self._end(waiting.context, problem, waiting.started_at)
        return True

    def _answered(self, host: str) -> None:
        """A look-up ended; called on its thread."""
        self._hosts_answered.append(host)
        self.wake()

    def _begin_answered(self) -> None:
        while self._hosts_answered:
            host = self._hosts_answered.popleft()
            waiting = self._waiting.pop(host, [])
            if still := [one for one in waiting if not self._begin_if_resolved(one)]:
                self._waiting[host] = still

    def _end_overdue(self) -> None:
        now = time.monotonic()
        for host, waiting in list(self._waiting.items()):
            for one in waiting:
                if one.deadline <= now:
                    self._end(one.context, failure(FailureKind.DNS), one.started_at)
            if still := [one for one in waiting if one.deadline > now]:
                self._waiting[host] = still
            else:
                del self._waiting[host]
                self._resolver.drop(host)
        deadlines = (one.deadline for waiting in self._waiting.values() for one in waiting)
        self._first_deadline = min(deadlines, default=math.inf)

    def _unpin(self) -> None:
        """Make libcurl forget the addresses of all hosts that no request is under way to.

        By itself it keeps what RESOLVE tells it for ever. With a `+` before an entry it would not,
        but a request that outlives the entry, and is sent again, would look its host up by itself.
        """
        in_use = {_host_and_port(exchange.url) for exchange in self._active}
        gone = self._pinned - in_use
        self._pinned -= gone
        # A transfer that ends before it opens a socket: its entries are taken in as it begins.
        carrier = pycurl.Curl()
        carrier.setopt(pycurl.URL, "http://0.0.0.0/")
        carrier.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTPS)
        carrier.setopt(pycurl.NOSIGNAL, 1)
        carrier.setopt(pycurl.RESOLVE, [f"-{host}:{port}" for host, port in gone])
        self._multi.add_handle(carrier)
        self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
        self._multi.remove_handle(carrier)
        carrier.close()

    # libcurl.

    def _begin(
        self,
        request: PreparedRequest,
        deadline: float,
        context: Any,
        started_at: float,
        pins: list[str],
    ) -> None:
        exchange = self._idle.pop() if self._idle else self._new_exchange()
        exchange.context, exchange.started_at = context, started_at
        # A whole number of milliseconds below the deadline's distance where nothing was looked up.
        remaining = deadline - (time.monotonic() if pins else started_at)
        try:
            exchange.prepare(request, remaining, pins)
        except TransportError as problem:
            self._idle.append(exchange)
            self._end(context, problem, started_at)
            return
        self._active.add(exchange)
        self._multi.add_handle(exchange.handle)

    def _new_exchange(self) -> Exchange:
        return Exchange(self._policy, on_new_socket=self._forget, is_awake=self._is_awake)

    def _is_awake(self) -> bool:
        """Asked when a request is about to go out."""
        self._was_suspended |= time.monotonic() - self._awake_at > SUSPENDED_SECONDS
        return not self._was_suspended

    def _read_ended(self) -> None:
        more = 1
        while more:
            more, succeeded, failed = self._multi.info_read()
            for handle in succeeded:
                self._finish(handle.exchange, pycurl.E_OK)
            for handle, code, _ in failed:
                self._finish(handle.exchange, code)

    def _finish(self, exchange: Exchange, code: int) -> None:
        self._multi.remove_handle(exchange.handle)
        self._active.discard(exchange)
        self._end(exchange.context, exchange.finish(code), exchange.started_at)
        exchange.context = None
        self._idle.append(exchange)

    def _end(self, context: Any, result: Response | TransportError, started_at: float) -> None:
        duration_ms = int((time.monotonic() - started_at) * 1000)
        if isinstance(result, TransportError):
            self._ended.append(Outcome(context, None, result, started_at, duration_ms))
        else:
            self._ended.append(Outcome(context, result, None, started_at, duration_ms))

    def _watch(self, what: int, fd: int, multi: Any, data: Any) -> None:
        """Wait for what libcurl wants of a socket.

        It stays in the epoll when libcurl is done with it for now, as the next request most often
        goes out on it; when it is closed the kernel takes it out. Not with a proxy, whose name
        libcurl looks up by sockets of which it tells us nothing else.
        """
        if what == pycurl.POLL_REMOVE:
            self._wanted.discard(fd)
            if self._has_proxy:
                self._unwatch(fd)
            return
        self._wanted.add(fd)
        events = (select.EPOLLIN if what & pycurl.POLL_IN else 0) | (
            select.EPOLLOUT if what & pycurl.POLL_OUT else 0
        )
        watched_for = self._watched.get(fd)
        if watched_for is None:
            self._epoll.register(fd, events)
        elif watched_for != events:
            self._epoll.modify(fd, events)
        self._watched[fd] = events

    def _unwatch(self, fd: int) -> None:
        self._watched.pop(fd, None)
        # Closed means out of the epoll already.
        with contextlib.suppress(OSError):
            self._epoll.unregister(fd)

    def _forget(self, fd: int) -> None:
        """A new socket has this number: what is known of it was of one that is closed."""
        self._watched.pop(fd, None)

    def _set_timer(self, milliseconds: int) -> None:
        self._timer_at = None if milliseconds < 0 else time.monotonic() + milliseconds / 1000

    def _calm(self) -> None:
        try:
            os.eventfd_read(self._wake_fd)
        except BlockingIOError:
            return
