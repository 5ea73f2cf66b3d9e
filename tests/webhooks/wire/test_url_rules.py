"""What a webhook's URL may be, and how it is stored."""

from collections.abc import Callable

import pytest
from django.core.exceptions import ValidationError
from pytest_django import Settings

from tests.webhooks.hostile_urls import corpus
from webhooks.errors import UrlRefusedError
from webhooks.models import Webhook
from webhooks.wire.url_rules import INBOX_TOKEN_CHARACTERS, accept_url, is_same_server

ALL_PORTS = [range(1, 65536)]


@pytest.fixture(autouse=True)
def as_in_production(settings: Settings) -> None:
    settings.WEBHOOKS_ALLOWED_NETWORKS = []
    settings.WEBHOOKS_ALLOWED_PORTS = [range(80, 81), range(443, 444), range(8000, 8100)]
    settings.WEBHOOKS_OWN_HOSTS = []
    settings.WEBHOOKS_REQUIRE_HTTPS = False


def refusal(url: str) -> str:
    with pytest.raises(UrlRefusedError) as refused:
        accept_url(url)
    return str(refused.value)


def test_hostile_urls_are_refused_and_the_rest_saved(settings: Settings) -> None:
    settings.WEBHOOKS_ALLOWED_PORTS = ALL_PORTS
    urls = corpus(port=8000)
    verdicts = {}

    for url in urls:
        try:
            verdicts[url] = bool(accept_url(url))
        except UrlRefusedError:
            verdicts[url] = False

    assert len(urls) >= 300
    assert {url: saved for url, saved in verdicts.items() if saved != urls[url]} == {}


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("https://example.com", "https://example.com/"),
        ("https://example.com?a=b", "https://example.com/?a=b"),
        ("https://example.com/a%2fb%c3%a4?q=%2f", "https://example.com/a%2Fb%C3%A4?q=%2f"),
        ("HTTPS://Example.COM:443/Hook?A=b", "https://example.com/Hook?A=b"),
        ("http://example.com.:8080/", "http://example.com:8080/"),
        ("https://bücher.example/ä?q=ü", "https://xn--bcher-kva.example/%C3%A4?q=%C3%BC"),
        ("https://еxample.com/", "https://xn--xample-2of.com/"),
        ("https://日本語.jp/", "https://xn--wgv71a119e.jp/"),
        ("https://93.184.216.34/", "https://93.184.216.34/"),
        ("http://[2606:4700:0:0::1111]:8080/", "http://[2606:4700::1111]:8080/"),
        ("https://example.com/a%20b/%zz?a[]=1&b={x}", "https://example.com/a%20b/%zz?a[]=1&b=%7Bx%7D"),
        ("https://r3---sn-x.example/", "https://r3---sn-x.example/"),
        ("https://example.com/@user", "https://example.com/@user"),
    ],
)  # fmt: skip
def test_url_is_stored_in_one_ascii_spelling(settings: Settings, given: str, stored: str) -> None:
    settings.WEBHOOKS_ALLOWED_PORTS = ALL_PORTS

    assert accept_url(given) == stored
    assert accept_url(stored) == stored


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://example.com/", "must start with http:// or https://"),
        ("http\u017f://example.com/", "must start with http:// or https://"),
        ("https://example.com:\u0668\u0660/", "no valid host and port"),
        ("https://user:pw@example.com/", "user name or password"),
        ("https://exa mple.com/", "a space, a backslash or an invisible"),
        ("https://example.com\\@x/", "a space, a backslash or an invisible"),
        ("https://example.com/#top", "holds a #"),
        ("https://example.com:0/", "from 1 to 65535"),
        ("https://example.com:99999/", "from 1 to 65535"),
        ("https://example.com:22/", "Port 22 is not allowed; use 80, 443, 8000-8099."),
        ("https://example.com:5432/", "Port 5432 is not allowed"),
        ("https://example.com:6379/", "Port 6379 is not allowed"),
        ("https://127.1/", "not a valid name or address"),
        ("https://ⓔxample.com/", "not a valid name or address"),
        ("https://ｅxample.com/", "not a valid name or address"),
        ("https://example。com/", "not a valid name or address"),
        ("https://Kelvin\u212a.example/", "not a valid name or address"),
        ("https://example.com/a/../b", "holds . or .. as a part"),
        ("https://example.com/a/%2e%2E/b", "holds . or .. as a part"),
        ("https://example.com/.%2e", "holds . or .. as a part"),
        ("https://example.com/./a", "holds . or .. as a part"),
        ("https://example.com/a/..?b", "holds . or .. as a part"),
        ("https://10.0.0.1/", "not a public one"),
        ("https://intranet/", "not a public one"),
        ("https://example.com/" + "x" * 2030, "longer than 2,048"),
        ("https://example.com/" + "ä" * 1000, "longer than 2,048"),
    ],
)
def test_refusal_says_what_to_change(url: str, reason: str) -> None:
    assert reason in refusal(url)


