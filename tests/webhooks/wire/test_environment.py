"""E1 to E3 and E7: nothing of the environment reaches the wire, no text tells of our network."""

import socket
from pathlib import Path

import pytest
from pytest_django import Settings

from tests.webhooks.certificates import Authority
from tests.webhooks.egress_proxy import EgressProxy, credentials_of
from tests.webhooks.sending import (
    Canary,
    CurlSession,
    answer_of,
    kind_of,
    policy,
    request,
    send,
    send_all,
)
from webhooks.wire.many import MultiSender
from webhooks.workbench.receiver import Behaviour, HttpReceiver

PROXY_VARIABLES = [
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
]


def test_e1_proxy_variables_are_ignored(
    monkeypatch: pytest.MonkeyPatch, canary: Canary, receiver: HttpReceiver
) -> None:
    for variable in PROXY_VARIABLES:
        monkeypatch.setenv(variable, f"http://127.0.0.1:{canary.port}")
    monkeypatch.setenv("NO_PROXY", "")

    kinds = [kind_of(send(receiver.url))]
    kinds.append(str(CurlSession(policy("127.0.0.0/8")).post(receiver.url, b"{}").status_code))

    assert kinds == ["200", "200"]
    assert canary.connections == 0


def test_e1_certificate_variables_are_ignored(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, settings: Settings
) -> None:
    trusted, stranger = Authority.make(tmp_path / "ours"), Authority.make(tmp_path / "theirs")
    settings.WEBHOOKS_CA_BUNDLE = str(trusted.bundle)
    for variable in ("CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.setenv(variable, str(stranger.bundle))
    monkeypatch.setenv("SSL_CERT_DIR", str(stranger.folder))
    with HttpReceiver(tls=stranger.context("hooks.example")) as receiver:
        url = f"https://hooks.example:{receiver.port}/"

        (outcome,) = send_all([request(url)], lookup=lambda _: ("127.0.0.1",), timeout_seconds=2)

        assert (kind_of(outcome), receiver.requests) == ("tls", [])


def test_e2_netrc_is_never_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, receiver: HttpReceiver
) -> None:
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login canary password canary\ndefault login a password b\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(netrc))
    session = CurlSession(policy("127.0.0.0/8"))

    send_all([request(receiver.url, headers=[("Authorization", "Bearer mine")])])
    session.post(receiver.url, b"{}", headers={"Authorization": "Bearer mine"})
    session.post(receiver.url, b"{}")

    sent = [received.headers.get("authorization") for received in receiver.requests]
    assert sent == ["Bearer mine", "Bearer mine", None]


def test_e3_userinfo_never_becomes_a_header(receiver: HttpReceiver) -> None:
    outcome = send(receiver.url.replace("http://", "http://canary:canary@"))

    assert kind_of(outcome) == "protocol"
    assert receiver.requests == []


def test_e7_text_tells_only_a_refusal_from_other_silences(receiver: HttpReceiver) -> None:
    closed = socket.socket()
    closed.bind(("127.0.0.1", 0))
    behaviours = [
        Behaviour(mode="hang"),
        Behaviour(mode="close"),
        Behaviour(mode="reset"),
        Behaviour(mode="raw", body=b"SSH-2.0-OpenSSH_9.9\r\n", end="close"),
        Behaviour(mode="raw", body=b"220 mail ESMTP\r\n", end="close"),
    ]
    receiver.script(*behaviours)
    urls = [receiver.url] * len(behaviours)
    urls += [
        f"http://127.0.0.1:{closed.getsockname()[1]}/",
        receiver.url.replace("http", "https", 1),
    ]

    outcomes = send_all([request(url) for url in urls], at_once=1)
    closed.close()

    kinds = [kind_of(outcome) for outcome in outcomes]
    assert kinds == ["timeout", "reset", "reset", "protocol", "protocol", "connect", "tls"]
    # A refusal is said, because it is what a developer has to know first; only public addresses are
    # ever asked.
    refused = str(outcomes.pop(-2).error)
    assert "refused" in refused
    assert refused not in {str(outcome.error) for outcome in outcomes}
    assert len({str(outcome.error) for outcome in outcomes}) == 1


def test_e7_text_does_not_tell_internal_names_from_unknown_ones() -> None:
    answers = {"internal.example": ("10.0.0.1",), "unknown.example": None}
    urls = [f"http://{host}:{port}/" for host in answers for port in (80, 5432)]

    outcomes = send_all([request(url) for url in urls], allowed=(), lookup=answers.get)

    assert [kind_of(outcome) for outcome in outcomes] == ["blocked_address"] * 2 + ["dns"] * 2
    (text,) = {str(outcome.error) for outcome in outcomes}
    assert text == "The URL's host does not lead to a public address."


# The egress proxy of WEBHOOKS_PROXY_URL.


