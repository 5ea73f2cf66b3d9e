"""Hold what came against what the producers caused, wherever the product may have stored it.

Of the database the judge reads only whether anything is left unfinished there, and which attempts
were recorded as too late.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from heapq import heapify, heappop

from tests.chaos.causes import Cause, Expected, Key, key_of, object_of
from tests.chaos.each import EachRequest
from tests.chaos.evidence import Evidence, Place, Request, is_on, with_next
from tests.chaos.recipients import Recipient
from tests.chaos.repeats import Repeats
from tests.chaos.timing import Times, Timing
from webhooks.ids import DELIVERY_PREFIX
from webhooks.models import Attempt, Delivery, Webhook

FEWEST_EVENTS = 100
"""A run with less says nothing."""
NAME_SECONDS = 68.0
"""How long requests may go to the address that a name had: 60 s, and the way."""


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
    in_feed: int = 0
    redelivered: int = 0
    """Deliveries that had to arrive again."""
    duplicates: Counter[str] = field(default_factory=Counter)
    """By the fault that explains them."""
    times: Times = field(default_factory=Times)
    broken: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))


def judge(evidence: Evidence) -> Verdict:
    """Compare everything."""
    return Judge(evidence).verdict


class Judge:
    """The comparisons of all requests together."""

    def __init__(self, evidence: Evidence) -> None:
        self.verdict = Verdict(
            evidence.outcomes, requests=len(evidence.requests), in_feed=len(evidence.feed)
        )
        self.broken = self.verdict.broken
        self.evidence = evidence
        each = EachRequest(evidence, self.broken)
        self.event_of, self.known = each.event_of, each.known
        self.arrived: defaultdict[tuple[str, Key], list[Request]] = defaultdict(list)
        for request, _, place in self.known:
            self.arrived[request.path, place.key].append(request)
        self._check_that_all_came()
        self._check_duplicates()
        self._check_redelivered()
        for recipient in evidence.recipients.values():
            if recipient.order != "none":
                self._check_order(recipient)
        self._check_feed()
        self._check_addresses()
        self._check_what_is_left()
        if evidence.half_forgotten:
            self.broken["lost, and not the tail"] += evidence.half_forgotten
        if self.verdict.events < FEWEST_EVENTS:
            self.broken["too little happened"].append(f"{self.verdict.events} events")
        self.verdict.times = Timing(evidence, self.known, self.broken).times

    def _certain_causes(self) -> Iterator[tuple[Cause, list[tuple[Expected, Key]]]]:
        """Yield what was committed; where nobody knows, all of it is as soon as a part is."""
        for cause in self.evidence.causes:
            keys = [(expected, key_of(expected.type, expected.data)) for expected in cause.expected]
            if cause.outcome == "committed" or (
                cause.outcome == "unknown" and any(key in self.event_of for _, key in keys)
            ):
                yield cause, keys

    def _check_that_all_came(self) -> None:
        for cause, keys in self._certain_causes():
            self.verdict.events += len(keys)
            self.verdict.by_type.update(expected.type for expected in cause.expected)
            for expected, key in keys:
                self._check_that_it_came(cause, expected, key)

    def _check_that_it_came(self, cause: Cause, expected: Expected, key: Key) -> None:
        for recipient in self._certain_recipients(cause, expected):
            self.verdict.owed += 1
            if not any(request.good for request in self.arrived[recipient.path, key]):
                self.broken["lost"].append(f"{key} at {recipient.path} ({cause.outcome})")

    def _certain_recipients(self, cause: Cause, expected: Expected) -> Iterator[Recipient]:
        for recipient in self.evidence.recipients.values():
            if recipient.wants(expected.type, expected.owner) and is_on(
                recipient, cause.began_at, cause.over_at
            ):
                yield recipient

    # Twice.

    def _check_duplicates(self) -> None:
        good = ([one for one in requests if one.good] for requests in self.arrived.values())
        repeats = Repeats(self.evidence.faults, self._was_late)
        for first, same in repeats.unexplained(good):
            self.broken["unexplained duplicates"].append(
                f"{first.delivery} at {first.path}: {[one.at for one in same]}"
            )
        self.verdict.duplicates = repeats.reasons

    def _was_late(self, first: Request) -> bool:
        """The machine was so busy that the response came after the webhook's timeout."""
        if any((first.delivery, first.attempt) in f.timed_out for f in self.evidence.faults):
            return True
        timeout_seconds = self.evidence.recipients[first.path].webhook.timeout_seconds
        is_late = Attempt.objects.filter(
            delivery_id=first.delivery.removeprefix(DELIVERY_PREFIX),
            number=first.attempt,
            response_code=None,
            failure_kind="timeout",
            duration_ms__gte=900 * timeout_seconds,
        )
        return is_late.exists()

    def _check_redelivered(self) -> None:
        at_of: defaultdict[str, list[float]] = defaultdict(list)
        for request in self.evidence.requests:
            if request.good:
                at_of[request.delivery].append(request.at)
        for fault in self.evidence.faults:
            if fault.must_repeat:
                self.verdict.redelivered += len(fault.may_repeat)
                for delivery in fault.may_repeat:
                    if max(at_of[delivery], default=0.0) < fault.started_at:
                        self.broken["not redelivered"].append(delivery)

    # In order.

    def _check_order(self, recipient: Recipient) -> None:
        """Only what was caused while the webhook was certainly on has to come at all."""
        owed = [
            (cause, expected)
            for cause in self.evidence.causes
            if cause.outcome == "committed" and is_on(recipient, cause.began_at, cause.over_at)
            for expected in cause.expected
            if recipient.wants(expected.type, expected.owner)
        ]
        came = [(p, r.good, p.before) for r, _, p in self.known if r.path == recipient.path]

        def line_of(expected: Expected) -> Key:
            """What shares one order with it: everything, or the events of its object."""
            return () if recipient.ordered else object_of(expected.type, expected.data)

        owed_in: defaultdict[Key, list[tuple[Cause, Expected]]] = defaultdict(list)
        for cause, expected in owed:
            owed_in[line_of(expected)].append((cause, expected))
        came_in: defaultdict[Key, list[tuple[Place, bool, set[Key]]]] = defaultdict(list)
        for arrival in came:
            came_in[line_of(arrival[0].expected)].append(arrival)
        for line, arrivals in came_in.items():
            for place in overtaking(owed_in[line], arrivals):
                self.broken["out of order"].append(f"{place.key} at {recipient.path}")

    def _check_feed(self) -> None:
        """Every event once, in the order of transactions, and nothing else."""
        came, seen = [], Counter[Key]()
        for payload in self.evidence.feed:
            key = key_of(payload["type"], payload["data"])
            seen[key] += 1
            place = self.evidence.places.get(key)
            if place is None:
                name = "rolled back" if key in self.evidence.undone else "without a cause"
                self.broken[f"in the feed {name}"].append(f"{payload['id']} {key}")
                continue
            came.append((place, True, set[Key]()))
            if self.event_of.get(key, payload["id"]).split()[0] != payload["id"]:
                self.broken["another id in the feed"].append(f"{payload['id']} {key}")
        for _, keys in self._certain_causes():
            for _, key in keys:
                if seen[key] != 1:
                    name = "twice in the feed" if seen[key] else "missing in the feed"
                    self.broken[name].append(str(key))
        owed = [
            (c, e) for c in self.evidence.causes if c.outcome == "committed" for e in c.expected
        ]
        for place in overtaking(owed, came):
            self.broken["out of order in the feed"].append(str(place.key))

    # The rest.

    def _check_addresses(self) -> None:
        """A name that has moved is followed soon, though its old address goes on answering."""
        for request in self.evidence.requests:
            addresses = {
                address
                for (at, address), following in with_next(self.evidence.address_moves)
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


def overtaking(
    owed: Iterable[tuple[Cause, Expected]], came: Iterable[tuple[Place, bool, set[Key]]]
) -> Iterator[Place]:
    """Yield what came too early: of two transactions that did not overlap, what the earlier caused is
    received first.

    `came` says of each arrival whether it was taken, and what of its own transaction comes first.
    """
    waiting = [
        (cause.ended_at, number, key_of(expected.type, expected.data))
        for number, (cause, expected) in enumerate(owed)
    ]
    keys = {key for _, _, key in waiting}
    heapify(waiting)
    received: set[Key] = set()
    for place, is_taken, before in came:
        while waiting and waiting[0][2] in received:
            heappop(waiting)
        is_overtaking = bool(waiting) and waiting[0][0] < place.cause.began_at
        if is_overtaking or (before & keys) - received:
            yield place
        if is_taken:
            received.add(place.key)
