"""No URL, redirect or name server leads the sender into our own network: the canary stays silent.

Every URL of the corpus goes out as if it had been stored, whatever the rules at save say of it.
"""

import itertools
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address

import pytest
import requests
from pytest_django import Settings

from tests.webhooks.hostile_urls import corpus
from tests.webhooks.sending import Canary, CurlSession, kind_of, policy, request, send_all
from webhooks.wire import lookups, many, names, pins
from webhooks.wire.lookups import Sending
from webhooks.wire.many import MultiSender
from webhooks.wire.messages import draft_of
from webhooks.wire.names import Answer
from webhooks.wire.url_rules import parse_url
from webhooks.workbench.receiver import Behaviour, HttpReceiver

PUBLIC = "93.184.216.34"
OTHER_PUBLIC = "2606:2800:220:1:248:1893:25c8:1946"
FAILURES = {"blocked_address", "dns", "protocol"}


def hostile_lookup(host: str) -> Answer:
    """As a hostile name server answers: numbers as the C library reads them, names as loopback."""
    try:
        found = socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return ("127.0.0.1", "::1")
    return tuple(str(entry[4][0]) for entry in found)


def test_hostile_urls_are_never_connected_to_when_sent(canary: Canary, dialled: list[str]) -> None:
    urls = list(corpus(canary.port))

    outcomes = send_all([request(url) for url in urls], allowed=(), lookup=hostile_lookup)

    assert len(urls) >= 300
    assert {kind_of(outcome) for outcome in outcomes} <= FAILURES
    assert (canary.connections, dialled) == (0, [])


def test_hostile_urls_are_never_connected_to_by_a_test_send(
    canary: Canary, dialled: list[str]
) -> None:
    session = CurlSession(policy(), lookup=hostile_lookup)

    for url in corpus(canary.port):
        with pytest.raises(requests.RequestException):
            session.send(request(url), timeout=1)
        # The convenient way lets `requests` rewrite the URL first; its errors are ValueErrors too.
        with pytest.raises((requests.RequestException, ValueError)):
            session.post(url, data=b"{}", timeout=1)

    assert (canary.connections, dialled) == (0, [])


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_hostile_redirects_are_never_followed(
    canary: Canary, dialled: list[str], status: int
) -> None:
    urls = list(corpus(canary.port))
    with HttpReceiver(host="127.0.0.2") as receiver:
        receiver.script(*(_redirect(status, url) for url in urls))

        outcomes = send_all(
            [request(receiver.url)] * len(urls), allowed=["127.0.0.2/32"], timeout_seconds=2
        )

        assert len(receiver.requests) == len(urls)
    # A NUL or a line break in Location ends the answer early.
    assert {kind_of(outcome) for outcome in outcomes} <= {str(status), "protocol"}
    assert sum(kind_of(outcome) == str(status) for outcome in outcomes) >= 300
    assert (canary.connections, set(dialled)) == (0, {"127.0.0.2"})


def test_redirects_are_not_followed_by_any_requests_session(canary: Canary) -> None:
    with HttpReceiver(host="127.0.0.2") as receiver:
        receiver.behaviour = _redirect(307, f"http://127.0.0.1:{canary.port}/")
        session = CurlSession(policy("127.0.0.2/32"))

        answer = session.post(receiver.url, data=b"{}", allow_redirects=True, timeout=2)

    assert (answer.status_code, len(receiver.requests), canary.connections) == (307, 1, 0)


def _redirect(status: int, url: str) -> Behaviour:
    location = url.encode("utf-8", "surrogateescape").decode("latin-1")
    return Behaviour(status=status, headers=(("Location", location),))


@pytest.mark.parametrize(
    "answer",
    [
        ("127.0.0.1",),
        (PUBLIC, "127.0.0.1"),
        ("127.0.0.1", PUBLIC),
        (OTHER_PUBLIC, "::1"),
        (PUBLIC, "::ffff:127.0.0.1"),
        (PUBLIC, OTHER_PUBLIC, "169.254.169.254"),
        (PUBLIC, "fe80::1%lo"),
        (PUBLIC, "unix"),
    ],
)
def test_name_with_one_forbidden_address_is_refused_whole(
    canary: Canary, dialled: list[str], answer: Answer
) -> None:
    url = f"http://public.example:{canary.port}/"

    (outcome,) = send_all([request(url)], allowed=(), lookup=lambda _: answer)

    assert kind_of(outcome) == "blocked_address"
    assert (canary.connections, dialled) == (0, [])


