"""How often somebody may ask, counted in Valkey for all processes together.

While Valkey does not answer each process counts for itself: a limit must not take the API down. A
hundredth of a limit is counted in advance, so that not every request waits for Valkey; what a
process has not used at the end of the window is lost to its client.
"""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from operator import length_hint
from typing import Any
from uuid import UUID

import redis
from django.conf import settings
from django.http import HttpRequest
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

from webhooks.outbox import wakeup

WINDOW_SECONDS = 60
TIMEOUT_SECONDS = 0.1
SILENCE_SECONDS = 10
"""How long Valkey is left alone after it failed to answer."""
MAX_KNOWN = 10_000
STEPS = 100
"""Counting in advance takes at most the STEPS-th part of what was counted before."""
LOCKS = 64
"""Of keys that share one, those who come together wait for one another."""
NOTHING_KNOWN: tuple[Iterator[int], int] = iter(()), 0


class Counter:
    """Counts hits of a key within a window of time."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Iterator[int], int]] = {}
        """By key: the numbers of hits that were counted in advance, and the last of them."""
        self._locks = [threading.Lock() for _ in range(LOCKS)]
        self._silent_until = 0.0

    @cached_property
    def _client(self) -> redis.Redis:
        return wakeup.connect(TIMEOUT_SECONDS)

    def add(self, key: str, amount: int, limit: int, seconds: int = WINDOW_SECONDS) -> int:
        """Count some more in a window of so many seconds and return how many there are.

        Each process may count a hundredth of the limit in advance, from the first time on: so the
        many who ask now and then cost no more exchanges with Valkey than one who asks often.
        """
        # Threads that find nothing left must not all reserve a step of their own.
        with self._locks[hash(key) % len(self._locks)]:
            reserved, last = self._known.get(key, NOTHING_KNOWN)
            # As hit() takes them, which does so beside this.
            if amount == 1 and (number := next(reserved, None)) is not None:
                return number
            left = length_hint(reserved)
            if left < max(amount, 1):
                step = amount + max(last, limit) // STEPS
                last = self._add(key, step, last, seconds)
                left = step
            count = last - left + amount
            self._remember(key, iter(range(count + 1, last + 1)), last)
            return count

    def hit(self, key: str, limit: int = 0) -> int:
        """Count one more, as add() does."""
        # One step of the interpreter: no two threads get the same number.
        number = next(self._known.get(key, NOTHING_KNOWN)[0], None)
        return self.add(key, 1, limit) if number is None else number

    def _remember(self, key: str, reserved: Iterator[int], last: int) -> None:
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        self._known[key] = reserved, last

    def _add(self, key: str, step: int, last: int, seconds: int) -> int:
        if time.monotonic() >= self._silent_until:
            try:
                count = int(self._client.incrby(key, step))
                if count == step:
                    # A pipeline for both would take twice as long, for each request.
                    self._client.expire(key, seconds)
                return count
            except redis.RedisError:
                self._silent_until = time.monotonic() + SILENCE_SECONDS
        return last + step


counter = Counter()


@dataclass(frozen=True, slots=True)
class Allowance:
    """What one limit leaves at this moment."""

    name: str
    limit: int
    remaining: int
    reset_seconds: int

    @property
    def is_exceeded(self) -> bool:
        return self.remaining < 0


def take(name: str, who: str) -> Allowance:
    """Count one request of somebody under a limit of WEBHOOKS_API_REQUESTS_PER_MINUTE."""
    limit = settings.WEBHOOKS_API_REQUESTS_PER_MINUTE[name]
    window, elapsed = divmod(time.time(), WINDOW_SECONDS)
    count = counter.hit(f"webhooks:requests:{name}:{who}:{int(window)}", limit)
    return Allowance(name, limit, limit - count, max(1, round(WINDOW_SECONDS - elapsed)))


HOUR_SECONDS = 3600


def spend(name: str, owner_id: UUID, amount: int) -> Allowance:
    """Count some of an owner's quota of this hour in WEBHOOKS_QUOTAS_PER_HOUR.

    What is refused counts, too; with an amount of 0 nothing is counted and what is left is told.
    """
    own = settings.WEBHOOKS_QUOTAS_OF_OWNERS.get(str(owner_id), {})
    limit = own.get(name, settings.WEBHOOKS_QUOTAS_PER_HOUR[name])
    hour, elapsed = divmod(time.time(), HOUR_SECONDS)
    key = f"webhooks:quota:{name}:{owner_id}:{int(hour)}"
    used = counter.add(key, amount, limit, HOUR_SECONDS)
    return Allowance(name, limit, limit - used, max(1, round(HOUR_SECONDS - elapsed)))


def address_in(request: HttpRequest | Request) -> str:
    """Return the client's address, as far as NUM_PROXIES lets X-Forwarded-For be believed."""
    plain = request if isinstance(request, Request) else Request(request)
    return BaseThrottle().get_ident(plain) or ""


def take_login(request: HttpRequest) -> Allowance:
    """Count one try of an address at a password, for a token or at the admin's login page."""
    return take("login", address_in(request))


def take_password(request: HttpRequest, user: Any) -> Allowance:
    """Count one try of somebody signed in at his own password: per account and per address.

    Returns the one that leaves less.
    """
    tries = take("password", f"user-{user.pk}"), take("password", address_in(request))
    return min(tries, key=lambda one: one.remaining)
