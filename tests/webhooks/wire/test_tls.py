"""X14: certificates are always verified, TLS is 1.2 or newer, and no byte goes out before that."""

import ssl
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from pytest_django import Settings

from tests.webhooks.certificates import Authority
from tests.webhooks.sending import CurlSession, kind_of, policy, request, send_all
from webhooks.wire.many import MultiSender, Outcome
from webhooks.workbench.receiver import HttpReceiver

HOST = "hooks.example"
GROUP = """\
-----BEGIN DH PARAMETERS-----
MIIBCAKCAQEA///////////JD9qiIWjCNMTGYouA3BzRKQJOCIpnzHQCC76mOxObIlFKCHmONATd
75UZs806QxswKwpt8l8UN0/hNW1tUcJF5IW1dmJefsb0TELppjftawv/XLb0Brft7jhr+1qJn6Wu
nyQRfEsf5kkoZlHs5Fs9wgB8uKFjvwWY2kg2HFXTmmkWP6j9JM9fg2VdI9yjrZYcYvNWIIVSu57V
KQdwlpZtZww1Tkq8mATxdGwIyhghfDKQXkYuNs474553LBgOhgObJ4Oi7Aeij7XFXfBvTFLJ3ivL
9pVYFxg5lUl86pVq5RXSJhiY+gUQFXKOWoqsqmj//////////wIBAg==
-----END DH PARAMETERS-----
"""
"""Group 14 of RFC 3526, of 2048 bits."""


@pytest.fixture
def authority(tmp_path: Path, settings: Settings) -> Authority:
    authority = Authority.make(tmp_path / "trusted")
    settings.WEBHOOKS_CA_BUNDLE = str(authority.bundle)
    return authority


@contextmanager
def receiving(context: ssl.SSLContext | None) -> Iterator[tuple[HttpReceiver, str]]:
    with HttpReceiver(tls=context) as receiver:
        yield receiver, f"https://{HOST}:{receiver.port}/"


def send_to(url: str) -> Outcome:
    (outcome,) = send_all([request(url)], lookup=lambda _: ("127.0.0.1",), timeout_seconds=2)
    return outcome


def assert_refused(context: ssl.SSLContext | None, message: str) -> None:
    with receiving(context) as (receiver, url):
        outcome = send_to(url)

        assert outcome.error is not None
        assert (kind_of(outcome), receiver.requests) == ("tls", [])
        assert str(outcome.error).startswith(message)


def test_x14_valid_certificate_is_accepted_and_the_name_sent(authority: Authority) -> None:
    names = []
    context = authority.context(HOST)
    context.sni_callback = lambda connection, name, _: names.append(name)
    with receiving(context) as (receiver, url):
        assert kind_of(send_to(url)) == "200"
        assert len(receiver.requests) == 1
    assert names == [HOST]


def test_x14_certificate_chosen_by_name_is_accepted(authority: Authority) -> None:
    right, other = authority.context(HOST), authority.context("other.example")

    def choose(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        connection.context = right if name == HOST else other

    other.sni_callback = choose
    with receiving(other) as (_, url):
        assert kind_of(send_to(url)) == "200"


def test_x14_expired_certificate_is_refused(authority: Authority) -> None:
    context = authority.context(HOST, starts=-9, ends=-2)

    assert_refused(context, "The receiver's TLS certificate has expired.")


def test_x14_certificate_from_the_future_is_refused(authority: Authority) -> None:
    context = authority.context(HOST, starts=3, ends=9)

    assert_refused(context, "The receiver's TLS certificate is not valid yet.")


def test_x14_self_signed_certificate_is_refused(authority: Authority) -> None:
    context = authority.context(HOST, is_self_signed=True)

    assert_refused(context, "The receiver's TLS certificate is self-signed.")


def test_x14_certificate_for_another_host_is_refused(authority: Authority) -> None:
    context = authority.context("other.example")

    assert_refused(context, "The receiver's TLS certificate is for another host name.")


def test_x14_unknown_authority_is_refused(authority: Authority, tmp_path: Path) -> None:
    stranger = Authority.make(tmp_path / "stranger", "Stranger")

    assert_refused(stranger.context(HOST), "The receiver's TLS certificate is not from a known")


def test_x14_old_tls_is_refused(authority: Authority) -> None:
    context = authority.context(HOST)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")

    assert_refused(context, "No complete HTTP answer came in time.")


def test_x14_plain_http_on_a_tls_url_is_refused(authority: Authority) -> None:
    assert_refused(None, "No complete HTTP answer came in time.")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_x14_demand_for_a_client_certificate_is_refused(
    authority: Authority, version: ssl.TLSVersion
) -> None:
    context = authority.context(HOST)
    context.maximum_version = version
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(authority.bundle)
    with receiving(context) as (receiver, url):
        outcome = send_to(url)

        assert kind_of(outcome) in {"tls", "reset"}
        assert receiver.requests == []


def test_group_that_the_server_chooses_is_refused(authority: Authority, tmp_path: Path) -> None:
    # The larger the group, the longer the sender's thread stands still: at 10,000 bits for a second.
    path = tmp_path / "group.pem"
    path.write_text(GROUP)
    # There are suites with this exchange for RSA only, and none in TLS 1.3.
    context = authority.context(HOST, key=rsa.generate_private_key(65537, 2048))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("DHE")
    context.load_dh_params(str(path))

    assert_refused(context, "No complete HTTP answer came in time.")


@pytest.mark.parametrize("ciphers", ["ECDHE", "AES128-GCM-SHA256"])
def test_server_of_yesterday_is_accepted(authority: Authority, ciphers: str) -> None:
    context = authority.context(HOST, key=rsa.generate_private_key(65537, 2048))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(ciphers)
    with receiving(context) as (_, url):
        assert kind_of(send_to(url)) == "200"


def test_test_send_verifies_too_whatever_it_is_told(authority: Authority) -> None:
    from webhooks.wire.failures import TransportError

    session = CurlSession(policy("127.0.0.0/8"), lookup=lambda _: ("127.0.0.1",))
    with receiving(authority.context(HOST, is_self_signed=True)) as (receiver, url):
        with pytest.raises(TransportError, match="self-signed"):
            session.post(url, data=b"{}", verify=False, timeout=2)
        assert receiver.requests == []


def test_tls_connection_is_kept_between_requests(authority: Authority) -> None:
    sender = MultiSender(policy("127.0.0.0/8"), lookup=lambda _: ("127.0.0.1",))
    with receiving(authority.context(HOST)) as (receiver, url):
        for _ in range(3):
            send_all([request(url)], sender=sender, timeout_seconds=2)
        sender.close()

        assert [received.connection for received in receiver.requests] == [1, 1, 1]
