"""Many requests at a time, for a worker: libcurl's multi handle on one thread."""

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pycurl
from django.conf import settings
from requests import PreparedRequest, Response

from webhooks.choices import FailureKind
from webhooks.wire.addresses import AddressPolicy
from webhooks.wire.clock import asleep_seconds, boottime
from webhooks.wire.exchange import Exchange
from webhooks.wire.failures import SuspendedError, TransportError, WithdrawnError, failure
from webhooks.wire.messages import Draft, draft_of
from webhooks.wire.names import (
    MAX_HOSTS,
    Answer,
    Group,
    Pin,
    Resolver,
    check,
    host_and_port,
    pin,
    system_lookup,
)
from webhooks.wire.sockets import Sockets

SUSPENDED_SECONDS = 7.0
"""A wait that takes so much longer than asked for: the process was stopped, or its machine slept."""


@dataclass(slots=True)
class Outcome:
    """How one request ended: one of `response` and `error` is set, or it was withdrawn unsent."""

    context: Any
    request: PreparedRequest | None
    """As it was built last; None where it never was."""
    response: Response | None
    error: TransportError | None
    started_at_monotonic: float
    duration_ms: int

    @property
    def is_withdrawn(self) -> bool:
        """Whether the draft was not built, or not current any more; nothing was sent."""
        return self.response is None and self.error is None


@dataclass(slots=True)
class Sending:
    """A request that was started and has not ended."""

    draft: Draft
    context: Any
    group: Group
    started_at: float
    deadline: float
    name: tuple[str, int] | None
    """What has to be looked up."""


