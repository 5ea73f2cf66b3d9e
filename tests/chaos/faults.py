"""What breaks in a chaos run, one thing after another, and what each fault may be the reason of."""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from threading import Event as Flag
from threading import Thread
from typing import Any, NamedTuple

import psutil
import psycopg
import redis
from django.db import Error

from tests.chaos.crew import forget_connection


@dataclass
class Fault:
    """What was broken, and from when to when (Unix seconds)."""

    kind: str
    started_at: float
    ended_at: float = 0.0
    may_repeat: frozenset[str] = frozenset()
    """The deliveries that may arrive twice for it: those that were held, or whose result it undid."""
    repeats_until: float = 0.0
    """Until when the first of the two arrivals must have been."""
    silent_from: float = 0.0
    """From when on what a dead worker held can only arrive from others; 0 for `repeats_until`."""
    must_repeat: bool = False
    """Whether all of them have to arrive again, as somebody asked for it."""
    is_death: bool = False
    """Whether `may_repeat` waits for others to notice that a worker is dead."""
    is_end: bool = False
    """Whether a worker was told to end, which takes it END_SECONDS at most."""
    locked: frozenset[str] = frozenset()
    """The deliveries that a stranger has locked for as long as it lasts: nobody can write what became
    of them."""
    works_from: float = 0.0
    """From when on new events are to arrive in spite of it."""
    lasts_until: float = 0.0
    """When what goes on in the background ends."""
    delays_order_until: float = 0.0
    """Until when ordered webhooks may stand still for it: a transaction of the same database that has
    written may yet store events that come first (docs/reliability.md), and none of them goes to an
    address."""
    timed_out: frozenset[tuple[str, int]] = frozenset()
    """What it removed of the records of attempts: delivery and number of those that timed out."""
    forgotten: frozenset[tuple[str, ...]] = frozenset()
    """The keys of the events that were lost with a server."""
    forgotten_from: float = 0.0
    """Since when something was committed there that nobody else got."""


class Stage:
    """The world, and what goes on in it beside the faults that follow."""

    def __init__(self, world: Any, seconds: float) -> None:
        """`world` is the run's own kind of Crew, `seconds` how long the run takes."""
        self.world = world
        self.dice = world.dice
        self.is_over = Flag()
        self._longest = seconds / 3
        self._background: list[Thread] = []

    def go_on(self, fault: Fault, least: float, most: float, then: Callable[[], None]) -> None:
        """Let a fault last so many seconds, while others follow; `then` mends it."""
        fault.lasts_until = time.time() + min(self.dice.uniform(least, most), self._longest)

        def wait_and_mend() -> None:
            self.is_over.wait(max(0.0, fault.lasts_until - time.time()))
            then()

        thread = Thread(target=wait_and_mend, daemon=True)
        self._background.append(thread)
        thread.start()

    def end(self) -> None:
        """Mend what goes on in the background."""
        self.is_over.set()
        for thread in self._background:
            thread.join()


class TooSoonError(Exception):
    """Raised by an action that has broken nothing, because the last time is not over."""


Action = Callable[[Stage, Fault], object]


def everywhere(_: Any) -> bool:
    return True


class Kind(NamedTuple):
    """Something that can be broken."""

    weight: int
    """How often it happens; 0 for once in each run, at a time of its own."""
    action: Action
    is_possible: Callable[[Any], bool] = everywhere
    """Asked about the servers of the run."""

    @property
    def name(self) -> str:
        return self.action.__name__


class Faults:
    """Breaks one thing after another, the same for the same seed."""

    def __init__(self, stage: Stage, kinds: Sequence[Kind], only: Iterable[str] = ()) -> None:
        """`only` names the kinds, all where it is empty."""
        self.stage = stage
        self.done: list[Fault] = []
        possible = [kind for kind in kinds if kind.is_possible(stage.world.servers)]
        named = set(only)
        if unknown := named - {kind.name for kind in possible}:
            raise SystemExit(f"No such fault here: {', '.join(sorted(unknown))}")
        wanted = [kind for kind in possible if not named or kind.name in named]
        self._kinds = [kind for kind in wanted if kind.weight]
        self.moves = [kind.action for kind in wanted if not kind.weight]
        """Once each in every run."""

    def break_something(self) -> Fault | None:
        """Break one thing at random, mend it where it does not mend itself, and note it."""
        if not self._kinds:
            return None
        weights = [kind.weight for kind in self._kinds]
        return self.carry_out(self.stage.dice.choices(self._kinds, weights)[0].action)

    def carry_out(self, action: Action) -> Fault | None:
        """Break and note it; None if the action says that it is too soon."""
        fault = Fault(action.__name__, time.time())
        fault.works_from = fault.started_at
        try:
            with suppress(Error, redis.RedisError, psutil.NoSuchProcess, psycopg.Error):
                action(self.stage, fault)
        except TooSoonError:
            return None
        forget_connection()
        fault.ended_at = time.time()
        self.done.append(fault)
        return fault
