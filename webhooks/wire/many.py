"""Many requests at a time for a worker, with libcurl's multi handle on one thread."""

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
"""How often the sender checks which connections are expensive to read."""
SUSPENDED_SECONDS = 7.0
"""A wait that takes so much longer than its timeout means that the process was stopped or the machine
slept."""


@dataclass(slots=True)
class Outcome:
    """The end of one request: either `response` or `error` is set, or it was withdrawn unsent."""

    context: Any
    request: PreparedRequest | None
    """The request as last built; None if it never was."""
    response: Response | None
    error: TransportError | None
    started_at_monotonic: float
    duration_ms: int
    phases: Phases
    processor_ms: float = 0.0
    """Processor time of reading the response if that was expensive; otherwise 0."""

    @property
    def is_withdrawn(self) -> bool:
        """Whether the draft was not built or no longer current; nothing was sent."""
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
        """End of the last wait, by boottime()."""
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
        """How many requests have started and have not come out of poll()."""
        return len(self._active) + self._lookups.count + len(self._ended)

    def start(
        self, request: PreparedRequest, *, timeout_seconds: float, context: Any, group: Group = None
    ) -> None:
        """Send a POST; poll() returns its outcome within the timeout, with this context.

        A Draft's `build` is called once the addresses of its host are known, here or in a later
        poll(). `group` is the owner: groups take turns at name look-ups.
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

        The caller keeps the data for their drafts fresh.
        """
        return self._lookups.contexts + [
            exchange.sending.context for exchange in self._active if not exchange.is_sent
        ]

    def poll(self, timeout_seconds: float) -> list[Outcome]:
        """Wait for sockets, at most `timeout_seconds`, and return the requests that ended.

        Raises SuspendedError, before anything else is sent, if the process was stopped meanwhile or
        the machine slept since the last poll().
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
        """Make poll() call `act` whenever one of these events happens on a socket of the caller."""
        self._sockets.watch(fd, act, events)

    def unwatch(self, fd: int) -> None:
        """End watch(). If the socket is closed, no other file may have been opened since."""
        self._sockets.unwatch(fd)

    def close(self) -> None:
        """Drop all requests in flight, without outcomes."""
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

    # The cost of reading responses.

    def _charge_costs(self) -> None:
        """Charge expensive connections to their requests, and cut off those that cost too much."""
        # At most once per COST_CHECK_SECONDS, because this walks over all requests in flight.
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
        # Without a look-up, measure from started_at, so that the timeout stays the same number and
        # need not be set again.
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
        """Return whether the process was awake since the last wait; libcurl asks before it sends."""
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
            # libcurl keeps a large response's memory as long as the handle.
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
    """Return the exchanges on each of these sockets."""
    found: dict[int, list[Exchange]] = {fd: [] for fd in fds}
    for exchange in exchanges:
        fd = exchange.handle.getinfo(pycurl.ACTIVESOCKET)
        if fd in found:
            found[fd].append(exchange)
    return found
