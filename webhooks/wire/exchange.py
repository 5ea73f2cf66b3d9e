"""One libcurl handle: its configuration, its request, and the outcome of the transfer."""

import errno
import socket
from collections.abc import Callable
from typing import Any

import certifi
import pycurl
from django.conf import settings
from requests import PreparedRequest, Response

from webhooks.choices import FailureKind
from webhooks.wire.addresses import AddressPolicy
from webhooks.wire.clock import boottime
from webhooks.wire.failures import (
    CERTIFICATE_MESSAGES,
    REFUSED,
    UNKNOWN_ISSUER,
    TransportError,
    WithdrawnError,
    failure,
    unsendable,
)
from webhooks.wire.header_lines import header_line
from webhooks.wire.messages import Draft, HeaderBlock, Reply, draft_of, request_target
from webhooks.wire.meter import Usage
from webhooks.wire.names import MAX_LIFE_SECONDS, Pin

MAX_BODY_BYTES = 64 * 1024
"""Most bytes of a response body; reading stops there."""
MAX_BODY_PIECES = 64
"""Most chunks or frames of a body; reading stops there too, because each costs a call, however small."""
MAX_HEADER_BYTES = 64 * 1024
"""Most bytes of a response's headers, interim responses and trailers included; reading stops there."""
MAX_HEADER_LINES = 102
"""A status line, a hundred headers and the blank line."""
MAX_LINES_READ = 128
"""Most lines of headers, interim responses and trailers together; trailers are thrown away."""
MAX_INTERIM_ANSWERS = 8
RECEIVE_BUFFER_BYTES = 32 * 1024
"""Receive buffer of a connection in the kernel, which doubles it. Without this limit it would grow to
six megabytes for a fast sender, and libcurl would read all of it at once."""
MAX_KEPT_HEADER_BYTES = 8 * 1024
"""A handle that holds more header bytes is closed: libcurl keeps a response's headers until the
handle's next use."""
MAX_SENDS = 2
"""Most sends of one request in one attempt. libcurl repeats a request if a kept connection breaks
before a full line of the response came (it does not say whether less came), each time on the next
kept connection, up to six times."""
MAX_BUILT_SECONDS = 0.25
"""A request that waited longer for its connection goes out only if its draft is still current."""
MAX_IDLE_SECONDS = 50
"""A connection that was idle for longer is not used again; many servers close theirs after 60 s."""
# libcurl's numbers that pycurl has no names for.
SUPPRESS_CONNECT_HEADERS = 265
E_TOO_LARGE = 100
CIPHERS = "DEFAULT:!DHE"
"""What OpenSSL offers, without finite-field Diffie-Hellman: a server may choose its group, and one of
10,000 bits stops the sender's thread for more than a second. Every server of today has ECDHE."""

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
    # Our own _may_send() aborts with this code.
    pycurl.E_ABORTED_BY_CALLBACK: FailureKind.RESET,
    E_TOO_LARGE: FailureKind.TOO_LARGE,
}
"""All other codes mean that the response is not HTTP as we accept it."""
PROXY_REFUSALS = {403: FailureKind.BLOCKED_ADDRESS, 407: FailureKind.BLOCKED_ADDRESS}
"""The statuses with which an egress proxy refuses CONNECT to an address (smokescreen: 407)."""
PROXY_TIMEOUT = 504
GIVE_UP = 0
"""The value with which a callback makes libcurl end the transfer: neither None nor the full length."""
UNUSED = draft_of(PreparedRequest())


