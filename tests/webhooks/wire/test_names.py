"""Names that move, and connections that are kept: the old server goes on answering, nobody asks it."""

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.webhooks.sending import kind_of, policy, request, send_all
from webhooks.wire import names
from webhooks.wire.many import MultiSender
from webhooks.wire.names import Answer, CachedLookup
from webhooks.workbench.receiver import Behaviour, HttpReceiver

OLD, NEW = "127.0.0.2", "127.0.0.3"
Pair = tuple[HttpReceiver, HttpReceiver]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Two receivers at two addresses, on one port."""
    with ExitStack() as stack:
        old = stack.enter_context(HttpReceiver(host=OLD))
        yield old, stack.enter_context(HttpReceiver(host=NEW, port=old.port))


@pytest.fixture
def make_sender() -> Iterator[Callable[[Callable[[str], Answer]], MultiSender]]:
    with ExitStack() as stack:

        def make(lookup: Callable[[str], Answer]) -> MultiSender:
            sender = MultiSender(policy("127.0.0.0/8"), lookup=lookup)
            stack.callback(sender.close)
            return sender

        yield make


MakeSender = Callable[[Callable[[str], Answer]], MultiSender]


def send_one(sender: MultiSender, port: int) -> None:
    (outcome,) = send_all([request(f"http://hooks.example:{port}/")], sender=sender)
    assert kind_of(outcome) == "200"


def test_name_that_moved_is_followed_though_the_old_server_still_answers(
    pair: Pair, make_sender: MakeSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Looked up with every request; each is sent to what the last one found.
    monkeypatch.setattr(names, "RESOLVED_SECONDS", 0.0)
    address = [OLD]
    sender = make_sender(lambda _: (address[0],))
    old, new = pair
    for _ in range(3):
        send_one(sender, old.port)

    address[0] = NEW
    sent = 0
    while not new.requests:
        send_one(sender, old.port)
        sent += 1
        assert sent < 100
    before = len(old.requests)
    for _ in range(5):
        send_one(sender, old.port)

    assert len(old.requests) == before


def test_old_addresses_are_not_used_while_the_new_ones_are_looked_up(
    pair: Pair, make_sender: MakeSender
) -> None:
    old, new = pair
    sender = make_sender(lambda _: (NEW,))
    looked_up_at = time.monotonic() - 2 * names.RESOLVED_SECONDS - 1
    sender._lookups._resolver._known["hooks.example"] = CachedLookup(looked_up_at, (OLD,))

    send_one(sender, old.port)

    assert (len(old.requests), len(new.requests)) == (0, 1)


def test_connection_is_kept_when_addresses_only_come_in_another_order(
    pair: Pair, make_sender: MakeSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "RESOLVED_SECONDS", 0.0)
    orders = itertools.cycle([(OLD, NEW), (NEW, OLD)])
    sender = make_sender(lambda _: next(orders))

    for _ in range(20):
        send_one(sender, pair[0].port)

    assert sum(receiver.connections for receiver in pair) == 1


def test_name_that_lost_one_of_its_addresses_is_followed(
    pair: Pair, make_sender: MakeSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "RESOLVED_SECONDS", 0.0)
    addresses: list[tuple[str, ...]] = [(OLD, NEW)]
    sender = make_sender(lambda _: addresses[0])
    old, new = pair
    send_one(sender, old.port)
    assert len(old.requests) == 1

    addresses[0] = (NEW,)
    for _ in range(100):
        send_one(sender, old.port)
        if new.requests:
            break

    assert new.requests


def test_connection_that_is_never_idle_has_an_end(
    receiver: HttpReceiver, make_sender: MakeSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "MAX_LIFE_SECONDS", 0.1)
    sender = make_sender(lambda _: ("127.0.0.1",))

    for _ in range(10_000):
        send_one(sender, receiver.port)
        if receiver.connections > 2:
            break

    assert receiver.connections > 2


def test_connection_to_an_address_has_an_end(
    receiver: HttpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webhooks.wire.exchange.MAX_LIFE_SECONDS", 1)
    sender = MultiSender(policy("127.0.0.0/8"))
    receiver.behaviour = Behaviour(delay_seconds=0.01)

    for _ in range(1_000):
        send_all([request(receiver.url)], sender=sender)
        if receiver.connections > 1:
            break
    sender.close()

    assert receiver.connections > 1
