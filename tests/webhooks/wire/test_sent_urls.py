"""What a webhook's URL is stored as is what its receiver sees, byte for byte."""

from collections.abc import Callable
from ipaddress import ip_network

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pytest_django import Settings

from tests.webhooks.sending import policy, request, send_all
from webhooks import service
from webhooks.errors import UrlRefusedError
from webhooks.models import Webhook
from webhooks.wire.one import CurlAdapter
from webhooks.wire.url_rules import accept_url
from webhooks.workbench.receiver import HttpReceiver

HOSTS = ["127.0.0.1", "localhost", "LocalHost.", "LOCALHOST"]
NAMES = [
    "example.com",
    "Example.COM.",
    "bücher.example",
    "xn--bcher-kva.example",
    "my_host.example",
]
TARGETS = [
    "", "/", "?x=1", "/?", "?", "//", "//a", "/a//b/", "/%2f", "/%2F%2f", "/%2", "/%zz", "/%%2f",
    "/%2z%2f", "/100%", "/a?%2f", "/a?b?c", "/a?/../b", "/a;b=c/d;e", "/..a/.b/...", "/a..",
    "/..;/a", "/%2e%2e%2fa", "/ä?ü=ö", "/😀", "/a'b(c)*!$&,=:@~", "/[a]?b[]=c", '/{a}|^`"<>', "/+",
    "/" + "a" * 1900, "/%c3%a4?%c3%a4",
]  # fmt: skip
TARGET = st.lists(
    st.sampled_from(["/", ".", "..", "%2e", "%2E", "%2f", "%", "?", "a", "ä", ";", "=", "%5c", "[", "{"])
).map("".join)  # fmt: skip


@pytest.fixture(autouse=True)
def _any_loopback(settings: Settings) -> None:
    settings.WEBHOOKS_ALLOWED_NETWORKS = [ip_network("127.0.0.0/8"), ip_network("::1/128")]


def seen_by(receiver: HttpReceiver) -> str:
    """The URL of the request that came last, from its request line and its Host header."""
    received = receiver.requests[-1]
    return f"http://{received.headers['host']}{received.path}"


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_accepted_arrives_as_it_is_stored(receiver: HttpReceiver, target: str) -> None:
    adapter = CurlAdapter(policy("127.0.0.0/8"))
    for host in HOSTS:
        stored = accept_url(f"http://{host}:{receiver.port}{target}")

        adapter.send(request(stored), timeout=10)

        assert seen_by(receiver) == stored
        assert accept_url(stored) == stored


@given(start=st.sampled_from(["", "/", "/a/", "/?"]), rest=TARGET)
@hypothesis_settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@example(start="/a/", rest="../b")
@example(start="/", rest="%2f")
def test_any_target_arrives_as_it_is_stored_or_is_refused(
    receiver: HttpReceiver, start: str, rest: str
) -> None:
    try:
        stored = accept_url(f"http://127.0.0.1:{receiver.port}{start}{rest}")
    except UrlRefusedError:
        return

    CurlAdapter(policy("127.0.0.0/8")).send(request(stored), timeout=10)

    assert seen_by(receiver) == stored


@pytest.mark.parametrize("name", NAMES)
def test_any_name_arrives_as_it_is_stored(receiver: HttpReceiver, name: str) -> None:
    stored = accept_url(f"http://{name}:{receiver.port}/hook")

    send_all([request(stored)], lookup=lambda _: ("127.0.0.1",), timeout_seconds=10)

    assert seen_by(receiver) == stored


@pytest.mark.parametrize("path", ["/hook%2fa?b=%2f", "?x=1", "/a//b/..c"])
def test_a_test_send_goes_where_the_webhook_shows(
    receiver: HttpReceiver, make_webhook: Callable[..., Webhook], path: str
) -> None:
    webhook = make_webhook(url=f"{receiver.url.removesuffix('/')}{path}")

    assert service.test_webhook(webhook).succeeded

    assert seen_by(receiver) == webhook.url


@pytest.mark.parametrize("host", ["[::1]", "[0:0:0:0:0:0:0:1]", "[::0001]"])
def test_numeric_hosts_have_one_spelling(host: str) -> None:
    with HttpReceiver(host="::1") as receiver:
        stored = accept_url(f"http://{host}:{receiver.port}/hook")

        CurlAdapter(policy("::1/128")).send(request(stored), timeout=10)

        assert seen_by(receiver) == stored
