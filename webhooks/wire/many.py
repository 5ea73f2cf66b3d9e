"""Many requests at a time, for a worker: libcurl's multi handle on one thread."""

import select
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pycurl
from django.conf import settings
from requests import PreparedRequest, Response

from webhooks.wire.addresses import AddressPolicy
from webhooks.wire.clock import asleep_seconds, boottime
from webhooks.wire.exchange import E_TOO_LARGE, Exchange
from webhooks.wire.failures import SuspendedError, TransportError, WithdrawnError
from webhooks.wire.lookups import Lookups, Sending
from webhooks.wire.messages import draft_of
from webhooks.wire.names import Answer, Group, Pin, host_and_port, system_lookup
from webhooks.wire.phases import Phases, phases_of
from webhooks.wire.pins import Pins
from webhooks.wire.sockets import Sockets

COST_CHECK_SECONDS = 0.05
"""How often it is looked at whose requests are dear."""
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
    phases: Phases
    processor_ms: float = 0.0
    """Of reading the answer, where that took much more than usual; 0 elsewhere."""

    @property
    def is_withdrawn(self) -> bool:
        """Whether the draft was not built, or not current any more; nothing was sent."""
        return self.response is None and self.error is None


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
        self._awake_at = 0.0
        """By the clock that goes on in sleep."""
        self._asleep_seconds = asleep_seconds()
        self._was_suspended = False
        self._multi: Any = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_MAXCONNECTS, max_connections)
        self._sockets = Sockets(self._multi, keeps_idle=not self._has_proxy)
        self._idle: list[Exchange] = []
        self._active: set[Exchange] = set()
        self._lookups = Lookups(
            policy, lookup, begin=self._begin, end=self._end_unsent, wake=self._sockets.wake
        )
        self._pins = Pins(self._multi)
        self._ended: list[Outcome] = []
        self._cost_check_at = 0.0

    @property
    def in_flight(self) -> int:
        """How many requests were started and not yet returned by poll()."""
        return len(self._active) + self._lookups.count + len(self._ended)

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
            self._end_unsent(sending, problem)
            return
        if name is None or self._has_proxy:
            self._begin(sending, None)
        else:
            self._lookups.start(sending, name)

    def unsent(self) -> list[Any]:
        """Return the contexts of the requests that wait for a name or a connection.

        Whoever answers for their drafts keeps what it knows of them fresh.
        """
        return self._lookups.contexts + [
            exchange.sending.context for exchange in self._active if not exchange.is_sent
        ]

    def poll(self, timeout_seconds: float) -> list[Outcome]:
        """Wait for sockets, at most `timeout_seconds`, and return the requests that ended.

        Raises SuspendedError, before anything else is sent, when the process was stopped
        meanwhile, or the machine slept since the last poll().
        """
        wait = self._lookups.first_deadline - time.monotonic()
        wait = 0.0 if self._ended else max(0.0, min(timeout_seconds, wait))
        before = boottime()
        ready = self._sockets.wait(wait)
        self._awake_at = boottime()
        slept, self._asleep_seconds = self._asleep_seconds, asleep_seconds()
        slept = self._asleep_seconds - slept
        if max(slept, self._awake_at - before - wait) > SUSPENDED_SECONDS:
            raise SuspendedError
        self._sockets.act(ready)
        meter = self._sockets.meter
        if meter.noticed and (meter.is_full or self._cost_check_at <= time.monotonic()):
            self._charge_costs()
        self._lookups.begin_answered()
        if self._pins.are_many:
            self._pins.forget({exchange.pin.entry for exchange in self._active if exchange.pin})
        self._lookups.end_overdue()
        if self._was_suspended:
            raise SuspendedError
        self._read_ended()
        ended, self._ended = self._ended, []
        return ended

    def wake(self) -> None:
        """Make a poll() that is waiting return at once; safe from threads and signal handlers."""
        self._sockets.wake()

    def watch(self, fd: int, act: Callable[[], None], events: int = select.EPOLLIN) -> None:
        """Have poll() call `act` whenever one of these events is there on a socket of the caller's."""
        self._sockets.watch(fd, act, events)

    def unwatch(self, fd: int) -> None:
        """End watch(); nothing else may have been opened since the socket was closed."""
        self._sockets.unwatch(fd)

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
        self._lookups.close()
        self._multi.close()
        self._sockets.close()

    # What answers cost.

    def _charge_costs(self) -> None:
        """Charge what dear connections cost to their requests, and cut off what costs too much."""
        # Not for each of many at a time: this walks over all that is in flight.
        self._cost_check_at = time.monotonic() + COST_CHECK_SECONDS
        meter = self._sockets.meter
        noticed, meter.noticed = meter.noticed, set()
        for fd, exchanges in _by_socket(self._active, noticed).items():
            usage = meter.by_socket[fd]
            usage.requests = max(len(exchanges), 1)
            is_over = usage.is_over(meter.bytes_in_all)
            if is_over:
                self._sockets.cut(fd, len(exchanges))
            for exchange in exchanges:
                exchange.usage = usage
                if is_over:
                    self._finish(exchange, E_TOO_LARGE)

    # libcurl.

    def _begin(self, sending: Sending, pinned: Pin | None) -> None:
        exchange = self._idle.pop() if self._idle else self._new_exchange()
        # A whole number of milliseconds below the deadline's distance where nothing was looked up.
        since = time.monotonic() if pinned else sending.started_at
        try:
            exchange.prepare(sending.draft, sending.deadline - since, pinned)
        except (TransportError, WithdrawnError) as problem:
            self._idle.append(exchange)
            phases = Phases(sending.looked_up_ms)
            self._ended.append(_outcome(sending, exchange.request, problem, phases))
            return
        if pinned:
            self._pins.add(pinned.entry)
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
        sending, usage = exchange.sending, exchange.usage
        phases = phases_of(
            exchange.handle,
            sending.looked_up_ms,
            (time.monotonic() - sending.started_at) * 1000 - sending.looked_up_ms,
            is_sent=exchange.is_sent,
            has_connected=exchange.has_connected,
        )
        processor_ms = usage.seconds * 1000 / usage.requests if usage else 0.0
        result = exchange.finish(code)
        self._ended.append(_outcome(sending, exchange.request, result, phases, processor_ms))
        exchange.sending = exchange.request = exchange.usage = None
        if usage or not exchange.is_reusable:
            # libcurl would keep what it holds for as long as the handle.
            exchange.handle.close()
        else:
            self._idle.append(exchange)

    def _end_unsent(self, sending: Sending, problem: TransportError) -> None:
        spent_ms = (time.monotonic() - sending.started_at) * 1000
        self._ended.append(_outcome(sending, None, problem, Phases(dns=spent_ms)))


def _outcome(
    sending: Sending,
    request: PreparedRequest | None,
    result: Response | TransportError | WithdrawnError,
    phases: Phases,
    processor_ms: float = 0.0,
) -> Outcome:
    return Outcome(
        sending.context,
        request,
        result if isinstance(result, Response) else None,
        result if isinstance(result, TransportError) else None,
        sending.started_at,
        int((time.monotonic() - sending.started_at) * 1000),
        phases,
        processor_ms,
    )


def _by_socket(exchanges: Iterable[Exchange], fds: set[int]) -> dict[int, list[Exchange]]:
    """Return which of these are on each of some sockets."""
    found: dict[int, list[Exchange]] = {fd: [] for fd in fds}
    for exchange in exchanges:
        fd = exchange.handle.getinfo(pycurl.ACTIVESOCKET)
        if fd in found:
            found[fd].append(exchange)
    return found
