"""What a chaos run left behind for its judge, put side by side.

The causes are what the producers wrote down (causes.py), the requests what the receiver did, the feed
what its follower read. Nothing here asks the product.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tests.chaos.causes import Cause, Expected, Key, key_of
from tests.chaos.faults import Fault
from tests.chaos.recipients import Recipient


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

    @property
    def key(self) -> Key:
        return key_of(self.expected.type, self.expected.data)

    @property
    def before(self) -> set[Key]:
        """What the same transaction caused before it."""
        return {key_of(e.type, e.data) for e in self.cause.expected[: self.number]}


@dataclass
class Evidence:
    """Everything there is to compare."""

    causes: Sequence[Cause]
    recipients: dict[str, Recipient]
    """By their path."""
    faults: Sequence[Fault]
    address_moves: Sequence[tuple[float, str]]
    """From when on the receiver's name meant which address."""
    requests: list[Request] = field(default_factory=list)
    bodies: dict[str, bytes] = field(default_factory=dict)
    """By their SHA-256."""
    feed: list[dict[str, Any]] = field(default_factory=list)
    """The payloads that its follower read, in their order."""
    places: dict[Key, Place] = field(default_factory=dict)
    """Of all that was committed, or may have been."""
    undone: set[Key] = field(default_factory=set)
    """What was certainly rolled back."""

    half_forgotten: list[str] = field(default_factory=list)
    """Transactions that were lost in part, or before anything could be lost."""

    def __post_init__(self) -> None:
        for fault in self.faults:
            self._forget(fault)
        for cause in self.causes:
            if cause.outcome == "rolled back":
                self.undone |= {key_of(e.type, e.data) for e in cause.expected}
            else:
                for number, expected in enumerate(cause.expected):
                    place = Place(cause, number, expected)
                    self.places[place.key] = place
            self.undone |= {key_of(e.type, e.data) for e in cause.never}

    def _forget(self, fault: Fault) -> None:
        for cause in self.causes:
            keys = {key_of(e.type, e.data) for e in cause.expected}
            if lost := keys & fault.forgotten:
                if lost < keys or cause.ended_at < fault.forgotten_from:
                    self.half_forgotten.append(cause.name)
                cause.outcome = "forgotten"

    @property
    def outcomes(self) -> Counter[str]:
        """How many transactions ended how."""
        return Counter(cause.outcome for cause in self.causes)

    def read_ledger(self, ledger: Path) -> None:
        with ledger.open() as lines:
            for text in lines:
                line = json.loads(text)
                if "body" in line:
                    self.bodies[line["sha256"]] = line.pop("body").encode()
                self.requests.append(Request(**line))

    def read_feed(self, feed: Path) -> None:
        with feed.open() as lines:
            for line in lines:
                self.feed += map(json.loads, json.loads(line)["events"])


# Webhooks that are off, or gone, for a while.


def is_on(recipient: Recipient, since: float, until: float) -> bool:
    """Say whether a webhook certainly was there and on all this time."""
    return (
        recipient.created.ended_at < since
        and recipient.deleted is None
        and not any(
            off.began_at <= until and since <= (on.ended_at if on else float("inf"))
            for off, on in with_next(recipient.off)[::2]
        )
    )


def is_off(recipient: Recipient, since: float, until: float) -> bool:
    """Say whether a webhook certainly was off, or not there, all this time."""
    return (
        until < recipient.created.began_at
        or (recipient.deleted is not None and recipient.deleted.ended_at < since)
        or any(
            off.ended_at < since and until < (on.began_at if on else float("inf"))
            for off, on in with_next(recipient.off)[::2]
        )
    )


def with_next(items: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Return each item with the one after it, None after the last."""
    return list(zip(items, [*items[1:], None], strict=True)) if items else []
