"""Hold what came against what the producers caused, wherever the product may have stored it.

The judge knows the causes (causes.py), the webhooks as the run registered them, the faults and what
each may have repeated, and the receiver's ledger. Of the database it reads only whether anything is
left unfinished there, and which attempts were recorded as too late.
"""

import base64
import hashlib
import hmac
import json
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from tests.chaos.causes import Cause, Expected, Key, key_of
from tests.chaos.faults import Fault
from tests.chaos.world import SLOW_TIMEOUT_SECONDS, TIMEOUT_SECONDS, Recipient
from webhooks.ids import DELIVERY_PREFIX
from webhooks.models import Attempt, Delivery, Webhook

LONGEST_STANDSTILL = 30.0
"""Seconds; a worker's death is noticed after ten."""
LONGEST_RECOVERY = 30.0
FEWEST_EVENTS = 100
"""A run with less says nothing."""
GRACE_SECONDS = 3.0
"""How long after a webhook was switched off, deleted or given a new secret a request may still arrive
as before: what is handed over within a second has to arrive, too."""
NAME_SECONDS = 68.0
"""How long requests may go to the address that a name had: 60 s, and the way."""
CLOCK_SECONDS = 5.0
"""How far a timestamp may be from the arrival; with a stepped clock, STEPPED_SECONDS."""
STEPPED_SECONDS = 30.0


class Request(NamedTuple):
    """A line of the receiver's ledger."""

    at: float
    to: str
    path: str
    event: str
    type: str
    delivery: str
    attempt: int
    sha256: str
    good: bool
    timestamp: str
    standard: str
    hex: str


class Place(NamedTuple):
    """What an event was caused by: the how-manieth of a transaction."""

    cause: Cause
    number: int
    expected: Expected


@dataclass
class Verdict:
    """The counts of a run, and every broken promise by its name, with examples."""

    causes: Counter[str] = field(default_factory=Counter)
    """By outcome."""
    events: int = 0
    """That were caused for certain."""
    by_type: Counter[str] = field(default_factory=Counter)
    owed: int = 0
    """Deliveries that had to arrive."""
    requests: int = 0
    duplicates: Counter[str] = field(default_factory=Counter)
    """By the fault that explains them."""
    standstills: list[float] = field(default_factory=list)
    """For each fault, the seconds until an event caused after that arrived."""
    ordered_standstills: list[float] = field(default_factory=list)
    """The same of ordered webhooks."""
    recoveries: list[float] = field(default_factory=list)
    """For each death of a worker, until the last of what it held arrived (again)."""
    broken: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))


def judge(
    ledger: Path,
    causes: Sequence[Cause],
    recipients: Sequence[Recipient],
    faults: Sequence[Fault],
    moves: Sequence[tuple[float, str]],
) -> Verdict:
    """Compare everything; `moves` says from when on the receiver's name meant which address."""
    return Judge(ledger, causes, recipients, faults, moves).verdict


