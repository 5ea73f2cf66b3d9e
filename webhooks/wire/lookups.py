"""The requests of one sender that wait for the addresses of their hosts."""

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from webhooks.choices import FailureKind
from webhooks.wire.addresses import AddressPolicy
from webhooks.wire.failures import TransportError, failure
from webhooks.wire.messages import Draft
from webhooks.wire.names import Answer, Group, Pin, Resolver, check, pin


@dataclass(slots=True)
class Sending:
    """A request that was started and has not ended."""

    draft: Draft
    context: Any
    group: Group
    started_at: float
    deadline: float
    name: tuple[str, int] | None
    """The host and port to look up; None for a numeric host."""
    looked_up_ms: float = 0.0


class Lookups:
    """Begins each request when its host's addresses are known, or ends it if there are none."""

    def __init__(
        self,
        policy: AddressPolicy,
        lookup: Callable[[str], Answer],
        *,
        begin: Callable[[Sending, Pin], None],
        end: Callable[[Sending, TransportError], None],
        wake: Callable[[], None],
    ) -> None:
        self._policy = policy
        self._resolver = Resolver(self._answered, lookup)
        self._begin = begin
        self._end = end
        self._wake = wake
        self._waiting: dict[str, list[Sending]] = {}
        """The waiting requests by host. Many may wait for dead hosts, so no frequent step walks over
        all."""
        self._hosts_answered: deque[str] = deque()
        self.first_deadline = math.inf

    @property
    def count(self) -> int:
        """How many requests wait."""
        return sum(map(len, self._waiting.values()))

    @property
    def contexts(self) -> list[Any]:
        """The contexts of the requests that wait."""
        return [sending.context for waiting in self._waiting.values() for sending in waiting]

    def start(self, sending: Sending, name: tuple[str, int]) -> None:
        """Begin a request now if its addresses are known, otherwise once they are."""
        if not self._begin_if_resolved(sending, name):
            self._waiting.setdefault(name[0], []).append(sending)
            self.first_deadline = min(self.first_deadline, sending.deadline)

    def begin_answered(self) -> None:
        """Begin the requests whose look-up has ended."""
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

    def end_overdue(self) -> None:
        """End the requests that are past their deadline."""
        now = time.monotonic()
        if self.first_deadline > now:
            return
        for host, waiting in list(self._waiting.items()):
            still = [sending for sending in waiting if sending.deadline > now]
            groups = {sending.group for sending in still}
            for sending in waiting:
                if sending.deadline <= now:
                    self._end(sending, failure(FailureKind.DNS))
                    if sending.group not in groups:
                        self._resolver.drop(host, sending.group)
            if still:
                self._waiting[host] = still
            else:
                del self._waiting[host]
        deadlines = (sending.deadline for waiting in self._waiting.values() for sending in waiting)
        self.first_deadline = min(deadlines, default=math.inf)

    def close(self) -> None:
        self._resolver.drop_all()
        self._waiting.clear()

    def _begin_if_resolved(self, sending: Sending, name: tuple[str, int]) -> bool:
        is_known, answer = self._resolver.get(name[0], sending.group)
        if not is_known:
            return False
        sending.looked_up_ms = (time.monotonic() - sending.started_at) * 1000
        if problem := check(answer, self._policy):
            self._end(sending, problem)
        else:
            self._begin(sending, pin(*name, answer or ()))
        return True

    def _answered(self, host: str) -> None:
        """Note that a look-up has ended; runs on the look-up's thread."""
        self._hosts_answered.append(host)
        self._wake()
