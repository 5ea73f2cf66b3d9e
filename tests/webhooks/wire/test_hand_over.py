"""Invariant 12 at the wire: what was waited for, the request goes out as things stand then."""

import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Self

import pytest
from pytest_django import Settings

from tests.servers import relay, stop_listening
from tests.webhooks.certificates import Authority
from tests.webhooks.sending import kind_of, policy, request
from webhooks.wire import exchange
from webhooks.wire.failures import WithdrawnError
from webhooks.wire.many import MultiSender, Outcome
from webhooks.wire.messages import Draft, Post, draft_of
from webhooks.wire.names import Answer
from webhooks.wire.one import CurlAdapter
from webhooks.workbench.receiver import Behaviour, HttpReceiver

HOST = "hooks.example"


class State:
    """What a webhook is allowed, as its owner changes it while the request is on its way."""

    def __init__(self) -> None:
        self.is_on = True
        self.secret = "old"
        self.built: list[str] = []

    def draft(self, url: str) -> Draft:
        def build() -> Post | None:
            if not self.is_on:
                return None
            self.built.append(self.secret)
            return request(url, headers=[("X-Secret", self.secret)])

        return Draft(url, build, lambda: self.is_on and self.built[-1] == self.secret)


@pytest.fixture
def state() -> State:
    return State()


def outcome_of(sender: MultiSender) -> Outcome:
    for _ in range(1000):
        if ended := sender.poll(0.01):
            return ended[0]
    pytest.fail("The request does not end.")


class Gate:
    """A port in front of a receiver's: connections to it are taken, and wait until it opens."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._opened = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.came = threading.Event()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for the sender to hang up; close it before."""
        self.open()
        stop_listening(self._listener, self._thread)

    def open(self) -> None:
        self._opened.set()

    def _serve(self) -> None:
        # Nobody may have come, and the receiver may be gone.
        with suppress(OSError), self._listener.accept()[0] as client:
            self.came.set()
            self._opened.wait()
            with socket.create_connection(("127.0.0.1", self._target)) as upstream:
                relay(client, upstream)


@contextmanager
def sending(lookup: Callable[[str], Answer] = lambda _: ("127.0.0.1",)) -> Iterator[MultiSender]:
    with closing(MultiSender(policy("127.0.0.0/8"), lookup=lookup)) as sender:
        yield sender


def test_request_is_built_once_its_name_is_known(receiver: HttpReceiver, state: State) -> None:
    released = threading.Event()

    def lookup(host: str) -> Answer:
        released.wait(10)
        return ("127.0.0.1",)

    with sending(lookup) as sender:
        sender.start(
            state.draft(f"http://{HOST}:{receiver.port}/"), timeout_seconds=10, context="one"
        )
        assert sender.poll(0.01) == []
        assert (state.built, sender.unsent()) == ([], ["one"])
        state.secret = "new"
        released.set()
        outcome = outcome_of(sender)
        assert sender.unsent() == []

    assert kind_of(outcome) == "200"
    assert [received.headers["x-secret"] for received in receiver.requests] == ["new"]
    assert outcome.request is not None
    assert outcome.request.headers["X-Secret"] == "new"


def test_request_withdrawn_while_its_name_is_looked_up_opens_no_socket(
    receiver: HttpReceiver, state: State, dialled: list[str]
) -> None:
    def lookup(host: str) -> Answer:
        state.is_on = False
        return ("127.0.0.1",)

    with sending(lookup) as sender:
        sender.start(state.draft(f"http://{HOST}:{receiver.port}/"), timeout_seconds=5, context=1)
        outcome = outcome_of(sender)

    assert (outcome.is_withdrawn, outcome.context, outcome.request) == (True, 1, None)
    assert (dialled, receiver.requests) == ([], [])


def test_request_whose_url_changed_is_withdrawn(receiver: HttpReceiver, dialled: list[str]) -> None:
    draft = Draft(receiver.url, lambda: request(receiver.url + "other"), lambda: True)

    with sending() as sender:
        sender.start(draft, timeout_seconds=5, context=None)
        outcome = outcome_of(sender)

    assert (outcome.is_withdrawn, dialled) == (True, [])