class Judge:
    """Everything there is to compare, and the comparisons."""

    def __init__(
        self,
        ledger: Path,
        causes: Sequence[Cause],
        recipients: Sequence[Recipient],
        faults: Sequence[Fault],
        moves: Sequence[tuple[float, str]],
    ) -> None:
        self.verdict = Verdict()
        self.broken = self.verdict.broken
        self.faults = faults
        self.causes = causes
        self.recipients = {recipient.path: recipient for recipient in recipients}
        self.places: dict[Key, Place] = {}
        self.undone: set[Key] = set()
        for cause in causes:
            self._take_cause(cause)
        self.requests: list[Request] = []
        self.bodies: dict[str, bytes] = {}
        with ledger.open() as lines:
            for line in lines:
                self._take_request(json.loads(line))
        self.verdict.requests = len(self.requests)
        self.event_of: dict[Key, str] = {}
        self.known: list[tuple[Request, Recipient, Place]] = []
        for request in self.requests:
            self._check_request(request)
        self.arrived: defaultdict[tuple[str, Key], list[Request]] = defaultdict(list)
        for request, _, place in self.known:
            self.arrived[request.path, _key(place)].append(request)
        self._check_that_all_came()
        self._check_duplicates()
        for recipient in recipients:
            if recipient.ordered:
                self._check_order(recipient)
        self._check_addresses(moves)
        self._check_what_is_left()
        if self.verdict.events < FEWEST_EVENTS:
            self.broken["too little happened"].append(f"{self.verdict.events} events")
        self._measure()

    def _take_cause(self, cause: Cause) -> None:
        self.verdict.causes[cause.outcome] += 1
        if cause.outcome == "rolled back":
            self.undone |= {key_of(e.type, e.data) for e in cause.expected}
        else:
            for number, expected in enumerate(cause.expected):
                place = Place(cause, number, expected)
                self.places[_key(place)] = place
        self.undone |= {key_of(e.type, e.data) for e in cause.never}

    def _take_request(self, line: dict[str, Any]) -> None:
        if "body" in line:
            self.bodies[line["sha256"]] = line.pop("body").encode()
        self.requests.append(Request(**line))

    # Each request by itself.

    def _check_request(self, request: Request) -> None:
        body = self.bodies[request.sha256]
        envelope = json.loads(body)
        key = key_of(envelope["type"], envelope["data"])
        recipient, place = self.recipients.get(request.path), self.places.get(key)
        if recipient is None:
            self.broken["wrong recipient"].append(f"{request.path} is nobody's")
            return
        self._check_signature(request, recipient, body)
        if (envelope["id"], envelope["type"]) != (request.event, request.type):
            self.broken["headers and body differ"].append(request.event)
        if place is None:
            name = "sent though rolled back" if key in self.undone else "sent without a cause"
            self.broken[name].append(f"{request.event} {key}")
            return
        self._check_event(request, recipient, place, envelope)
        self.known.append((request, recipient, place))

    def _check_event(
        self, request: Request, recipient: Recipient, place: Place, envelope: dict[str, Any]
    ) -> None:
        _, _, expected = place
        differs = {k: envelope["data"].get(k) for k, v in expected.data.items()
                   if envelope["data"].get(k, NOTHING) != v}  # fmt: skip
        if differs:
            self.broken["data differ"].append(f"{request.event}: {differs}")
        first = self.event_of.setdefault(_key(place), f"{request.event} {request.sha256}")
        if first != f"{request.event} {request.sha256}":
            self.broken["announced in two versions"].append(f"{_key(place)}: {request.event}")
        if not recipient.wants(expected.type, expected.owner):
            self.broken["wrong recipient"].append(f"{request.event} at {request.path}")
        elif _is_off(recipient, place.cause.began_at, place.cause.over_at):
            self.broken["sent to a webhook that was off"].append(request.delivery)
        if _is_off(recipient, request.at - GRACE_SECONDS, request.at):
            self.broken["sent while off"].append(f"{request.delivery} at {request.path}")

    def _check_signature(self, request: Request, recipient: Recipient, body: bytes) -> None:
        fit = [at for at, secret in recipient.secrets if _is_signed(request, secret, body)]
        newest = max(at for at, _ in recipient.secrets if at <= request.at - GRACE_SECONDS)
        if not fit or max(fit) < newest:
            self.broken["signature does not fit"].append(f"{request.delivery} at {request.path}")
        off_by = abs(float(request.timestamp or 0) - request.at)
        if off_by > (STEPPED_SECONDS if self._is_stepped(request.at) else CLOCK_SECONDS):
            self.broken["timestamp is off"].append(f"{request.delivery} by {off_by:.0f} s")

    def _is_stepped(self, at: float) -> bool:
        return any(
            fault.started_at - 1 <= at <= fault.lasts_until + STEPPED_SECONDS
            for fault in self.faults
            if fault.kind == "step_database_clock"
        )

    # All of them together.

    def _check_that_all_came(self) -> None:
        for cause in self.causes:
            if cause.outcome == "rolled back" or not cause.expected:
                continue
            keys = [key_of(expected.type, expected.data) for expected in cause.expected]
            # Nobody knows how it ended: all of it or nothing.
            is_owed = cause.outcome == "committed" or any(key in self.event_of for key in keys)
            if is_owed:
                self.verdict.events += len(keys)
                self.verdict.by_type.update(expected.type for expected in cause.expected)
                for expected, key in zip(cause.expected, keys, strict=True):
                    self._check_that_it_came(cause, expected, key)

    def _check_that_it_came(self, cause: Cause, expected: Expected, key: Key) -> None:
        for recipient in self._certain_recipients(cause, expected):
            self.verdict.owed += 1
            if not any(request.good for request in self.arrived[recipient.path, key]):
                self.broken["lost"].append(f"{key} at {recipient.path} ({cause.outcome})")

    def _certain_recipients(self, cause: Cause, expected: Expected) -> Iterator[Recipient]:
        for recipient in self.recipients.values():
            if recipient.wants(expected.type, expected.owner) and _is_on(
                recipient, cause.began_at, cause.over_at
            ):
                yield recipient

    def _check_duplicates(self) -> None:
        for requests in self.arrived.values():
            good = [request for request in requests if request.good]
            for request in good[:-1]:
                reason = self._reason_of_repeat(request)
                self.verdict.duplicates[reason or "nothing"] += 1
                if reason is None:
                    self.broken["unexplained duplicates"].append(
                        f"{request.delivery} at {request.path}: {[r.at for r in good]}"
                    )

    def _reason_of_repeat(self, first: Request) -> str | None:
        """Return what made this arrival not the last: a fault that struck this very delivery."""
        for fault in self.faults:
            if first.delivery in fault.may_repeat and first.at <= fault.repeats_until:
                return fault.kind
        is_slow = "slow" in first.path
        least_ms = 900 * (SLOW_TIMEOUT_SECONDS if is_slow else TIMEOUT_SECONDS)
        # The machine was so busy that the response came after the webhook's timeout.
        is_late = Attempt.objects.filter(
            delivery_id=first.delivery.removeprefix(DELIVERY_PREFIX),
            number=first.attempt,
            response_code=None,
            failure_kind="timeout",
            duration_ms__gte=least_ms,
        )
        return "a response after the timeout" if is_late.exists() else None

    def _check_order(self, recipient: Recipient) -> None:
        """Of two transactions that did not overlap, what the earlier caused is received first.

        Only what was caused while the webhook was certainly on has to come at all.
        """
        waiting = [
            (cause.ended_at, number, key_of(expected.type, expected.data))
            for cause in self.causes
            if cause.outcome == "committed" and _is_on(recipient, cause.began_at, cause.over_at)
            for number, expected in enumerate(cause.expected)
            if recipient.wants(expected.type, expected.owner)
        ]
        owed = {key for _, _, key in waiting}
        heapify(waiting)
        received: set[Key] = set()
        for request, _, place in self.known:
            if request.path != recipient.path:
                continue
            while waiting and waiting[0][2] in received:
                heappop(waiting)
            before = {key_of(e.type, e.data) for e in place.cause.expected[: place.number]}
            is_overtaking = bool(waiting) and waiting[0][0] < place.cause.began_at
            if is_overtaking or (before & owed) - received:
                self.broken["out of order"].append(f"{request.delivery} at {request.path}")
            if request.good:
                received.add(_key(place))

    def _check_addresses(self, moves: Sequence[tuple[float, str]]) -> None:
        """A name that has moved is followed soon, though its old address goes on answering."""
        for request in self.requests:
            addresses = {
                address
                for (at, address), following in _pairs(moves)
                if at <= request.at
                and (following is None or following[0] >= request.at - NAME_SECONDS)
            }
            if request.to not in addresses and not request.path.endswith("/messages"):
                self.broken["sent to the old address"].append(request.delivery)

    def _check_what_is_left(self) -> None:
        deleted = set(Webhook.objects.exclude(deleted_at=None).values_list("id", flat=True))
        columns = ("id", "status", "webhook_id", "claimed_by")
        for delivery in Delivery.objects.exclude(status="SUCCESS", claimed_by=None).only(*columns):
            if delivery.status != "CANCELLED" or delivery.webhook_id not in deleted:
                self.broken["stuck"].append(
                    f"{delivery.public_id} is {delivery.status} ({delivery.claimed_by})"
                )

    # How long it took.

    def _measure(self) -> None:
        is_ordered = {r.path: r.ordered for r in self.recipients.values()}
        self.verdict.standstills = self._standstills(self.known)
        ordered = [known for known in self.known if is_ordered[known[0].path]]
        self.verdict.ordered_standstills = self._standstills(ordered, allows_writers=True)
        for name in ("standstills", "ordered_standstills"):
            for seconds in getattr(self.verdict, name):
                if seconds > LONGEST_STANDSTILL:
                    self.broken[name.replace("_", " ")].append(f"{seconds:.0f} s")
        at_of: defaultdict[str, list[Request]] = defaultdict(list)
        for request in self.requests:
            at_of[request.delivery].append(request)
        for fault in self.faults:
            if fault.is_death:
                self._measure_recovery(fault, at_of)

    def _standstills(
        self, known: Iterable[tuple[Request, Recipient, Place]], *, allows_writers: bool = False
    ) -> list[float]:
        """`allows_writers`: while a stranger's transaction has written, ordered webhooks wait."""
        arrivals = sorted(
            (place.cause.began_at, request.at) for request, _, place in known if request.good
        )
        began_at = [began for began, _ in arrivals]
        # The first arrival of anything caused then or later.
        next_arrival = list(accumulate((at for _, at in reversed(arrivals)), min))[::-1]
        found = []
        for fault in self.faults:
            place = bisect_left(began_at, fault.works_from)
            if place < len(arrivals):
                since, until = fault.works_from, next_arrival[place]
                held_up = self._held_up_by_writers(since, until) if allows_writers else 0.0
                found.append(until - since - held_up)
        return found

    def _held_up_by_writers(self, since: float, until: float) -> float:
        """Return for how many of these seconds a stranger's transaction was open that had written."""
        total = 0.0
        for fault in self.faults:
            if fault.is_writer:
                start, end = max(since, fault.started_at), min(until, fault.lasts_until)
                total += max(0.0, end - start)
                since = max(since, end) if end > start else since
        return total

    def _measure_recovery(self, fault: Fault, at_of: dict[str, list[Request]]) -> None:
        again = {}
        for delivery in fault.may_repeat:
            later = [r for r in at_of.get(delivery, ()) if r.at > fault.repeats_until]
            if later and not self._waits_for_another_reason(later[0], fault):
                again[delivery] = later[0].at - fault.started_at
        if again:
            longest = max(again, key=lambda delivery: again[delivery])
            self.verdict.recoveries.append(again[longest])
            if again[longest] > LONGEST_RECOVERY + self._held_up_by_others(fault, again[longest]):
                self.broken["slow recovery"].append(f"{longest} after {again[longest]:.0f} s")

    def _held_up_by_others(self, fault: Fault, seconds: float) -> float:
        """Return how long the faults that came next may have delayed what this one left behind."""
        until = fault.started_at + seconds
        following = [f for f in self.faults if fault.started_at < f.started_at < until]
        outages = sum(other.works_from - other.started_at for other in following)
        deaths = sum(f.is_death or f.kind == "restore_dump" for f in following)
        return (
            outages
            + deaths * LONGEST_RECOVERY / 2
            + self._held_up_by_writers(fault.started_at, until)
        )

    def _waits_for_another_reason(self, request: Request, fault: Fault) -> bool:
        """Receivers that take fifteen seconds, and webhooks that are off meanwhile."""
        recipient = self.recipients.get(request.path)
        return (
            recipient is None
            or "slow" in request.path
            or not _is_on(recipient, fault.started_at, request.at)
        )