class Exchange:
    """One libcurl handle and the response on it; it serves one request after another."""

    def __init__(
        self,
        policy: AddressPolicy,
        *,
        on_new_socket: Callable[[int], None] = lambda _: None,
        is_awake: Callable[[], bool] = lambda: True,
    ) -> None:
        self.sending: Any = None
        """The caller's record of the request (lookups.Sending)."""
        self.request: PreparedRequest | None = None
        """The request as last built."""
        self.pin: Pin | None = None
        self.usage: Usage | None = None
        """The cost of its connection, if that is expensive to read."""
        self.has_connected = False
        """Whether the transfer has opened a connection."""
        self.is_reusable = True
        """Whether the handle holds at most MAX_KEPT_HEADER_BYTES of the last response's headers."""
        self._policy = policy
        self._lines: list[bytes] = []
        self._head_size = 0
        self._answers = 0
        """Status lines received, those of interim responses included."""
        self._chunks: list[bytes] = []
        self._body_size = 0
        self._is_blocked = False
        self._draft = UNUSED
        self._built_at = 0.0
        self._is_withdrawn = False
        self._sends = 0
        self._opened: list[socket.socket] = []
        self._on_new_socket = on_new_socket
        self._is_awake = is_awake
        self._url: str | None = None
        self._timeout_ms: int | None = None
        self._has_proxy = bool(settings.WEBHOOKS_PROXY_URL)
        handle: Any = pycurl.Curl()
        self.handle, handle.exchange = handle, self
        self._configure(handle)

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
            (pycurl.SSL_CIPHER_LIST, CIPHERS),
            (pycurl.SSL_VERIFYPEER, 1),
            (pycurl.SSL_VERIFYHOST, 2),
            (pycurl.CAINFO, ca_bundle),
            (pycurl.CAPATH, ""),
            (pycurl.MAXAGE_CONN, MAX_IDLE_SECONDS),
            (pycurl.MAXLIFETIME_CONN, MAX_LIFE_SECONDS),
            (pycurl.HEADERFUNCTION, self._take_line),
            (pycurl.WRITEFUNCTION, self._write),
            (pycurl.OPENSOCKETFUNCTION, self._open_socket),
            (pycurl.SOCKOPTFUNCTION, self._has_socket),
            (pycurl.PREREQFUNCTION, self._may_send),
        ):
            handle.setopt(option, value)

    def prepare(self, draft: Draft, timeout_seconds: float, pin: Pin | None) -> None:
        """Build the request and set the handle up for it; the transfer must begin at once.

        `pin` holds the addresses that were looked up for the host. Raises WithdrawnError, and
        TransportError if libcurl refuses the request.
        """
        handle = self.handle
        self._draft = draft
        self._built_at = boottime()
        request = self.request = draft.build()
        if request is None or request.url != draft.url:
            raise WithdrawnError
        try:
            if request.url != self._url:
                handle.setopt(pycurl.URL, str(request.url).encode("ascii"))
                # Otherwise libcurl would resolve dots and rewrite escapes of the stored path.
                handle.setopt(pycurl.REQUEST_TARGET, request_target(str(request.url)))
                self._url = request.url
            self.pin = pin
            handle.setopt(pycurl.CONNECT_TO, pin.connect_to if pin else [])
            handle.setopt(pycurl.RESOLVE, pin.resolve if pin else [])
            handle.setopt(pycurl.POSTFIELDS, request.body or b"")
            handle.setopt(pycurl.HTTPHEADER, _header_lines(request))
            timeout_ms = max(1, int(timeout_seconds * 1000))
            if timeout_ms != self._timeout_ms:
                handle.setopt(pycurl.TIMEOUT_MS, timeout_ms)
                handle.setopt(pycurl.CONNECTTIMEOUT_MS, timeout_ms)
                self._timeout_ms = timeout_ms
        except (pycurl.error, UnicodeError, TypeError, ValueError):
            raise unsendable() from None

    @property
    def is_sent(self) -> bool:
        """Whether any part of the request may have been sent."""
        return self._sends > 0

    def finish(self, error_code: int) -> Response | TransportError | WithdrawnError:
        """Return the outcome of the transfer that has just ended, and reset for the next one."""
        lines, body = self._lines[:], b"".join(self._chunks)
        draft, self._draft = self._draft, UNUSED
        # An idle handle would keep the last payload.
        self.handle.setopt(pycurl.POSTFIELDS, b"")
        is_blocked, self._is_blocked = self._is_blocked, False
        self.is_reusable = self._head_size <= MAX_KEPT_HEADER_BYTES
        self._head_size = self._answers = self._body_size = self._sends = 0
        self.has_connected = False
        self._lines.clear()
        self._chunks.clear()
        if self._is_withdrawn:
            self._is_withdrawn = False
            return WithdrawnError()
        status = self.handle.getinfo(pycurl.RESPONSE_CODE)
        if lines and lines[-1] not in BLANK:
            lines = _without_trailers(lines)
        header_bytes = sum(map(len, lines))
        is_long = len(lines) > 2 * MAX_INTERIM_ANSWERS or header_bytes > MAX_HEADER_BYTES
        if is_long and _is_too_large(lines):
            return failure(FailureKind.TOO_LARGE)
        # A complete header block is a response, even if the body breaks off.
        if status >= 200 and lines and lines[-1] in BLANK:
            return Reply(
                status,
                lines,
                body,
                request=self.request or draft,
                is_truncated=error_code != pycurl.E_OK,
            )
        if is_blocked:
            return failure(FailureKind.BLOCKED_ADDRESS)
        return _failure(self.handle, error_code, has_proxy=self._has_proxy)

    def _write(self, chunk: bytes) -> int | None:
        room = MAX_BODY_BYTES - self._body_size
        self._chunks.append(chunk[:room])
        self._body_size += len(chunk)
        return None if len(chunk) <= room and len(self._chunks) <= MAX_BODY_PIECES else GIVE_UP

    def _take_line(self, line: bytes) -> int | None:
        self._lines.append(line)
        self._head_size += len(line)
        self._answers += line.startswith(b"HTTP/")
        has_room = (
            self._head_size <= MAX_HEADER_BYTES
            and len(self._lines) <= MAX_LINES_READ
            and self._answers <= MAX_INTERIM_ANSWERS + 1
        )
        return None if has_room else GIVE_UP

    def _may_send(self, *_: object) -> int:
        """Decide whether libcurl may send the request, or repeat it, on a connection that is open."""
        if self._sends == MAX_SENDS or not self._is_awake():
            return pycurl.PREREQFUNC_ABORT
        if boottime() - self._built_at > MAX_BUILT_SECONDS and not self._draft.is_current():
            # If a part was sent, this counts as an attempt: report a failure, not a withdrawal.
            self._is_withdrawn = not self._sends
            return pycurl.PREREQFUNC_ABORT
        self._sends += 1
        return pycurl.PREREQFUNC_OK

    def _open_socket(self, purpose: int, address: Any) -> Any:
        family, kind, protocol, target = address
        if not (self._has_proxy or self._may_connect(family, target)):
            self._is_blocked = True
            return pycurl.SOCKET_BAD
        opened = socket.socket(family, kind, protocol)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        # The kernel goes on sending what a closed connection left: after a partition, requests would
        # arrive a minute after their attempts had ended.
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, self._timeout_ms or 0)
        self._opened.append(opened)
        return opened

    def _has_socket(self, fd: int, purpose: int) -> int:
        """Close our own socket: libcurl has a duplicate with this number."""
        while self._opened:
            self._opened.pop().close()
        self.has_connected = True
        self._on_new_socket(fd)
        return int(pycurl.SOCKOPT_OK)

    def _may_connect(self, family: int, target: Any) -> bool:
        return (
            family in (socket.AF_INET, socket.AF_INET6)
            and self._policy.is_allowed(target[0])
            and self._policy.is_port_allowed(target[1])
        )


