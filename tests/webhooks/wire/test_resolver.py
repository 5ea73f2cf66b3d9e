"""Look-ups are dealt to owners in turns: nobody's first one waits for the dead names of others."""

import random
import threading
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.webhooks.sending import kind_of, policy, request
from tests.workers import wait_until
from webhooks.wire import names
from webhooks.wire.many import MultiSender, Outcome
from webhooks.wire.names import Answer, Resolver
from webhooks.workbench.receiver import HttpReceiver


class NameServer:
    """Answers at once, but for hosts that begin with `dead`: not before it is released. Those that
    begin with `gone` have no address."""

    def __init__(self) -> None:
        self.released = threading.Event()
        self.asked: list[str] = []
        self._changed = threading.Condition()
        self._answered = 0

    def lookup(self, host: str) -> Answer:
        with self._changed:
            self.asked.append(host)
            self._changed.notify_all()
        if host.startswith("dead"):
            self.released.wait(30)
            return None
        return None if host.startswith("gone") else ("127.0.0.1",)

    def on_answer(self, host: str) -> None:
        with self._changed:
            self._answered += 1
            self._changed.notify_all()

    def wait_for(self, *, asked: int = 0, answered: int = 0) -> None:
        with self._changed:
            assert self._changed.wait_for(
                lambda: len(self.asked) >= asked and self._answered >= answered, 10
            ), (len(self.asked), self._answered)


@pytest.fixture
def server() -> Iterator[NameServer]:
    server = NameServer()
    yield server
    server.released.set()


def test_fresh_names_of_another_owner_are_not_behind_a_hundred_dead_ones(
    server: NameServer, receiver: HttpReceiver
) -> None:
    sender = MultiSender(policy("127.0.0.0/8"), lookup=server.lookup)
    for number in range(100):
        sender.start(
            request(f"http://dead{number}.example/"),
            timeout_seconds=30,
            context="dead",
            group="hostile",
        )
    for number in range(20):
        sender.start(
            request(f"http://good{number}.example:{receiver.port}/"),
            timeout_seconds=30,
            context="good",
            group="other",
        )

    ended: list[Outcome] = []
    while len(ended) < 20:
        ended += sender.poll(5)
    sender.close()

    assert {(outcome.context, kind_of(outcome)) for outcome in ended} == {("good", "200")}
    dead = [host for host in server.asked if host.startswith("dead")]
    assert len(dead) <= names.MAX_LOOKUPS_OF_GROUP


@pytest.mark.parametrize("seed", range(5))
def test_first_look_up_of_an_owner_begins_whatever_others_wait_for(
    server: NameServer, seed: int
) -> None:
    chance = random.Random(seed)
    resolver = Resolver(server.on_answer, server.lookup)
    hosts = [(f"dead{owner}-{n}", f"owner{owner}") for owner in range(100) for n in range(10)]
    chance.shuffle(hosts)
    for host, owner in hosts:
        resolver.get(host, owner)
    server.wait_for(asked=100)
    first = {host.partition("-")[0] for host in server.asked}

    resolver.get("good", "newcomer")
    server.wait_for(answered=1)

    assert len(first) == 100
    assert max(Counter(host.partition("-")[0] for host in server.asked).values()) <= 8
    assert resolver.get("good", "newcomer") == (True, ("127.0.0.1",))


def test_host_in_the_queue_of_another_is_looked_up_for_who_has_a_turn(server: NameServer) -> None:
    resolver = Resolver(server.on_answer, server.lookup)
    for number in range(20):
        resolver.get(f"dead{number}", "hostile")
    resolver.get("shared", "hostile")
    assert resolver.get("shared", "other") == (False, None)
    server.wait_for(answered=1)

    server.released.set()
    server.wait_for(answered=21)

    assert resolver.get("shared", "other") == (True, ("127.0.0.1",))
    assert Counter(server.asked)["shared"] == 1


def test_owners_take_turns(server: NameServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "MAX_LOOKUPS", 1)
    monkeypatch.setattr(names, "MAX_THREADS", 1)
    resolver = Resolver(server.on_answer, server.lookup)
    resolver.get("dead", "a")
    for host in ("a1", "a2", "a3", "b1", "b2", "c1"):
        resolver.get(host, host[0])
    resolver.drop("a2", "a")
    resolver.drop("b2", "a")
    server.released.set()
    server.wait_for(answered=6)

    assert server.asked == ["dead", "a1", "b1", "c1", "a3", "b2"]