NOTHING = object()


def _key(place: Place) -> Key:
    return key_of(place.expected.type, place.expected.data)


def _is_on(recipient: Recipient, since: float, until: float) -> bool:
    """Say whether a webhook certainly was there and on all this time."""
    return (
        recipient.created.ended_at < since
        and recipient.deleted is None
        and not any(
            off.began_at <= until and since <= (on.ended_at if on else float("inf"))
            for off, on in _pairs(recipient.off)[::2]
        )
    )


def _is_off(recipient: Recipient, since: float, until: float) -> bool:
    """Say whether a webhook certainly was off, or not there, all this time."""
    return (
        until < recipient.created.began_at
        or (recipient.deleted is not None and recipient.deleted.ended_at < since)
        or any(
            off.ended_at < since and until < (on.began_at if on else float("inf"))
            for off, on in _pairs(recipient.off)[::2]
        )
    )


def _pairs(items: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Return each item with the one after it, None after the last."""
    return list(zip(items, [*items[1:], None], strict=True)) if items else []


def _is_signed(request: Request, secret: str, body: bytes) -> bool:
    """Check both signatures by themselves, without the product's code."""
    time = request.timestamp.encode()
    key = base64.b64decode(secret.removeprefix("whsec_"))
    content = b".".join([request.event.encode(), time, body])
    standard = "v1," + base64.b64encode(_mac(key, content)).decode()
    return (
        standard in request.standard.split()
        and request.hex == _mac(secret.encode(), time + b"." + body).hex()
    )


def _mac(key: bytes, content: bytes) -> bytes:
    return hmac.new(key, content, hashlib.sha256).digest()
