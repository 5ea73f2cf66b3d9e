"""Names of receivers: looked up on threads of their own, checked, and pinned for libcurl."""

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

RESOLVED_SECONDS = 30.0
"""After this time a request makes its host be looked up anew, and goes to the old addresses."""
STALE_SECONDS = 60.0
"""After this time it waits for the new ones: a host that has moved is followed by then."""
UNRESOLVED_SECONDS = 5.0
"""How long a name without an answer is not looked up again; each time twice as long."""
LONGEST_UNRESOLVED_SECONDS = 160.0
MAX_LIFE_SECONDS = 300
"""A connection older than this gets no more requests."""
PIN_SUFFIX = "invalid"
MAX_LOOKUPS = 64
"""At the same time, of all groups; the first of a group may begin beyond that."""
MAX_LOOKUPS_OF_GROUP = 8
MAX_THREADS = 512
MAX_HOSTS = 10_000
"""That are remembered; when there are more, what is of no use any more is forgotten."""


@lru_cache(maxsize=MAX_HOSTS)
def host_and_port(url: str) -> tuple[str, int] | None:
    """Return the host name and port that have to be looked up, or None for a numeric host.

    Raises TransportError for a URL that libcurl might read in another way than we do.
    """
    try:
        parsed = parse_url(url)
    except UrlRefusedError:
        raise unsendable() from None
    return None if parsed.is_numeric else (parsed.host, parsed.port)


Answer = tuple[str, ...] | None
"""The addresses of a host, or None when there is no answer."""


def system_lookup(host: str) -> Answer:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return None
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in found))


Group = Hashable
"""Whose look-up it is: an owner's."""


class CachedLookup(NamedTuple):
    """What the last look-up of a host brought."""

    asked_at: float = -math.inf
    """By the monotonic clock."""
    answer: Answer = None
    failures: int = 0
    """In a row, while others had answers."""

    @property
    def lasts_seconds(self) -> float:
        """For how long the answer is given out."""
        if self.answer:
            return STALE_SECONDS
        longest = max(LONGEST_UNRESOLVED_SECONDS, UNRESOLVED_SECONDS)
        return min(UNRESOLVED_SECONDS * 2.0 ** min(self.failures - 1, 30), longest)


UNKNOWN = CachedLookup()


class Resolver:
    """Looks names up on threads of its own: a dead name server delays only its own hosts.

    libcurl's own resolver is not used: ten dead names stall it for everybody. One look-up per host
    at a time; groups take turns, and one with many dead names keeps a few threads at most, so that
    nobody's first look-up waits for those of others. Dead names are looked up ever more rarely. `on_answer` is called on the look-up's thread.
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
        """When a look-up last brought an answer."""
        self._prune_above = MAX_HOSTS
        self._lock = threading.Lock()
        self._queues: dict[Group, dict[str, None]] = {}
        """The hosts each group waits for, in the order of the groups' turns."""
        self._under_way: dict[str, Group] = {}
        """The look-up on each thread."""
        self._busy: Counter[Group] = Counter()
        """How many of them each group has."""

    def get(self, host: str, group: Group = None) -> tuple[bool, Answer]:
        """Return (whether an answer is known, the answer), asking for a new one when it is due."""
        known = self._known.get(host, UNKNOWN)
        age = time.monotonic() - known.asked_at
        if age > (RESOLVED_SECONDS if known.answer else known.lasts_seconds):
            self._ask(host, group)
        return age <= known.lasts_seconds, known.answer or None

    def drop(self, host: str, group: Group = None) -> None:
        """Do not look a host up for a group, unless that has begun: it waits for it no more."""
        with self._lock:
            self._unqueue(host, group)

    def drop_all(self) -> None:
        """Begin no look-up any more."""
        with self._lock:
            self._queues.clear()

    def _ask(self, host: str, group: Group) -> None:
        with self._lock:
            if host in self._under_way or host in self._queues.get(group, ()):
                return
            self._queues.setdefault(group, {})[host] = None
            following = self._next()
        if following is not None:
            # A daemon: getaddrinfo cannot be interrupted and must not hold up the process's end.
            threading.Thread(
                target=self._work, args=(following,), name="resolver", daemon=True
            ).start()

    def _work(self, host: str | None) -> None:
        while host is not None:
            answer = self._lookup(host)
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
            host = following

    def _learn(self, host: str, answer: Answer) -> None:
        now = time.monotonic()
        if answer:
            self._answered_at = now
            self._known[host] = CachedLookup(now, answer)
            return
        before = self._known.get(host, UNKNOWN)
        # Where nobody gets an answer the fault is ours, and nobody's name is dead.
        is_again = not before.failures or self._answered_at > before.asked_at
        self._known[host] = CachedLookup(now, None, before.failures + is_again)

    def _next(self) -> str | None:
        """Take the host whose turn it is and for which there is a thread; the lock is held."""
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
        """Forget the answers that get() gives nobody any more."""
        now = time.monotonic()
        self._known = {
            host: known
            for host, known in self._known.items()
            if now - known.asked_at <= known.lasts_seconds or host in self._under_way
        }
        # Not again before as many have come: nothing walks over all for each look-up.
        self._prune_above = max(MAX_HOSTS, 2 * len(self._known))


@dataclass(frozen=True, slots=True)
class Pin:
    """Where libcurl connects to in place of a URL's host: a name that stands for its addresses.

    libcurl keeps connections by name and would use those to an address that the host has left for
    ever. This name is made from the addresses, in whatever order they come, and changes with time,
    so that connections that are never idle have an end, too.
    """

    entry: str
    """The name and port, as libcurl remembers them."""
    connect_to: list[str]
    resolve: list[str]


def pin(host: str, port: int, addresses: Iterable[str]) -> Pin:
    # Not all hosts at the same time.
    era = time.monotonic() / MAX_LIFE_SECONDS + zlib.crc32(host.encode()) / 2**32
    return _pin(host, port, tuple(addresses), int(era))


@lru_cache(maxsize=MAX_HOSTS)
def _pin(host: str, port: int, addresses: tuple[str, ...], era: int) -> Pin:
    sign = f"{host} {' '.join(sorted(addresses))} {era}"
    name = f"{sha256(sign.encode()).hexdigest()[:32]}.{PIN_SUFFIX}"
    listed = ",".join(f"[{address}]" if ":" in address else address for address in addresses)
    return Pin(f"{name}:{port}", [f"::{name}:{port}"], [f"{name}:{port}:{listed}"])


def check(answer: Answer, policy: AddressPolicy) -> TransportError | None:
    """One forbidden address among the answers refuses the host: nobody needs that by accident."""
    if not answer:
        return failure(FailureKind.DNS)
    if not all(map(policy.is_allowed, answer)):
        return failure(FailureKind.BLOCKED_ADDRESS)
    return None
