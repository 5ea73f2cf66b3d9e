"""Guests of the dispatcher's loop: other sockets that it waits for, and other threads' actions."""

import math
from collections import deque
from collections.abc import Callable
from typing import Protocol

from webhooks.wire.many import MultiSender


class Guest(Protocol):
    """An object that the loop calls in each turn (webhooks/worker/popper.py)."""

    def order(self, now: float) -> None: ...

    def due_at(self) -> float:
        """Return the latest time of the next order(), by the monotonic clock."""

    def leave(self) -> None:
        """Release its sockets: the loop waits for them no longer."""


class Guests:
    """The guest, sockets and actions of one loop. Only call_soon() may be called from other threads."""

    def __init__(self, sender: MultiSender) -> None:
        self.sender = sender
        """The sender, whose poll() waits for sockets."""
        self._guest: Guest | None = None
        self._actions: deque[Callable[[], None]] = deque()
        self._is_over = False

    def invite(self, guest: Guest) -> None:
        """Call `guest` in each turn; only before the loop begins."""
        self._guest = guest

    def watch(self, fd: int, act: Callable[[], None]) -> None:
        """Call `act` whenever this socket is readable."""
        self.sender.watch(fd, act)

    def unwatch(self, fd: int) -> None:
        self.sender.unwatch(fd)

    def call_soon(self, action: Callable[[], None]) -> bool:
        """Have the loop call `action`; return False if the loop has ended."""
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
        """Run the waiting actions and let the guest leave, before the sender closes.

        `is_over` says that no other sender follows.
        """
        self._is_over = is_over
        while self._actions:
            self._actions.popleft()()
        if self._guest is not None:
            self._guest.leave()
