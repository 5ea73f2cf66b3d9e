"""What else waits in the dispatcher's loop: sockets that are not its own, and actions of other threads."""

import math
from collections import deque
from collections.abc import Callable
from typing import Protocol

from webhooks.wire.many import MultiSender


class Guest(Protocol):
    """Somebody who is called in each turn of the loop (webhooks/worker/popper.py)."""

    def order(self, now: float) -> None: ...

    def due_at(self) -> float:
        """When order() is to be called at the latest, by the monotonic clock."""

    def leave(self) -> None:
        """The loop waits no longer."""


class Guests:
    """Only call_soon() may be called from other threads."""

    def __init__(self, sender: MultiSender) -> None:
        self.sender = sender
        """Who waits for sockets."""
        self._guest: Guest | None = None
        self._actions: deque[Callable[[], None]] = deque()
        self._is_over = False

    def invite(self, guest: Guest) -> None:
        """Call `guest` from now on; before the loop begins."""
        self._guest = guest

    def watch(self, fd: int, act: Callable[[], None]) -> None:
        """Call `act` whenever this socket is readable."""
        self.sender.watch(fd, act)

    def unwatch(self, fd: int) -> None:
        self.sender.unwatch(fd)

    def call_soon(self, action: Callable[[], None]) -> bool:
        """Have the loop call `action`; False where it has ended."""
        self._actions.append(action)
        self.sender.wake()
        return not self._is_over

    # For the loop.

    def order(self, now: float) -> None:
        while self._actions:
            self._actions.popleft()()
        if self._guest is not None:
            self._guest.order(now)

    def due_at(self) -> float:
        return math.inf if self._guest is None else self._guest.due_at()

    def leave(self, *, is_over: bool = False) -> None:
        """The sender is about to be closed, and with `is_over` none comes after it."""
        self._is_over = is_over
        while self._actions:
            self._actions.popleft()()
        if self._guest is not None:
            self._guest.leave()