class MultiSender:
    """Keeps many requests in flight on one thread, and connections between them.

    Only wake() may be called from other threads.
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
        self._awake_at = 0.0
        """By the clock that goes on in sleep."""
        self._asleep_seconds = asleep_seconds()
        self._was_suspended = False
        self._multi: Any = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_MAXCONNECTS, max_connections)
        self._sockets = Sockets(self._multi, keeps_idle=not self._has_proxy)
        self._idle: list[Exchange] = []
        self._active: set[Exchange] = set()
        self._waiting: dict[str, list[Sending]] = {}
        """For the look-up of a host. Many may wait for dead ones: nothing here walks over all."""
        self._first_deadline = math.inf
        self._pinned: set[str] = set()
        """The entries of all pins that libcurl was told of, until they are taken back."""
        self._hosts_answered: deque[str] = deque()
        self._ended: list[Outcome] = []

    @property
    def in_flight(self) -> int:
        """How many requests were started and not yet returned by poll()."""
        waiting = sum(map(len, self._waiting.values()))
        return len(self._active) + waiting + len(self._ended)

    def start(
        self, request: PreparedRequest, *, timeout_seconds: float, context: Any, group: Group = None
    ) -> None:
        """Send a POST; its outcome comes out of poll() within the timeout, with this context.

        A Draft's `build` is called once the addresses of its host are known, here or in a later
        poll(). `group` is the owner: groups take turns at looking names up.
        """
        now = time.monotonic()
        sending = Sending(draft_of(request), context, group, now, now + timeout_seconds, None)
        try:
            sending.name = name = host_and_port(sending.draft.url or "")
        except TransportError as problem:
            self._end(sending, None, problem)
            return
        if name is None or self._has_proxy:
            self._begin(sending, None)
        elif not self._begin_if_resolved(sending, name):
            self._waiting.setdefault(name[0], []).append(sending)
            self._first_deadline = min(self._first_deadline, sending.deadline)

    def unsent(self) -> list[Any]:
        """Return the contexts of the requests that wait for a name or a connection.

        Whoever answers for their drafts keeps what it knows of them fresh.
        """
        looked_up = [sending.context for waiting in self._waiting.values() for sending in waiting]
        return looked_up + [
            exchange.sending.context for exchange in self._active if not exchange.is_sent
        ]

    def poll(self, timeout_seconds: float) -> list[Outcome]:
        """Wait for sockets, at most `timeout_seconds`, and return the requests that ended.

        Raises SuspendedError, before anything else is sent, when the process was stopped
        meanwhile, or the machine slept since the last poll().
        """
        wait = self._first_deadline - time.monotonic()
        wait = 0.0 if self._ended else max(0.0, min(timeout_seconds, wait))
        before = boottime()
        ready = self._sockets.wait(wait)
        self._awake_at = boottime()
        slept, self._asleep_seconds = self._asleep_seconds, asleep_seconds()
        slept = self._asleep_seconds - slept
        if max(slept, self._awake_at - before - wait) > SUSPENDED_SECONDS:
            raise SuspendedError
        self._sockets.act(ready)
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
        self._sockets.wake()

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
        self._resolver.drop_all()
        self._waiting.clear()
        self._multi.close()
        self._sockets.close()

    # Names.

    def _begin_if_resolved(self, sending: Sending, name: tuple[str, int]) -> bool:
        is_known, answer = self._resolver.get(name[0], sending.group)
        if not is_known:
            return False
        if problem := check(answer, self._policy):
            self._end(sending, None, problem)
        else:
            self._begin(sending, pin(*name, answer or ()))
        return True

    def _answered(self, host: str) -> None:
        """A look-up ended; called on its thread."""
        self._hosts_answered.append(host)
        self.wake()

    def _begin_answered(self) -> None:
        while self._hosts_answered:
            host = self._hosts_answered.popleft()
            waiting = self._waiting.pop(host, [])
            still = [
                sending
                for sending in waiting
                if sending.name and not self._begin_if_resolved(sending, sending.name)
            ]
            if still:
                self._waiting[host] = still

    def _end_overdue(self) -> None:
        now = time.monotonic()
        for host, waiting in list(self._waiting.items()):
            still = [sending for sending in waiting if sending.deadline > now]
            groups = {sending.group for sending in still}
            for sending in waiting:
                if sending.deadline <= now:
                    self._end(sending, None, failure(FailureKind.DNS))
                    if sending.group not in groups:
                        self._resolver.drop(host, sending.group)
            if still:
                self._waiting[host] = still
            else:
                del self._waiting[host]
        deadlines = (sending.deadline for waiting in self._waiting.values() for sending in waiting)
        self._first_deadline = min(deadlines, default=math.inf)

    def _unpin(self) -> None:
        """Make libcurl forget all pins that no request is under way to.

        By itself it keeps what RESOLVE tells it for ever. With a `+` before an entry it would not,
        but a request that outlives the entry, and is sent again, would look its host up by itself.
        """
        in_use = {exchange.pin.entry for exchange in self._active if exchange.pin}
        gone = self._pinned - in_use
        self._pinned -= gone
        # A transfer that ends before it opens a socket: its entries are taken in as it begins.
        carrier = pycurl.Curl()
        carrier.setopt(pycurl.URL, "http://0.0.0.0/")
        carrier.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTPS)
        carrier.setopt(pycurl.NOSIGNAL, 1)
        carrier.setopt(pycurl.RESOLVE, [f"-{entry}" for entry in gone])
        self._multi.add_handle(carrier)
        self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
        self._multi.remove_handle(carrier)
        carrier.close()

    # libcurl.

    def _begin(self, sending: Sending, pinned: Pin | None) -> None:
        exchange = self._idle.pop() if self._idle else self._new_exchange()
        # A whole number of milliseconds below the deadline's distance where nothing was looked up.
        since = time.monotonic() if pinned else sending.started_at
        try:
            exchange.prepare(sending.draft, sending.deadline - since, pinned)
        except (TransportError, WithdrawnError) as problem:
            self._idle.append(exchange)
            self._end(sending, exchange.request, problem)
            return
        if pinned:
            self._pinned.add(pinned.entry)
        exchange.sending = sending
        self._active.add(exchange)
        self._sockets.begin(exchange.handle)

    def _new_exchange(self) -> Exchange:
        return Exchange(self._policy, on_new_socket=self._sockets.forget, is_awake=self._is_awake)

    def _is_awake(self) -> bool:
        """Asked when a request is about to go out."""
        self._was_suspended |= boottime() - self._awake_at > SUSPENDED_SECONDS
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
        self._end(exchange.sending, exchange.request, exchange.finish(code))
        exchange.sending = exchange.request = None
        self._idle.append(exchange)

    def _end(
        self,
        sending: Sending,
        request: PreparedRequest | None,
        result: Response | TransportError | WithdrawnError,
    ) -> None:
        self._ended.append(
            Outcome(
                sending.context,
                request,
                result if isinstance(result, Response) else None,
                result if isinstance(result, TransportError) else None,
                sending.started_at,
                int((time.monotonic() - sending.started_at) * 1000),
            )
        )