@pytest.mark.parametrize("first", ["public", "private"])
def test_thousand_rebinding_flips_never_reach_the_canary(
    monkeypatch: pytest.MonkeyPatch, canary: Canary, dialled: list[str], first: str
) -> None:
    # Every request asks anew, as with a TTL of 0.
    monkeypatch.setattr(names, "RESOLVED_SECONDS", 0.0)
    monkeypatch.setattr(names, "UNRESOLVED_SECONDS", 0.0)
    answers = [(PUBLIC,), ("127.0.0.1",)]
    flips = itertools.cycle(answers if first == "public" else answers[::-1])
    sender = MultiSender(policy(), lookup=lambda _: next(flips))
    urls = [f"http://rebind.example:{canary.port}/"] * 1000

    outcomes = send_all([request(url) for url in urls], sender=sender, at_once=1)
    sender.close()

    kinds = [kind_of(outcome) for outcome in outcomes]
    assert canary.connections == 0
    assert set(dialled) == {PUBLIC}
    assert set(kinds) == {"blocked_address", "connect"}
    assert min(kinds.count(kind) for kind in set(kinds)) >= 100


def test_pin_is_forgotten_when_many_came_after_it_but_not_under_a_request(
    monkeypatch: pytest.MonkeyPatch, dialled: list[str]
) -> None:
    monkeypatch.setattr(pins, "MAX_HOSTS", 10)
    # libcurl itself knows such names as 127.0.0.1, without a name server.
    monkeypatch.setattr(names, "PIN_SUFFIX", "localhost")

    def lookup(host: str) -> Answer:
        return ("127.0.0.2",) if host == "slow.localhost" else ("127.0.0.3",)

    with HttpReceiver(host="127.0.0.2") as receiver:
        receiver.behaviour = Behaviour(mode="hang")
        sender = MultiSender(policy("127.0.0.0/8"), lookup=lookup)
        slow, old = (f"http://{name}.localhost:{receiver.port}/" for name in ("slow", "old"))

        def pass_by(name: str) -> None:
            urls = [f"http://{name}{number}.localhost:{receiver.port}/" for number in range(25)]
            for url in (old, *urls):
                sender.start(request(url), timeout_seconds=5, context=url)
                while not sender.poll(0.1):
                    pass

        def dialled_without_a_pin(url: str) -> str:
            now = time.monotonic()
            host = parse_url(url).host
            unknown = replace(names.pin(host, receiver.port, lookup(host) or ()), resolve=[])
            draft = draft_of(request(url))
            sender._begin(Sending(draft, None, None, now, now + 0.2, None), unknown)
            while not any(outcome.context is None for outcome in sender.poll(0.1)):
                pass
            return dialled[-1]

        sender.start(request(slow), timeout_seconds=30, context="slow")
        while not receiver.requests:
            sender.poll(0.01)
        pass_by("first")

        assert dialled_without_a_pin(slow) == "127.0.0.2"
        assert dialled_without_a_pin(old) != "127.0.0.3"
        assert len(sender._pins._entries) <= 11
        sender.close()


def test_address_is_checked_where_the_socket_opens_even_without_the_checks_before(
    monkeypatch: pytest.MonkeyPatch, canary: Canary, dialled: list[str]
) -> None:
    monkeypatch.setattr(lookups, "check", lambda answer, policy: None)
    monkeypatch.setattr(many, "host_and_port", _loose_host_and_port)
    urls = [url for url in corpus(canary.port) if url.isprintable()]

    outcomes = send_all([request(url) for url in urls], allowed=(), lookup=hostile_lookup)

    assert (canary.connections, dialled) == (0, [])
    assert sum(kind_of(outcome) == "blocked_address" for outcome in outcomes) >= 100


def _loose_host_and_port(url: str) -> tuple[str, int] | None:
    """Takes nearly any URL, and pins every spelling of its host to loopback."""
    authority = url.partition("://")[2].partition("/")[0]
    host, _, port = authority.rpartition(":")
    try:
        ip_address(host.strip("[]"))
    except ValueError:
        return (host or "x").strip("[]").partition("%")[0].lower(), int(
            "".join(filter(str.isdigit, port)) or 80
        )
    return None


def test_port_is_checked_where_the_socket_opens(settings: Settings, canary: Canary) -> None:
    settings.WEBHOOKS_ALLOWED_PORTS = [range(80, 81)]

    (outcome,) = send_all([request(f"http://127.0.0.1:{canary.port}/")])

    assert (kind_of(outcome), canary.connections) == ("blocked_address", 0)


def test_canary_sings_when_the_guard_is_off(
    monkeypatch: pytest.MonkeyPatch, canary: Canary
) -> None:
    """The corpus and the canary are worth something: without our checks it is reached."""
    everything: Callable[..., bool] = lambda *_: True  # noqa: E731
    monkeypatch.setattr("webhooks.wire.addresses.AddressPolicy._is_allowed", everything)
    urls = [f"http://{host}:{canary.port}/" for host in ("127.0.0.1", "[::1]", "public.example")]

    send_all([request(url) for url in urls], allowed=(), lookup=hostile_lookup)

    assert canary.connections >= 2
