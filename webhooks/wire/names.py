"""Host names of receivers: looked up on separate threads, checked, and pinned for libcurl."""

import logging
import math
import socket
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import NamedTuple

from webhooks.choices import FailureKind
from webhooks.errors import UrlRefusedError
from webhooks.wire.addresses import AddressPolicy
from webhooks.wire.failures import TransportError, failure, unsendable
from webhooks.wire.url_rules import parse_url

logger = logging.getLogger(__name__)

RESOLVED_SECONDS = 30.0
"""After this time a request starts a new look-up of its host and still uses the old addresses."""
STALE_SECONDS = 60.0
"""After this time a request waits for the new addresses, so that it follows a host that has moved."""
UNRESOLVED_SECONDS = 5.0
"""How long a name is not looked up again after a failure; without addresses, each time twice as long."""
LONGEST_UNRESOLVED_SECONDS = 160.0
MAX_LIFE_SECONDS = 300
"""A connection older than this gets no more requests."""
PIN_SUFFIX = "invalid"
MAX_LOOKUPS = 64
"""Most look-ups at the same time; the first look-up of a group may exceed it, up to MAX_THREADS."""
MAX_LOOKUPS_OF_GROUP = 8
MAX_THREADS = 512
MAX_ADDRESSES = 16
"""Most addresses of a host that are used; each costs a part of every request that tries it in vain."""
MAX_HOSTS = 10_000
"""Cached hosts; above this, expired entries are dropped."""


@lru_cache(maxsize=MAX_HOSTS)
def host_and_port(url: str) -> tuple[str, int] | None:
    """Return the host name and port to look up, or None for a numeric host.

    Raises TransportError for a URL that libcurl might read differently.
    """
    try:
        parsed = parse_url(url)
    except UrlRefusedError:
        raise unsendable() from None
    return None if parsed.is_numeric else (parsed.host, parsed.port)


Answer = tuple[str, ...] | None
"""The addresses of a host, or None if the look-up failed."""


def system_lookup(host: str) -> Answer:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return None
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in found))


Group = Hashable
"""The owner for whom a name is looked up."""


class CachedLookup(NamedTuple):
    """What is known of a host's addresses."""

    asked_at: float = -math.inf
    """The end of the look-up with this answer, by the monotonic clock."""
    answer: Answer = None
    failures: int = 0
    """Failures in a row, where there are no addresses not counting times in which no host had any."""

    @property
    def refreshed_seconds(self) -> float:
        """How long get() starts no new look-up."""
        if self.answer:
            return RESOLVED_SECONDS + UNRESOLVED_SECONDS * self.failures
        return self.lasts_seconds

    @property
    def lasts_seconds(self) -> float:
        """How long get() returns this answer."""
        if self.answer:
            return STALE_SECONDS
        longest = max(LONGEST_UNRESOLVED_SECONDS, UNRESOLVED_SECONDS)
        return min(UNRESOLVED_SECONDS * 2.0 ** min(self.failures - 1, 30), longest)


UNKNOWN = CachedLookup()


