"""Where the time of a request went."""

from pathlib import Path

import pytest
from pytest_django import Settings

from tests.webhooks.certificates import Authority
from tests.webhooks.sending import kind_of, policy, request, send, send_all
from webhooks.wire.many import MultiSender, Outcome
from webhooks.wire.names import Answer
from webhooks.wire.phases import Phases
from webhooks.workbench.receiver import Behaviour, HttpReceiver

SLACK_MS = 25


def longest(outcome: Outcome) -> str:
    return max(zip(outcome.phases, Phases._fields, strict=True))[1]


def assert_is_all(outcome: Outcome) -> None:
    assert min(outcome.phases) >= 0
    assert sum(outcome.phases) == pytest.approx(outcome.duration_ms, abs=SLACK_MS)


def test_waiting_for_the_answer(receiver: HttpReceiver) -> None:
    receiver.behaviour = Behaviour(delay_seconds=0.2)

    outcome = send(receiver.url)

    assert longest(outcome) == "wait"
    assert outcome.phases.wait >= 195
    assert outcome.phases.connect > 0
    assert outcome.phases.tls == 0
    assert_is_all(outcome)


def test_receiving_a_dripped_body_until_the_timeout(receiver: HttpReceiver) -> None:
    receiver.behaviour = Behaviour(
        mode="raw", body=b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx"
    )

    outcome = send(receiver.url)

    assert kind_of(outcome) == "200"
    assert longest(outcome) == "receive"
    assert_is_all(outcome)


def test_hanging_receiver_keeps_waiting(receiver: HttpReceiver) -> None:
    receiver.behaviour = Behaviour(mode="hang")

    outcome = send(receiver.url)

    assert (kind_of(outcome), longest(outcome)) == ("timeout", "wait")
    assert_is_all(outcome)


def test_mute_tls_server_takes_the_handshake(receiver: HttpReceiver) -> None:
    receiver.behaviour = Behaviour(mode="hang")

    outcome = send(receiver.url.replace("http:", "https:"))

    assert outcome.phases.wait == outcome.phases.receive == 0
    assert outcome.phases.connect + outcome.phases.tls > 0


def test_kept_connection_has_neither_connect_nor_handshake(
    tmp_path: Path, settings: Settings
) -> None:
    authority = Authority.make(tmp_path / "ca")
    settings.WEBHOOKS_CA_BUNDLE = str(authority.bundle)
    with HttpReceiver(tls=authority.context("127.0.0.1")) as receiver:
        first, second = send_all([request(receiver.url)] * 2, at_once=1, timeout_seconds=5)

    assert first.phases.tls > 0
    assert second.phases.tls == 0
    assert second.phases.connect < max(first.phases.connect, 1)


def test_name_that_nobody_answers_for() -> None:
    def lookup(host: str) -> Answer:
        return None

    (outcome,) = send_all([request("http://dead.example/")], lookup=lookup)

    assert (kind_of(outcome), longest(outcome)) == ("dns", "dns")
    assert outcome.phases[1:] == (0, 0, 0, 0, 0)


def test_look_up_is_part_of_the_request(receiver: HttpReceiver) -> None:
    sender = MultiSender(policy("127.0.0.0/8"), lookup=lambda host: ("127.0.0.1",))

    (outcome,) = send_all([request(f"http://hooks.example:{receiver.port}/")], sender=sender)
    sender.close()

    assert outcome.phases.dns > 0
    assert_is_all(outcome)
