"""Many requests at a time, for a worker: libcurl's multi handle on one thread."""

import contextlib
import math
import os
import select
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pycurl
from django.conf import settings
from requests import PreparedRequest, Response

from webhooks.addresses import AddressPolicy
from webhooks.choices import FailureKind
from webhooks.wire.exchange import Exchange
from webhooks.wire.failures import SuspendedError, TransportError, failure
from webhooks.wire.names import (
    MAX_HOSTS,
    Answer,
    Resolver,
    check,
    host_and_port,
    pin_entries,
    system_lookup,
)

SUSPENDED_SECONDS = 7.0
"""A wait that takes so much longer than asked for: the process was stopped, or its machine slept."""


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
        lookup: Callable[[str], Answer] = system_lookup,
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
            name = host_and_port(request.url or "")
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
        problem = check(answer, self._policy)
        if problem is None:
            pins = pin_entries(*waiting.name, answer or ())
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
        in_use = {host_and_port(exchange.url) for exchange in self._active}
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
