"""Limits of requests and quotas of owners, counted in Valkey for all processes together.

While Valkey is unavailable each process counts alone, because a limit must not take the API down. A
process reserves a hundredth of a limit in advance, so that not every request waits for Valkey; its
clients lose the part that is unused at the end of the window.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from ipaddress import ip_address
from operator import length_hint
from typing import Any

from django.conf import settings
from django.db.models import QuerySet
from django.http import HttpRequest

VALKEY: Any = import_module("webhooks.outbox.valkey") if find_spec("redis") else None
"""Without the package redis each process counts alone."""

WINDOW_SECONDS = 60
TIMEOUT_SECONDS = 0.1
SILENCE_SECONDS = 10
"""How long a process does not ask Valkey after a failure."""
MAX_KNOWN = 10_000
STEPS = 100
"""A reservation is at most the STEPS-th part of the limit or of the previous count."""
LOCKS = 64
"""The number of locks; threads with keys of one lock take turns."""
NOTHING_KNOWN: tuple[Iterator[int], int] = iter(()), 0


class Counter:
    """Counts hits of a key within a window of time."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Iterator[int], int]] = {}
        """By key: the reserved numbers, and the last of them."""
        self._locks = [threading.Lock() for _ in range(LOCKS)]
        self._silent_until = 0.0

    @cached_property
    def _client(self) -> Any:
        return VALKEY.connect(TIMEOUT_SECONDS)

    def add(self, key: str, amount: int, limit: int, seconds: int = WINDOW_SECONDS) -> int:
        """Count `amount` more in a window of `seconds` and return the count.

        A process reserves up to a hundredth of the limit in advance, from the first time on, so that
        many occasional clients cost no more round trips to Valkey than one busy client.
        """
        # Threads that find no reserved number must not each reserve a step.
        with self._locks[hash(key) % len(self._locks)]:
            reserved, last = self._known.get(key, NOTHING_KNOWN)
            # The same step as in hit(), which takes no lock.
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
        if VALKEY and settings.REDIS_URL and time.monotonic() >= self._silent_until:
            try:
                count = int(self._client.incrby(key, step))
                if count == step:
                    # A pipeline for both commands would take twice as long on every request.
                    self._client.expire(key, seconds)
                return count
            except VALKEY.redis.RedisError:
                self._silent_until = time.monotonic() + SILENCE_SECONDS
        return last + step


counter = Counter()


@dataclass(frozen=True, slots=True)
class Allowance:
    """The rest of one limit at this moment."""

    name: str
    limit: int
    remaining: int
    reset_seconds: int

    @property
    def is_exceeded(self) -> bool:
        return self.remaining < 0


def take(name: str, who: str) -> Allowance:
    """Count one request of a client under a limit of WEBHOOKS_API_REQUESTS_PER_MINUTE."""
    limit = settings.WEBHOOKS_API_REQUESTS_PER_MINUTE[name]
    window, elapsed = divmod(time.time(), WINDOW_SECONDS)
    count = counter.hit(f"webhooks:requests:{name}:{who}:{int(window)}", limit)
    return Allowance(name, limit, limit - count, max(1, round(WINDOW_SECONDS - elapsed)))


HOUR_SECONDS = 3600


def spend(name: str, owner_id: Any, amount: int) -> Allowance:
    """Spend an amount of an owner's quota of this hour (WEBHOOKS_QUOTAS_PER_HOUR).

    Refused amounts count too; an amount of 0 only returns the rest.
    """
    own = settings.WEBHOOKS_QUOTAS_OF_OWNERS.get(str(owner_id), {})
    limit = own.get(name, settings.WEBHOOKS_QUOTAS_PER_HOUR[name])
    hour, elapsed = divmod(time.time(), HOUR_SECONDS)
    key = f"webhooks:quota:{name}:{owner_id}:{int(hour)}"
    used = counter.add(key, amount, limit, HOUR_SECONDS)
    return Allowance(name, limit, limit - used, max(1, round(HOUR_SECONDS - elapsed)))


def count_rows(name: str, owner_id: Any, rows: QuerySet[Any]) -> tuple[Allowance, int]:
    """Return what these rows would leave of an owner's quota, and how many they are; spend nothing.

    Counts at most one row more than are left.
    """
    left = spend(name, owner_id, 0)
    count = rows.order_by()[: max(0, left.remaining) + 1].count()
    return replace(left, remaining=left.remaining - count), count


def spend_rows(name: str, owner_id: Any, rows: QuerySet[Any]) -> tuple[Allowance, int]:
    """Spend one of an owner's quota for each row, and return how many these are.

    Spends nothing if they are more than are left: a narrower selection may still fit.
    """
    left, count = count_rows(name, owner_id, rows)
    return left if left.is_exceeded else spend(name, owner_id, count), count


def address_in(request: Any) -> str:
    """Return the client's address, of a request's `META`.

    WEBHOOKS_TRUSTED_PROXIES is the number of trusted entries of X-Forwarded-For, from its end.
    """
    forwarded = request.META.get("HTTP_X_FORWARDED_FOR")
    count = settings.WEBHOOKS_TRUSTED_PROXIES
    if not count or forwarded is None:
        return request.META.get("REMOTE_ADDR") or ""
    addresses = forwarded.split(",")
    return str(addresses[-min(count, len(addresses))].strip())


def source_address(request: Any) -> str | None:
    """Return the client's address, or None without one, as behind a Unix socket."""
    with suppress(ValueError):
        return str(ip_address(address_in(request)))
    return None


def take_login(request: HttpRequest) -> Allowance:
    """Count one password attempt of an address, for a token or on the admin's login page."""
    return take("login", address_in(request))


def take_refusal(request: Any) -> Allowance:
    """Count one request of an address without valid credentials; its `META` is read."""
    return take("refused", address_in(request))


def take_password(request: HttpRequest, user: Any) -> Allowance:
    """Count one attempt of a signed-in user at their own password, per account and per address.

    Returns the allowance with the smaller rest.
    """
    tries = take("password", f"user-{user.pk}"), take("password", address_in(request))
    return min(tries, key=lambda one: one.remaining)
