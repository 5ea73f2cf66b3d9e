"""How long a chaos run stood still, and how long what dead workers held took to arrive."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import accumulate

from tests.chaos.evidence import Evidence, Place, Request, is_on
from tests.chaos.faults import Fault
from tests.chaos.recipients import Recipient

LONGEST_STANDSTILL = 30.0
"""Seconds; a worker's death is noticed after ten."""
LONGEST_RECOVERY = 30.0

Known = tuple[Request, Recipient, Place]


@dataclass
class Times:
    """What was measured, in seconds, by the kind of the fault."""

    standstills: list[tuple[str, float]] = field(default_factory=list)
    """For each fault, until an event caused after that arrived."""
    ordered_standstills: list[tuple[str, float]] = field(default_factory=list)
    """The same of ordered webhooks."""
    recoveries: list[tuple[str, float]] = field(default_factory=list)
    """For each death of a worker, until the last of what it held arrived (again)."""


class Timing:
    """Measures a run, and complains of what took too long."""

    def __init__(
        self, evidence: Evidence, known: list[Known], broken: defaultdict[str, list[str]]
    ) -> None:
        self.times = Times()
        self._evidence = evidence
        self._broken = broken
        self.times.standstills = self._standstills(known)
        ordered = [one for one in known if one[1].ordered]
        self.times.ordered_standstills = self._standstills(ordered, is_ordered=True)
        for name in ("standstills", "ordered_standstills"):
            for kind, seconds in getattr(self.times, name):
                if seconds > LONGEST_STANDSTILL:
                    broken[name.replace("_", " ")].append(f"{seconds:.0f} s after {kind}")
        at_of: defaultdict[str, list[Request]] = defaultdict(list)
        for request in evidence.requests:
            at_of[request.delivery].append(request)
        for fault in evidence.faults:
            if fault.is_death:
                self._measure_recovery(fault, at_of)

    def _standstills(
        self, known: Iterable[Known], *, is_ordered: bool = False
    ) -> list[tuple[str, float]]:
        arrivals = sorted(
            (place.cause.began_at, request.at) for request, _, place in known if request.good
        )
        began_at = [began for began, _ in arrivals]
        # The first arrival of anything caused then or later.
        next_arrival = list(accumulate((at for _, at in reversed(arrivals)), min))[::-1]
        found = []
        for fault in self._evidence.faults:
            place = bisect_left(began_at, fault.works_from)
            if place < len(arrivals):
                since, until = fault.works_from, next_arrival[place]
                held_up = self._delayed(since, until, is_ordered=is_ordered)
                found.append((fault.kind, until - since - held_up))
        return found

    def _delayed(self, since: float, until: float, *, is_ordered: bool) -> float:
        """Return for how many of these seconds everything, or what is ordered, had to stand still."""
        total = 0.0
        for fault in self._evidence.faults:
            ends_at = fault.works_from
            if is_ordered:
                ends_at = max(ends_at, fault.delays_order_until)
            start, end = max(since, fault.started_at), min(until, ends_at)
            if end > start:
                total += end - start
                since = max(since, end)
        return total

    def _measure_recovery(self, fault: Fault, at_of: dict[str, list[Request]]) -> None:
        again = {}
        for delivery in fault.may_repeat:
            silent_from = fault.silent_from or fault.repeats_until
            later = [r for r in at_of.get(delivery, ()) if r.at > silent_from]
            if later and not self._waits_for_another_reason(later[0], fault):
                again[delivery] = later[0].at - fault.started_at
        if again:
            longest = max(again, key=lambda delivery: again[delivery])
            self.times.recoveries.append((fault.kind, again[longest]))
            if again[longest] > LONGEST_RECOVERY + self._held_up(fault, again[longest]):
                self._broken["slow recovery"].append(f"{longest} after {again[longest]:.0f} s")

    def _held_up(self, fault: Fault, seconds: float) -> float:
        """Return how long the faults that came next may have delayed what this one left behind."""
        until = fault.started_at + seconds
        following = [f for f in self._evidence.faults if fault.started_at < f.started_at < until]
        deaths = sum(f.is_death or f.kind == "restore_dump" for f in following)
        delayed = self._delayed(fault.started_at, until, is_ordered=True)
        return delayed + deaths * LONGEST_RECOVERY / 2

    def _waits_for_another_reason(self, request: Request, fault: Fault) -> bool:
        """Receivers that take fifteen seconds, and webhooks that are off meanwhile."""
        recipient = self._evidence.recipients.get(request.path)
        return (
            recipient is None
            or "slow" in request.path
            or not is_on(recipient, fault.started_at, request.at)
        )
