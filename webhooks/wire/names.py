"""Names of receivers: looked up on threads of their own, checked, and pinned for libcurl."""

import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import lru_cache

from webhooks.addresses import AddressPolicy
from webhooks.choices import FailureKind
from webhooks.errors import UrlRefusedError
from webhooks.url_rules import parse_url
from webhooks.wire.failures import TransportError, failure, unsendable

RESOLVED_SECONDS = 30.0
UNRESOLVED_SECONDS = 5.0
STALE_SECONDS = 300.0
"""An old answer is still used while a new one is fetched."""
MAX_LOOKUPS = 64
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


class Resolver:
    """Looks names up on threads of its own: a dead name server delays only its own hosts.

    libcurl's own resolver is not used: ten dead names stall it for everybody. One look-up per host
    at a time, at most MAX_LOOKUPS together; `on_answer` is called on the look-up's thread.
    """

    def __init__(
        self,
        on_answer: Callable[[str], None] = lambda host: None,
        lookup: Callable[[str], Answer] = system_lookup,
    ) -> None:
        self._on_answer = on_answer
        self._lookup = lookup
        self._known: dict[str, tuple[float, Answer]] = {}
        self._prune_above = MAX_HOSTS
        self._under_way: set[str] = set()
        self._queue: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()
        self._threads = 0

    def get(self, host: str) -> tuple[bool, Answer]:
        """Return (whether an answer is known, the answer), asking for a new one when it is due."""
        asked_at, answer = self._known.get(host, (float("-inf"), None))
        age = time.monotonic() - asked_at
        if age > (RESOLVED_SECONDS if answer else UNRESOLVED_SECONDS):
            self._ask(host)
        return age <= _lasts(answer), answer or None

    def drop(self, host: str) -> None:
        """Do not look a host up, unless that has begun: nobody waits for it any more."""
        with self._lock:
            if host in self._queue:
                del self._queue[host]
                self._under_way.discard(host)

    def _ask(self, host: str) -> None:
        with self._lock:
            if host in self._under_way:
                return
            self._under_way.add(host)
            self._queue[host] = None
            if self._threads >= MAX_LOOKUPS:
                return
            self._threads += 1
        # A daemon: getaddrinfo cannot be interrupted and must not hold up the end of the process.
        threading.Thread(target=self._work, name="resolver", daemon=True).start()

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._queue:
                    self._threads -= 1
                    return
                host, _ = self._queue.popitem(last=False)
            answer = self._lookup(host)
            with self._lock:
                self._known[host] = (time.monotonic(), answer)
                self._under_way.discard(host)
                if len(self._known) > self._prune_above:
                    self._prune()
            self._on_answer(host)

    def _prune(self) -> None:
        """Forget the answers that get() gives nobody any more."""
        now = time.monotonic()
        self._known = {
            host: (asked_at, answer)
            for host, (asked_at, answer) in self._known.items()
            if now - asked_at <= _lasts(answer) or host in self._under_way
        }
        # Not again before as many have come: nothing walks over all for each look-up.
        self._prune_above = max(MAX_HOSTS, 2 * len(self._known))


def _lasts(answer: Answer) -> float:
    """Return for how many seconds an answer is given out."""
    return STALE_SECONDS if answer else UNRESOLVED_SECONDS


def pin_entries(host: str, port: int, addresses: Iterable[str]) -> list[str]:
    listed = ",".join(f"[{address}]" if ":" in address else address for address in addresses)
    return [f"{host}:{port}:{listed}"]


def check(answer: Answer, policy: AddressPolicy) -> TransportError | None:
    """One forbidden address among the answers refuses the host: nobody needs that by accident."""
    if not answer:
        return failure(FailureKind.DNS)
    if not all(map(policy.is_allowed, answer)):
        return failure(FailureKind.BLOCKED_ADDRESS)
    return None