def test_proxy_gets_names_and_nothing_of_the_request(
    settings: Settings, receiver: HttpReceiver
) -> None:
    with EgressProxy({"hooks.example:80": receiver.port}) as proxy:
        settings.WEBHOOKS_PROXY_URL = proxy.url
        headers = [("Authorization", "Bearer canary"), ("webhook-id", "evt_1")]

        (outcome,) = send_all(
            [request("http://hooks.example/hook", headers=headers)],
            allowed=(),
            lookup=_must_not_look_up,
        )

    assert kind_of(outcome) == "200"
    assert "X-Proxy" not in answer_of(outcome).headers
    (head,) = proxy.heads
    assert head.startswith("CONNECT hooks.example:80 HTTP/1.1\r\n")
    assert "canary" not in head
    assert "evt_1" not in head
    (received,) = receiver.requests
    assert received.path == "/hook"
    assert received.headers["authorization"] == "Bearer canary"
    assert not any(name.startswith("proxy-") for name in received.headers)


def test_proxy_carries_tls_to_the_receiver(settings: Settings, tmp_path: Path) -> None:
    authority = Authority.make(tmp_path / "ca")
    settings.WEBHOOKS_CA_BUNDLE = str(authority.bundle)
    with (
        HttpReceiver(tls=authority.context("hooks.example")) as receiver,
        EgressProxy({"hooks.example:443": receiver.port}) as proxy,
    ):
        settings.WEBHOOKS_PROXY_URL = proxy.url

        (outcome,) = send_all([request("https://hooks.example/")], timeout_seconds=2)

        assert (kind_of(outcome), len(receiver.requests)) == ("200", 1)


def test_proxy_gets_its_credentials_and_the_receiver_does_not(
    settings: Settings, receiver: HttpReceiver
) -> None:
    with EgressProxy({"hooks.example:80": receiver.port}) as proxy:
        settings.WEBHOOKS_PROXY_URL = proxy.url.replace("http://", "http://us:pw@")

        send_all([request("http://hooks.example/")])

    assert credentials_of(proxy.heads[0]) == "us:pw"
    assert "proxy-authorization" not in receiver.requests[0].headers


@pytest.mark.parametrize(
    ("refusal", "kind"),
    [
        ("407 Request Rejected by Proxy", "blocked_address"),
        ("403 Forbidden", "blocked_address"),
        ("502 Bad Gateway", "connect"),
        ("503 Service Unavailable", "connect"),
        ("504 Gateway Timeout", "timeout"),
    ],
)
def test_refusal_by_the_proxy_is_classified_without_its_details(
    settings: Settings, refusal: str, kind: str
) -> None:
    with EgressProxy({}, refusal) as proxy:
        settings.WEBHOOKS_PROXY_URL = proxy.url

        outcomes = send_all([request(url) for url in ("http://a.example/", "https://a.example/")])

    assert [kind_of(outcome) for outcome in outcomes] == [kind] * 2
    for outcome in outcomes:
        text = str(outcome.error)
        assert not any(word in text.lower() for word in ("proxy", "10.0.0.1", "407", "tunnel"))


def test_answer_of_the_proxy_is_not_taken_for_the_receivers(
    settings: Settings, receiver: HttpReceiver
) -> None:
    receiver.script(Behaviour(mode="hang"), Behaviour(mode="close"), Behaviour(status=500))
    with EgressProxy({"hooks.example:80": receiver.port}) as proxy:
        settings.WEBHOOKS_PROXY_URL = proxy.url

        outcomes = send_all([request("http://hooks.example/")] * 3, at_once=1)

    assert [kind_of(outcome) for outcome in outcomes] == ["timeout", "reset", "500"]


def test_answer_of_the_proxy_does_not_count_as_an_interim_one(
    settings: Settings, receiver: HttpReceiver
) -> None:
    interim = b"HTTP/1.1 102 Processing\r\n\r\n" * 8
    receiver.behaviour = Behaviour(mode="raw", body=interim + b"HTTP/1.1 204 No\r\n\r\n")
    with EgressProxy({"hooks.example:80": receiver.port}) as proxy:
        settings.WEBHOOKS_PROXY_URL = proxy.url

        assert kind_of(send("http://hooks.example/")) == "204"


def test_unreachable_proxy_is_not_bypassed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, receiver: HttpReceiver
) -> None:
    for variable in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(variable, "*")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        settings.WEBHOOKS_PROXY_URL = f"http://127.0.0.1:{closed.getsockname()[1]}"

        outcome = send(receiver.url)

    assert (kind_of(outcome), receiver.requests) == ("connect", [])


def test_proxied_connection_is_kept_between_requests(
    settings: Settings, receiver: HttpReceiver
) -> None:
    with EgressProxy({"hooks.example:80": receiver.port}) as proxy:
        settings.WEBHOOKS_PROXY_URL = proxy.url
        sender = MultiSender(policy())

        for _ in range(3):
            send_all([request("http://hooks.example/")], sender=sender)
        sender.close()

    assert (len(proxy.heads), len(receiver.requests)) == (1, 3)


def test_test_send_goes_through_the_proxy_too(settings: Settings, receiver: HttpReceiver) -> None:
    with EgressProxy({"hooks.example:80": receiver.port}) as proxy:
        settings.WEBHOOKS_PROXY_URL = proxy.url

        answer = CurlSession(policy(), lookup=_must_not_look_up).post(
            "http://hooks.example/", b"{}"
        )

    assert (answer.status_code, len(proxy.heads)) == (200, 1)


def _must_not_look_up(host: str) -> None:
    raise AssertionError(f"{host} was looked up here; that is the proxy's part.")