class Resolver:
    """Looks names up on its own threads, so that a dead name server delays only its own hosts.

    libcurl's resolver is not used, because ten dead names stall it for all requests. Each host has at
    most one look-up at a time. Groups take turns, and a group with many dead names keeps only a few
    threads, so that no group's first look-up waits for those of others. Dead names are looked up ever
    more rarely. The look-up's thread calls `on_answer`.
    """

    def __init__(
        self,
        on_answer: Callable[[str], None] = lambda host: None,
        lookup: Callable[[str], Answer] = system_lookup,
    ) -> None:
        self._on_answer = on_answer
        self._lookup = lookup
        self._known: dict[str, CachedLookup] = {}
        self._answered_at = -math.inf
        """When a look-up last succeeded."""
        self._prune_above = MAX_HOSTS
        self._lock = threading.Lock()
        self._queues: dict[Group, dict[str, None]] = {}
        """The queued hosts of each group, in the order of the groups' turns."""
        self._under_way: dict[str, Group] = {}
        """The hosts that threads look up now, and their groups."""
        self._busy: Counter[Group] = Counter()
        """How many look-ups each group has under way."""

    def get(self, host: str, group: Group = None) -> tuple[bool, Answer]:
        """Return (whether an answer is known, the answer); start a new look-up if it is due."""
        known = self._known.get(host, UNKNOWN)
        age = time.monotonic() - known.asked_at
        if age > known.refreshed_seconds:
            self._ask(host, group)
        return age <= known.lasts_seconds, known.answer or None

    def drop(self, host: str, group: Group = None) -> None:
        """Remove a host from a group's queue; a look-up that has begun goes on."""
        with self._lock:
            self._unqueue(host, group)

    def drop_all(self) -> None:
        """Remove all queued look-ups."""
        with self._lock:
            self._queues.clear()

    def _ask(self, host: str, group: Group) -> None:
        with self._lock:
            if host in self._under_way or host in self._queues.get(group, ()):
                return
            self._queues.setdefault(group, {})[host] = None
            following = self._next()
        while following is not None:
            # A daemon: getaddrinfo cannot be interrupted and must not hold up the process's end.
            thread = threading.Thread(
                target=self._work, args=(following,), name="resolver", daemon=True
            )
            try:
                thread.start()
            except RuntimeError as problem:
                logger.error("%s cannot be looked up: %s", following, problem)
                following = self._end(following, None)
            else:
                return

    def _work(self, host: str | None) -> None:
        while host is not None:
            host = self._end(host, self._lookup(host))

    def _end(self, host: str, answer: Answer) -> str | None:
        """Note the end of a look-up; return the host to look up next, if any."""
        with self._lock:
            self._learn(host, answer)
            group = self._under_way.pop(host)
            self._busy[group] -= 1
            if not self._busy[group]:
                del self._busy[group]
            if len(self._known) > self._prune_above:
                self._prune()
            following = self._next()
        self._on_answer(host)
        return following

    def _learn(self, host: str, answer: Answer) -> None:
        now = time.monotonic()
        if answer:
            self._answered_at = now
            self._known[host] = CachedLookup(now, answer[:MAX_ADDRESSES])
            return
        before = self._known.get(host, UNKNOWN)
        if before.answer and now - before.asked_at <= STALE_SECONDS:
            # A name server may fail once: the addresses are as good as before.
            self._known[host] = before._replace(failures=before.failures + 1)
            return
        failures = 0 if before.answer else before.failures
        # If no host has an answer, our own network is at fault, and no name counts as dead.
        is_again = not failures or self._answered_at > before.asked_at
        self._known[host] = CachedLookup(now, None, failures + is_again)

    def _next(self) -> str | None:
        """Take the next host for which a thread is free; the caller holds the lock."""
        for group, hosts in self._queues.items():
            if self._may_begin(group):
                host = next(iter(hosts))
                self._under_way[host] = group
                self._busy[group] += 1
                for other in [group, *(g for g, queue in self._queues.items() if host in queue)]:
                    self._unqueue(host, other)
                if group in self._queues:
                    # The group's next turn comes after those of all others.
                    self._queues[group] = self._queues.pop(group)
                return host
        return None

    def _may_begin(self, group: Group) -> bool:
        busy = self._busy[group]
        most = MAX_LOOKUPS if busy else MAX_THREADS
        return busy < MAX_LOOKUPS_OF_GROUP and len(self._under_way) < most

    def _unqueue(self, host: str, group: Group) -> None:
        hosts = self._queues.get(group, {})
        hosts.pop(host, None)
        if not hosts:
            self._queues.pop(group, None)

    def _prune(self) -> None:
        """Drop the answers that get() no longer returns."""
        now = time.monotonic()
        self._known = {
            host: known
            for host, known in self._known.items()
            if now - known.asked_at <= known.lasts_seconds or host in self._under_way
        }
        # Prune again only when the number has doubled: no look-up alone walks over all hosts.
        self._prune_above = max(MAX_HOSTS, 2 * len(self._known))


@dataclass(frozen=True, slots=True)
class Pin:
    """A name that stands for the addresses of a URL's host, to which libcurl connects instead.

    libcurl keeps connections by name and would use one to an address that the host has left for ever.
    This name is a hash of the addresses, in any order, and of the time, so that even connections that
    are never idle come to an end.
    """

    entry: str
    """The name and port, as libcurl caches them."""
    connect_to: list[str]
    resolve: list[str]


def pin(host: str, port: int, addresses: Iterable[str]) -> Pin:
    # The host's hash shifts the era, so that not all pins change at the same time.
    era = time.monotonic() / MAX_LIFE_SECONDS + zlib.crc32(host.encode()) / 2**32
    return _pin(host, port, tuple(addresses), int(era))


@lru_cache(maxsize=MAX_HOSTS)
def _pin(host: str, port: int, addresses: tuple[str, ...], era: int) -> Pin:
    sign = f"{host} {' '.join(sorted(addresses))} {era}"
    name = f"{sha256(sign.encode()).hexdigest()[:32]}.{PIN_SUFFIX}"
    listed = ",".join(f"[{address}]" if ":" in address else address for address in addresses)
    return Pin(f"{name}:{port}", [f"::{name}:{port}"], [f"{name}:{port}:{listed}"])


def check(answer: Answer, policy: AddressPolicy) -> TransportError | None:
    """Return the error for a host without addresses or with any forbidden one, or None.

    One forbidden address refuses the host, because no honest host has one by accident.
    """
    if not answer:
        return failure(FailureKind.DNS)
    if not all(map(policy.is_allowed, answer)):
        return failure(FailureKind.BLOCKED_ADDRESS)
    return None