@pytest.fixture
def tls_receiver(tmp_path: Path, settings: Settings) -> Iterator[HttpReceiver]:
    authority = Authority.make(tmp_path / "ca")
    settings.WEBHOOKS_CA_BUNDLE = str(authority.bundle)
    with HttpReceiver(tls=authority.context(HOST)) as receiver:
        yield receiver


@pytest.mark.parametrize("change", [None, "off", "revoked"])
def test_request_that_waited_for_its_connection_goes_out_only_while_current(
    tls_receiver: HttpReceiver, state: State, monkeypatch: pytest.MonkeyPatch, change: str | None
) -> None:
    monkeypatch.setattr(exchange, "MAX_BUILT_SECONDS", 0.0)
    with Gate(tls_receiver.port) as gate, sending() as sender:
        sender.start(
            state.draft(f"https://{HOST}:{gate.port}/"), timeout_seconds=10, context="waits"
        )
        while not gate.came.is_set():
            sender.poll(0.01)
        assert (state.built, sender.unsent()) == (["old"], ["waits"])
        if change == "off":
            state.is_on = False
        elif change == "revoked":
            state.secret = "new"
        gate.open()
        outcome = outcome_of(sender)

    assert outcome.is_withdrawn is (change is not None)
    assert len(tls_receiver.requests) == (change is None)


def test_request_is_not_sent_again_once_it_is_withdrawn(
    receiver: HttpReceiver, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "MAX_BUILT_SECONDS", 0.0)
    receiver.script(Behaviour(), Behaviour(mode="close"), Behaviour(status=202))

    with sending() as sender:
        sender.start(state.draft(receiver.url), timeout_seconds=5, context=1)
        assert kind_of(outcome_of(sender)) == "200"
        draft = state.draft(receiver.url)
        # It is asked for each time that the request goes out.
        answers = iter([True, False])
        draft.is_current = lambda: next(answers)
        sender.start(draft, timeout_seconds=5, context=2)
        outcome = outcome_of(sender)

    # What went out before is an attempt that failed.
    assert kind_of(outcome) == "reset"
    assert len(receiver.requests) == 2


def test_sender_keeps_nothing_of_a_request_that_has_ended(receiver: HttpReceiver) -> None:
    body = b"x" * 200_000
    known = sys.getrefcount(body)

    with sending() as sender:
        sender.start(request(receiver.url, body), timeout_seconds=5, context=None)
        assert kind_of(outcome_of(sender)) == "200"

        assert sys.getrefcount(body) == known


def test_single_request_is_built_once_its_name_is_known(
    receiver: HttpReceiver, state: State
) -> None:
    def lookup(host: str) -> Answer:
        state.secret = "new"
        return ("127.0.0.1",)

    adapter = CurlAdapter(policy("127.0.0.0/8"), lookup)
    adapter.send(state.draft(f"http://{HOST}:{receiver.port}/"), timeout=5)

    assert [received.headers["x-secret"] for received in receiver.requests] == ["new"]


def test_single_request_that_is_withdrawn_opens_no_socket(
    receiver: HttpReceiver, state: State, dialled: list[str]
) -> None:
    def lookup(host: str) -> Answer:
        state.is_on = False
        return ("127.0.0.1",)

    adapter = CurlAdapter(policy("127.0.0.0/8"), lookup)
    with pytest.raises(WithdrawnError):
        adapter.send(state.draft(f"http://{HOST}:{receiver.port}/"), timeout=5)

    assert (dialled, receiver.requests) == ([], [])


def test_kernel_keeps_nothing_of_a_request_longer_than_its_attempt(receiver: HttpReceiver) -> None:
    # What a partition does to it: python -m tests.hosts --faults cut_host_off.
    limits = []

    def look(fd: int) -> None:
        with socket.socket(fileno=os.dup(fd)) as opened:
            limits.append(opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT))

    sending = exchange.Exchange(policy("127.0.0.0/8"), on_new_socket=look)
    sending.prepare(draft_of(request(receiver.url)), 2.5, None)
    with closing(sending.handle):
        sending.handle.perform()

    assert limits == [2500]
