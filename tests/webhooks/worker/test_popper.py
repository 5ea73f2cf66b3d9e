"""The pop that the dispatcher's loop waits for: what it hears, what it hands to RQ's thread."""

import queue
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from redis.exceptions import RedisError

from tests.concurrency import in_thread
from webhooks.dispatch.guests import Guests
from webhooks.outbox import hints, valkey
from webhooks.wire.addresses import AddressPolicy
from webhooks.wire.many import MultiSender
from webhooks.worker.popper import CONSUMED_AT_ONCE, Popper, read_reply

pytestmark = pytest.mark.usefixtures("empty_valkey")

KEY = "rq:queue:default"


class Loop:
    """What an engine's loop does for its guests, and a thread that pops."""

    def __init__(self) -> None:
        self.client = valkey.connect(5)
        self.sender = MultiSender(AddressPolicy([]))
        self.guests = Guests(self.sender)
        self.heard = 0
        self.is_busy = self.is_stopping = False
        self.popper = Popper(
            self.guests,
            self._hear,
            is_busy=lambda: self.is_busy,
            is_stopping=lambda: self.is_stopping,
        )
        self.guests.invite(self.popper)
        self.popped: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def _hear(self) -> None:
        self.heard += 1

    def pop(self, seconds: float = 30) -> None:
        """Have RQ's thread wait for one job."""

        def pop() -> None:
            try:
                self.popped.put(self.popper.pop(self.client, KEY, seconds))
            except RedisError as problem:
                self.popped.put(problem)

        in_thread(pop)

    def turn(self, seconds: float = 0.0) -> None:
        """Go on for so long, and until somebody has popped something if that is no time at all."""
        ends_at = time.monotonic() + (seconds or 10)
        while time.monotonic() < ends_at and (seconds or self.popped.empty()):
            self.guests.order(time.monotonic())
            due_in = self.guests.due_at() - time.monotonic()
            self.sender.poll(max(0.0, min(due_in, 0.05)))

    def push(self, *names: str) -> None:
        for name in names:
            self.client.hset(f"rq:job:{name}", "description", "x")
            self.client.rpush(KEY, name)


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.guests.leave(is_over=True)
    loop.sender.close()


def wakeup_ids(count: int) -> list[str]:
    return [f"{hints.JOB_ID_PREFIX}{number}" for number in range(count)]


def test_wakeups_are_heard_and_other_jobs_are_handed_on(loop: Loop) -> None:
    loop.pop()
    loop.push(*wakeup_ids(3), "job", "another")
    loop.turn()

    assert loop.popped.get() == b"job"
    assert loop.heard == 3
    assert loop.client.lrange(KEY, 0, -1) == [b"another"]
    # As RQ leaves a job that it has popped.
    assert b"job" in loop.client.lrange(f"{KEY}:intermediate", 0, -1)


def test_wakeups_leave_nothing_behind(loop: Loop) -> None:
    loop.pop(seconds=3)
    loop.push(*wakeup_ids(2 * CONSUMED_AT_ONCE + 1))
    loop.turn()

    assert loop.popped.get() is None
    assert loop.heard == 2 * CONSUMED_AT_ONCE + 1
    loop.popper.settle(loop.client)
    assert loop.client.keys("rq:*") == []


def test_busy_dispatcher_leaves_the_queue_alone_for_a_moment(loop: Loop) -> None:
    loop.is_busy = True
    loop.pop()
    loop.push(*wakeup_ids(100))
    loop.turn(0.5)

    assert 1 <= loop.heard <= 11


def test_stop_lets_go_of_no_job(loop: Loop) -> None:
    loop.pop()
    loop.turn(0.2)
    loop.is_stopping = True
    loop.client.client_unblock(loop.popper.client_id or 0)
    loop.turn()
    assert loop.popped.get() is None

    loop.push("job")
    assert loop.client.lrange(KEY, 0, -1) == [b"job"]


def test_loop_that_ends_hands_its_pop_back(loop: Loop) -> None:
    loop.pop()
    loop.turn(0.2)
    loop.guests.leave()
    loop.push("job")

    assert loop.popped.get(timeout=10) == b"job"


def test_lost_connection_is_told_and_made_anew(loop: Loop) -> None:
    loop.pop()
    loop.turn(0.2)
    loop.client.client_kill_filter(_id=str(loop.popper.client_id))
    loop.turn()
    assert isinstance(loop.popped.get(), RedisError)

    loop.pop()
    loop.push("job")
    loop.turn()
    assert loop.popped.get() == b"job"


def test_user_who_may_not_ask_for_a_connection_s_id_pops_as_others(loop: Loop) -> None:
    loop.client.acl_setuser(
        "popper", enabled=True, nopass=True, keys=["*"], channels=["*"],
        commands=["+@all", "-client|id"],
    )  # fmt: skip
    admin, loop.client = loop.client, valkey.connect(5)
    loop.client.connection_pool.connection_kwargs |= {"username": "popper", "password": "x"}
    try:
        loop.pop()
        loop.push(*wakeup_ids(1), "job")
        loop.turn()

        assert loop.popped.get() == b"job"
        assert loop.heard == 1
    finally:
        admin.acl_deluser("popper")


def test_refusal_is_told(loop: Loop) -> None:
    loop.client.set(KEY, "no list")
    loop.pop()
    loop.turn()

    assert isinstance(loop.popped.get(), redis.ResponseError)


@pytest.mark.parametrize(
    ("data", "reply"),
    [
        (b":12\r\nrest", (5, b"12")),
        (b"+OK\r\n", (5, b"OK")),
        (b"$3\r\na\r\n\r\n", (9, b"a\r\n"[:3])),
        (b"$-1\r\n", (5, None)),
        (b"*-1\r\n", (5, None)),
        (b"_\r\n", (3, None)),
    ],
)
def test_replies_are_read_whole_or_not_at_all(data: bytes, reply: Any) -> None:
    assert read_reply(data) == reply
    size = reply[0]
    assert all(read_reply(data[:cut]) is None for cut in range(size))


def test_unexpected_reply_is_an_error() -> None:
    with pytest.raises(ValueError, match="Valkey answers"):
        read_reply(b">2\r\n")


def test_server_that_closes_in_the_middle_of_an_answer(loop: Loop) -> None:
    ours, theirs = socket.socketpair()

    class Connection:
        _sock = ours

    loop.popper._connection = Connection()
    ours.setblocking(False)
    loop.popper._is_popping = True
    theirs.send(b"$40\r\nwebhooks")
    with pytest.raises(BlockingIOError):
        loop.popper._receive()
    theirs.close()
    with pytest.raises(RedisError):
        loop.popper._receive()
    ours.close()
    loop.popper._is_popping = False