def _failure(handle: Any, error_code: int, *, has_proxy: bool) -> TransportError:
    if error_code == pycurl.E_PEER_FAILED_VERIFICATION:
        verdict = handle.getinfo(pycurl.SSL_VERIFYRESULT)
        return TransportError(FailureKind.TLS, CERTIFICATE_MESSAGES.get(verdict, UNKNOWN_ISSUER))
    if has_proxy:
        answer = handle.getinfo(pycurl.HTTP_CONNECTCODE)
        if answer == PROXY_TIMEOUT:
            return failure(FailureKind.TIMEOUT)
        if answer >= 300:
            return failure(PROXY_REFUSALS.get(answer, FailureKind.CONNECT))
    elif error_code == pycurl.E_COULDNT_CONNECT and _was_refused(handle):
        return TransportError(FailureKind.CONNECT, REFUSED)
    return failure(KINDS.get(error_code, FailureKind.PROTOCOL))


def _was_refused(handle: Any) -> bool:
    return bool(handle.getinfo(pycurl.OS_ERRNO) == errno.ECONNREFUSED)


BLANK = (b"\r\n", b"\n")


def _without_trailers(lines: list[bytes]) -> list[bytes]:
    """Return the lines up to the blank one that ends the final response's headers.

    libcurl passes the trailers of a chunked body as if they were more headers.
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
"""Keeps libcurl from adding these headers; a later line with a value is still sent. The request asks
for no compression, and responses are never decompressed."""
