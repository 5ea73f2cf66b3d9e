"""Following a feed through outages, and forwarding it signed."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.servers import Threaded, serving
from webhooks.errors import FeedRefusedError
from webhooks.outbox.feed import FeedEvent
from webhooks.workbench import listen
from webhooks.workbench.listen import Away, Forwarder, ServerSource, follow, signing_secret
from webhooks.workbench.receiver import Behaviour, HttpReceiver

TOKEN = "tok_canary"


class FeedServer:
    """An API that has some events and answers the next requests as told."""

    def __init__(self) -> None:
        self.root = "/api/v1"
        self.events = [event(number) for number in range(5)]
        self.answers: list[tuple[int, bytes]] = []
        self.requests: list[tuple[dict[str, list[str]], str | None]] = []

    def page(self, after: str | None) -> dict[str, Any]:
        if after is None:
            return {"events": [], "next": "0"}
        start = int(after)
        events = self.events[start : start + 2]
        return {"events": events, "next": str(start + len(events))}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @contextmanager
    def running(self) -> Iterator["FeedServer"]:
        feed = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                assert parts.path == f"{feed.root}/events/feed"
                query = parse_qs(parts.query)
                feed.requests.append((query, self.headers["Authorization"]))
                after = query.get("after", [None])[0]
                status, body = (
                    feed.answers.pop(0)
                    if feed.answers
                    else (200, json.dumps(feed.page(after)).encode())
                )
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                pass

        server = Threaded(("127.0.0.1", 0), Handler)
        self.port = server.server_address[1]
        with serving(server):
            yield self


def event(number: int) -> dict[str, str]:
    id_ = f"evt_{number:032x}"
    return {
        "id": id_,
        "type": "webhook.test",
        "createdAt": "2026-11-23T10:30:00.123Z",
        "payload": f'{{"id":"{id_}","data":{{"webhookId":"whk_1","message":"Zoë"}}}}',
    }


@pytest.fixture
def server() -> Iterator[FeedServer]:
    with FeedServer().running() as server:
        yield server


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen, "FIRST_BACKOFF_SECONDS", 0.01)
    monkeypatch.setattr(ServerSource, "poll_seconds", 0.01)


def take(source: ServerSource, count: int, after: str | None = "0") -> list[FeedEvent | Away]:
    stop = threading.Event()
    taken = []
    for one in follow(source, after, stop=stop):
        taken.append(one)
        if len(taken) == count:
            stop.set()
    return taken[:count]


def test_server_gives_every_event_once_with_its_bytes(server: FeedServer) -> None:
    source = ServerSource(server.url, TOKEN, ["project.*", "session.ended"])

    taken = take(source, 5)

    assert [one.id for one in taken if isinstance(one, FeedEvent)] == [
        one["id"] for one in server.events
    ]
    assert isinstance(taken[0], FeedEvent)
    assert taken[0].payload == server.events[0]["payload"].encode()
    query, authorization = server.requests[0]
    assert query == {"types": ["project.*", "session.ended"], "after": ["0"]}
    assert authorization == f"Bearer {TOKEN}"


@pytest.mark.parametrize("root", ["/api/v1", "/hooks/v2"])
@pytest.mark.parametrize("end", ["", "/"])
def test_api_of_a_server_may_be_at_any_path(server: FeedServer, root: str, end: str) -> None:
    server.root = root

    taken = take(ServerSource(f"{server.url}{root}{end}", TOKEN, ["*"]), 1)

    assert [one.id for one in taken if isinstance(one, FeedEvent)] == [server.events[0]["id"]]


def test_outages_leave_neither_gap_nor_repeat(server: FeedServer) -> None:
    server.answers = [(503, b""), (429, b"")]

    taken = take(ServerSource(server.url, TOKEN, ["*"]), 7)

    assert taken[:2] == [
        Away("The server answered 503.", 0.01),
        Away("The server answered 429.", 0.02),
    ]
    assert [one.id for one in taken if isinstance(one, FeedEvent)] == [
        one["id"] for one in server.events
    ]


def test_server_that_is_gone_is_waited_for() -> None:
    (away,) = take(ServerSource("http://127.0.0.1:1", TOKEN, ["*"]), 1)

    assert away == Away("The server does not answer: ConnectionError", 0.01)


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (401, b'{"detail": "Expired."}', "The server refuses the token (401). Expired."),
        (403, b"<html>", "The server refuses the token (403)."),
        (404, b"", "The server answered 404."),
        (302, b"", "The server answered 302."),
        (200, b"<html>", "answered with something else than a page of events."),
        (200, b'{"events": [{}], "next": "x"}', "something else than a page"),
    ],
)
def test_refusal_ends_it_in_words(
    server: FeedServer, status: int, body: bytes, message: str
) -> None:
    server.answers = [(status, body)]

    with pytest.raises(FeedRefusedError) as refused:
        take(ServerSource(server.url, TOKEN, ["*"]), 1)

    assert message in str(refused.value)
    assert TOKEN not in str(refused.value)


@pytest.mark.parametrize("server", ["http://api.example.com", "ftp://x", "api.example.com"])
def test_token_never_travels_in_the_clear(server: str) -> None:
    with pytest.raises(FeedRefusedError, match="only goes to https"):
        ServerSource(server, TOKEN, ["*"])


def forwarded_event() -> FeedEvent:
    one = event(1)
    return listen._read_page({"events": [one], "next": "1"}).events[0]


def test_forwarded_event_is_signed_and_untouched() -> None:
    secret = signing_secret("key")
    with HttpReceiver(secrets=[secret]) as receiver:
        answer = Forwarder(receiver.url + "hook", secret).send(forwarded_event())

    (received,) = receiver.requests
    assert (answer.status, answer.error, answer.succeeded) == (200, "", True)
    assert (received.standard_ok, received.hex_ok) == (True, True)
    assert received.body == forwarded_event().payload
    assert (received.event_id, received.event_type) == (f"evt_{1:032x}", "webhook.test")


def test_any_port_of_this_machine_is_allowed(settings: Any) -> None:
    settings.WEBHOOKS_ALLOWED_PORTS = [range(443, 444)]
    settings.WEBHOOKS_ALLOWED_NETWORKS = []

    with HttpReceiver() as receiver:
        assert Forwarder(receiver.url, signing_secret("key")).send(forwarded_event()).succeeded


def test_failing_receiver_is_told_apart() -> None:
    secret = signing_secret("key")
    with HttpReceiver(behaviour=Behaviour(status=500)) as receiver:
        answer = Forwarder(receiver.url, secret).send(forwarded_event())
    gone = Forwarder(receiver.url, secret).send(forwarded_event())

    assert (answer.status, answer.succeeded) == (500, False)
    assert (gone.status, gone.succeeded) == (None, False)
    assert gone.error.startswith("The receiver refused the connection")


def test_only_this_machine_is_allowed_beside_the_public(settings: Any) -> None:
    settings.WEBHOOKS_ALLOWED_NETWORKS = []

    answer = Forwarder("http://10.0.0.1:9/", signing_secret("key")).send(forwarded_event())

    assert answer.error == "The URL's host does not lead to a public address."


def test_secret_is_stable_and_differs_by_key() -> None:
    assert signing_secret("a") == signing_secret("a")
    assert signing_secret("a") != signing_secret("b")
