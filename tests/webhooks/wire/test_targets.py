"""What is stored as a URL's path and query is what is sent, letter by letter."""

import pytest

from tests.webhooks.sending import kind_of, policy, request, send
from webhooks.wire.messages import request_target
from webhooks.wire.one import CurlAdapter
from webhooks.workbench.receiver import HttpReceiver

TARGETS = [
    "/a/../b",
    "/a/./b",
    "/..",
    "/%2f%2F%41%zz",
    "/?x=/../%2f",
    "//a//b",
    "/a;b/../c",
    "/a?b?c",
]


@pytest.mark.parametrize("target", TARGETS)
def test_target_is_sent_as_it_is_stored(receiver: HttpReceiver, target: str) -> None:
    url = receiver.url.rstrip("/") + target

    assert kind_of(send(url)) == "200"
    CurlAdapter(policy("127.0.0.0/8")).send(request(url), timeout=5)

    assert [received.path for received in receiver.requests] == [target, target]


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://h", "/"),
        ("http://h/", "/"),
        ("http://h:80?x=/y", "/?x=/y"),
        ("http://[::1]:80/a?b", "/a?b"),
        ("http://h/a//b/../c?d/e", "/a//b/../c?d/e"),
    ],
)
def test_target_of_a_url(url: str, target: str) -> None:
    assert request_target(url) == target
