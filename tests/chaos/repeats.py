"""Why something arrived twice: each time one fault must explain it that struck this very delivery."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from tests.chaos.faults import Fault

END_SECONDS = 40.0
"""How long a worker that was told to end may take for what is in flight."""


class Arrival(Protocol):
    """A request that was answered with success."""

    @property
    def at(self) -> float:
        """In Unix seconds."""

    @property
    def delivery(self) -> str:
        """Its id as receivers see it."""


A = TypeVar("A", bound=Arrival)


class Repeats(Generic[A]):
    """Explains arrivals of one run; `is_late` says whether an answer came after its timeout."""

    def __init__(self, faults: Sequence[Fault], is_late: Callable[[A], bool]) -> None:
        self._faults = faults
        self._is_late = is_late
        self.reasons: Counter[str] = Counter()
        """How many repeats each kind of fault explains; "nothing" explains the others."""

    def unexplained(self, arrived: Iterable[Sequence[A]]) -> Iterator[tuple[A, Sequence[A]]]:
        """Yield what came again without a reason, and all arrivals of the same; each item of `arrived`
        is what one recipient got of one event."""
        for same in arrived:
            for first in same[:-1]:
                reason = self._reason(first)
                self.reasons[reason or "nothing"] += 1
                if reason is None:
                    yield first, same

    def _reason(self, first: A) -> str | None:
        """Return what made this arrival not the last."""
        for fault in self._faults:
            if first.delivery in fault.may_repeat and first.at <= fault.repeats_until:
                return fault.kind
            if first.delivery in fault.locked and self._could_not_be_written(first, fault):
                return f"terminate_worker beside {fault.kind}"
        return "a response after the timeout" if self._is_late(first) else None

    def _could_not_be_written(self, first: A, lock: Fault) -> bool:
        """Say whether the worker may have ended while the row was locked: it waits five seconds."""
        return first.at <= lock.lasts_until and any(
            fault.is_end
            and fault.started_at <= lock.lasts_until
            and lock.started_at <= fault.started_at + END_SECONDS
            for fault in self._faults
        )