def test_https_is_required_only_by_the_setting(settings: Settings) -> None:
    settings.WEBHOOKS_REQUIRE_HTTPS = True

    assert refusal("http://example.com/") == "The URL must start with https://."
    assert accept_url("https://example.com/") == "https://example.com/"


def test_own_hosts_are_refused(settings: Settings) -> None:
    settings.WEBHOOKS_OWN_HOSTS = ["app.example.com", ".internal.example", "*"]

    for url in (
        "https://APP.example.com/api",
        "https://app.example.com./",
        "https://a.internal.example/",
    ):
        assert refusal(url) == "The URL points to this site itself."
    assert accept_url("https://example.com/")


def test_own_host_is_reached_at_a_test_inbox_only(settings: Settings) -> None:
    settings.WEBHOOKS_OWN_HOSTS = ["app.example.com"]
    token = "aB3_-" * 8 + "xyz"
    inbox = f"https://app.example.com/portal/in/{token}"

    assert accept_url(inbox) == inbox
    for url in (
        f"{inbox}?a", f"{inbox}/", f"{inbox}x", inbox[:-1], f"{inbox[:-1]}%41", f"{inbox[:-1]}.",
        inbox.replace("/in/", "/open/"), inbox.replace("/portal", "//portal"),
        inbox.replace("/portal", ""), inbox.replace("example.com", "example.com:8000"),
        inbox.replace("/in/", "/x/../in/"), inbox.replace("/in/", "/in//"),
        inbox.replace("/portal/", "/Portal/"), f"https://app.example.com/api?/portal/in/{token}",
    ):  # fmt: skip
        assert refusal(url) == "The URL points to this site itself.", url


def test_local_names_are_allowed_where_a_private_network_is(settings: Settings) -> None:
    from ipaddress import ip_network

    settings.WEBHOOKS_ALLOWED_NETWORKS = [ip_network("127.0.0.0/8")]

    assert accept_url("http://localhost:8000/hook") == "http://localhost:8000/hook"
    assert accept_url("http://127.0.0.1:8000/") == "http://127.0.0.1:8000/"
    assert refusal("http://10.0.0.1/") == "The URL's host is not a public one."


def test_webhook_stores_the_accepted_spelling(make_webhook: Callable[..., Webhook]) -> None:
    webhook = make_webhook(url="HTTPS://Bücher.example:443/hook")

    webhook.refresh_from_db()
    assert webhook.url == "https://xn--bcher-kva.example/hook"


def test_webhook_with_a_hostile_url_is_not_stored(make_webhook: Callable[..., Webhook]) -> None:
    with pytest.raises(ValidationError) as refused:
        make_webhook(url="http://169.254.169.254/latest/meta-data/")

    assert refused.value.message_dict == {"url": ["The URL's host is not a public one."]}
    assert not Webhook.objects.exists()


INBOX = "/portal/in/" + "A" * INBOX_TOKEN_CHARACTERS


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("https://example.com/a", "https://EXAMPLE.com:443/b?c", True),
        ("https://example.com/", "https://example.com./", True),
        ("https://example.com/", "http://example.com:443/", False),
        ("https://example.com/", "https://example.com:8443/", False),
        ("https://example.com/", "https://example.org/", False),
        ("https://xn--bcher-kva.example/", "https://bücher.example/", True),
        ("https://[2001:db8::1]/", "https://[2001:db8:0::1]/", True),
        # At our own host the path says whose inbox it is.
        (f"https://site.example{INBOX}", f"https://site.example{INBOX}", True),
        (f"https://site.example{INBOX}", f"https://site.example{INBOX[:-1]}B", False),
        (f"https://site.example{INBOX}", "https://site.example/hook", False),
        # As older rules may have stored it.
        ("https://user@example.com/", "https://example.com/", False),
        ("https://user@example.com/", "https://user@example.com/", True),
    ],
)
def test_servers_are_compared_as_the_wire_reads_them(one: str, other: str, is_same: bool) -> None:
    assert is_same_server(one, other) is is_same