def test_all_threads_end_with_the_last_look_up(server: NameServer) -> None:
    resolver = Resolver(server.on_answer, server.lookup)
    for number in range(50):
        resolver.get(f"dead{number}", number % 7)
    server.released.set()
    server.wait_for(answered=50)

    assert (resolver._under_way, resolver._queues, resolver._busy) == ({}, {}, {})


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def look_ups_of(
    server: NameServer, clock: list[float], hosts: list[str], seconds: int
) -> Counter[str]:
    """Ask for some hosts each second, and return how often each was looked up."""
    resolver = Resolver(server.on_answer, server.lookup)
    for _ in range(seconds):
        for host in hosts:
            resolver.get(host, "owner")
        server.wait_for(answered=len(server.asked))
        clock[0] += 1.0
    return Counter(server.asked)


def test_dead_name_is_looked_up_ever_more_rarely(server: NameServer, clock: list[float]) -> None:
    counts = look_ups_of(server, clock, ["gone", "good"], 3600)

    # After 5, 10, 20, 40, 80 and then each 160 seconds, where another has had an answer in between.
    assert counts["gone"] <= 3600 / 160 + 15
    assert counts["good"] >= 3600 / 31


def test_in_an_outage_of_our_own_no_name_is_taken_for_dead(
    server: NameServer, clock: list[float]
) -> None:
    counts = look_ups_of(server, clock, ["gone1", "gone2"], 600)

    assert min(counts.values()) >= 600 / (names.UNRESOLVED_SECONDS + 1)


class Host:
    """One host whose name server answers as it is told, on a clock that stands still."""

    def __init__(self, clock: list[float]) -> None:
        self.clock = clock
        self.answer: Answer = None
        self.looked_up = 0
        self._answered = threading.Semaphore(0)
        self._resolver = Resolver(lambda host: self._answered.release(), self._lookup)

    def _lookup(self, host: str) -> Answer:
        self.looked_up += 1
        return self.answer

    def get(self, *, after_seconds: float = 0.0) -> tuple[bool, Answer]:
        """Return what is known then, and what a look-up finds that this has begun."""
        self.clock[0] += after_seconds
        before = self.looked_up
        found = self._resolver.get("host")
        if self._resolver._under_way or self.looked_up > before:
            assert self._answered.acquire(timeout=10)
        return found


def test_name_that_has_come_back_is_not_taken_for_dead_again_at_once(clock: list[float]) -> None:
    host = Host(clock)
    for answer in (None, ("192.0.2.1",), None):
        host.answer = answer
        host.get(after_seconds=names.STALE_SECONDS + 1)
    host.answer = ("192.0.2.1",)

    host.get(after_seconds=names.UNRESOLVED_SECONDS + 1)

    assert host.get() == (True, ("192.0.2.1",))


def test_addresses_outlive_a_name_server_that_fails_for_a_while(clock: list[float]) -> None:
    host = Host(clock)
    host.answer = addresses = ("192.0.2.1",)
    host.get()
    host.answer = None

    assert host.get(after_seconds=names.RESOLVED_SECONDS + 1) == (True, addresses)
    # The failed look-up changes nothing, and the next one does not follow at once.
    assert [host.get(after_seconds=1) for _ in range(20)] == [(True, addresses)] * 20
    assert host.looked_up <= 2 + 20 / names.UNRESOLVED_SECONDS

    host.answer = moved = ("192.0.2.2",)
    host.get(after_seconds=names.UNRESOLVED_SECONDS)
    assert host.get() == (True, moved)


def test_addresses_that_no_look_up_confirms_come_to_an_end(clock: list[float]) -> None:
    host = Host(clock)
    host.answer = ("192.0.2.1",)
    host.get()
    host.answer = None
    for _ in range(int(names.STALE_SECONDS)):
        host.get(after_seconds=1)

    is_known, _ = host.get(after_seconds=1)

    assert not is_known
    assert host.get() == (True, None)


def test_without_a_thread_a_look_up_fails_and_comes_again(
    server: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "UNRESOLVED_SECONDS", 0.01)
    resolver = Resolver(server.on_answer, server.lookup)
    with monkeypatch.context() as exhausted:
        exhausted.setattr(threading.Thread, "start", no_thread)
        resolver.get("good")
    assert resolver.get("good") == (True, None)

    wait_until(lambda: resolver.get("good") == (True, ("127.0.0.1",)))


def no_thread(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")
