"""The receivers' own distribution, behind real servers of Django, Flask and FastAPI."""

import json
import select
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from wsgiref.simple_server import WSGIRequestHandler, make_server

import psycopg
import pytest
import requests
import uvicorn
import webhooks_receive
import webhooks_receive.django
import webhooks_receive.fastapi
import webhooks_receive.flask
from django.core.handlers.wsgi import WSGIHandler
from django.db import connection, connections
from django.urls import path
from fastapi import FastAPI
from flask import Flask
from webhooks_receive.connections import transaction

from webhooks.wire import signing

SECRET = signing.generate_secret()
NEXT = signing.generate_secret()
PRIVATE = signing.Ed25519Key.from_text(signing.generate_private_key())
BODY = json.dumps({"id": "evt_1", "type": "order.paid", "data": {"total": 25}}).encode()
urlpatterns: list[Any] = []


def handle(event: dict[str, Any], connection: Any) -> None:
    """Keep an order; one that cannot be kept is written first, to be rolled back."""
    place = "?" if isinstance(connection, sqlite3.Connection) else "%s"
    sql = f"INSERT INTO orders VALUES ({place})"  # noqa: S608 (one of two placeholders)
    connection.cursor().execute(sql, [event["id"]])
    if event["type"] == "order.broken":
        raise RuntimeError("This order cannot be kept.")


def signed(
    body: bytes = BODY, event_id: str = "evt_1", *, secret: str = SECRET, at: float | None = None
) -> dict[str, str]:
    moment = int(time.time() if at is None else at)
    key = signing.load_key(secret)
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(moment),
        "webhook-signature": signing.sign_standard([key], event_id, moment, body),
    }


class Receiver:
    """A served application, with the connection by which the test looks at its database."""

    def __init__(self, url: str, connect: Callable[[], Any]) -> None:
        self.url, self.connect = url, connect

    def post(self, body: bytes = BODY, headers: dict[str, str] | None = None) -> int:
        told = signed(body) if headers is None else headers
        return requests.post(self.url, data=body, headers=told, timeout=10).status_code

    @property
    def orders(self) -> list[str]:
        connection = self.connect()
        found = connection.cursor().execute("SELECT id FROM orders ORDER BY id").fetchall()
        connection.close()
        return [row[0] for row in found]


def sqlite(tmp_path: Path) -> Callable[[], Any]:
    return lambda: sqlite3.connect(tmp_path / "orders.sqlite", timeout=10)


def postgres(_: Path) -> Callable[[], Any]:
    told = connection.get_connection_params()
    wanted = ("host", "port", "user", "password", "dbname")
    found = {name: told[name] for name in wanted if told.get(name)}
    return lambda: psycopg.connect(**found)


def serve_wsgi(application: Any) -> Iterator[str]:
    class Quiet(WSGIRequestHandler):
        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    with make_server("127.0.0.1", 0, application, handler_class=Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/webhook"
        server.shutdown()


def serve_flask(connect: Callable[[], Any]) -> Iterator[str]:
    app = Flask("receiver")
    view = webhooks_receive.flask.endpoint(secrets=[SECRET, NEXT], connect=connect, handle=handle)
    app.post("/webhook")(view)
    yield from serve_wsgi(app)


def serve_fastapi(connect: Callable[[], Any]) -> Iterator[str]:
    app = FastAPI()
    route = webhooks_receive.fastapi.endpoint(
        secrets=[SECRET, NEXT], connect=connect, handle=handle
    )
    app.post("/webhook")(route)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/webhook"
    server.should_exit = True
    thread.join(10)


def serve_django(_: Callable[[], Any]) -> Iterator[str]:
    view = webhooks_receive.django.endpoint(secrets=[SECRET, NEXT], handle=handle)
    urlpatterns[:] = [path("webhook", view)]
    handler = WSGIHandler()

    def application(environ: Any, start_response: Any) -> list[bytes]:
        try:
            return list(handler(environ, start_response))
        finally:
            # Or the serving thread would keep its connection, and with it the test's database.
            connections.close_all()

    yield from serve_wsgi(application)


@pytest.fixture(
    params=[
        ("flask", serve_flask, sqlite),
        ("flask", serve_flask, postgres),
        ("fastapi", serve_fastapi, sqlite),
        ("fastapi", serve_fastapi, postgres),
        ("django", serve_django, postgres),
    ],
    ids=lambda param: f"{param[0]}-{param[2].__name__}",
)
def receiver(
    request: pytest.FixtureRequest, tmp_path: Path, transactional_db: None, settings: Any
) -> Iterator[Receiver]:
    settings.ROOT_URLCONF = __name__
    settings.MIDDLEWARE = []
    settings.ALLOWED_HOSTS = ["*"]
    _, serve, database = request.param
    connect = database(tmp_path)
    own = connect()
    webhooks_receive.create_table(own)
    own.cursor().execute("CREATE TABLE IF NOT EXISTS orders (id varchar(50))")
    own.commit()
    own.close()
    serving = serve(connect)
    yield Receiver(next(serving), connect)
    assert next(serving, None) is None
    own = connect()
    for table in ("orders", "webhooks_received"):
        own.cursor().execute(f"DROP TABLE {table}")
    own.commit()
    own.close()


def test_an_event_is_handled_once(receiver: Receiver) -> None:
    assert [receiver.post() for _ in range(3)] == [204, 204, 204]
    assert receiver.orders == ["evt_1"]
    again = signed(secret=NEXT)
    assert receiver.post(headers=again) == 204, "during a rotation either secret signs"
    assert receiver.orders == ["evt_1"]


def test_of_several_at_once_one_is_handled(receiver: Receiver) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: receiver.post(), range(16))) == {204}
    assert receiver.orders == ["evt_1"]


def test_what_fails_leaves_nothing_and_may_come_again(receiver: Receiver) -> None:
    broken = BODY.replace(b"order.paid", b"order.broken")
    assert receiver.post(broken) == 500
    assert receiver.orders == []
    assert receiver.post() == 204
    assert receiver.orders == ["evt_1"]


def test_a_batch_is_handled_event_by_event(receiver: Receiver) -> None:
    assert receiver.post() == 204
    events = [{"id": f"evt_{number}", "type": "order.paid"} for number in (1, 2, 3)]
    body = json.dumps(events).encode()
    headers = signed(body, "bat_1") | {"X-Webhook-Batch": "3"}
    assert receiver.post(body, headers) == 204
    assert receiver.orders == ["evt_1", "evt_2", "evt_3"]


def test_only_the_signed_id_tells_a_batch(receiver: Receiver) -> None:
    events = [{"id": f"evt_{number}", "type": "order.paid"} for number in (2, 3)]
    body = json.dumps(events).encode()
    assert receiver.post(body, signed(body, "bat_1")) == 204, "a proxy dropped a header"
    assert receiver.post(headers=signed() | {"X-Webhook-Batch": "1"}) == 204
    assert receiver.orders == ["evt_1", "evt_2", "evt_3"]


def test_the_largest_batch_is_taken(receiver: Receiver) -> None:
    events = [{"id": f"evt_{n}", "type": "order.paid", "data": "x" * 1_990_000} for n in (1, 2)]
    body = json.dumps(events).encode()
    assert receiver.post(body, signed(body, "bat_1")) == 204
    assert receiver.orders == ["evt_1", "evt_2"]


def test_a_body_without_end_is_not_awaited(receiver: Receiver) -> None:
    parts = urlsplit(receiver.url)
    head = "POST /webhook HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n"
    with socket.create_connection((parts.hostname, parts.port), timeout=20) as client:
        client.sendall(head.encode())
        for _ in range(70):
            if select.select([client], [], [], 0.01)[0]:
                break
            client.sendall(b"x" * 65536)
        assert client.recv(100).split()[1] == b"413"


def hex_family(body: bytes) -> dict[str, str]:
    """The other family of headers, rightly signed: it is not looked at."""
    moment = int(time.time())
    key = signing.SigningKey.from_secret(SECRET)
    return {
        "X-Webhook-Signature": signing.sign_hex(key, moment, body),
        "X-Webhook-Timestamp": str(moment),
        "X-Webhook-ID": "evt_1",
    }


REFUSED: dict[str, Callable[[], dict[str, str]]] = {
    "unsigned": dict,
    "of another body": lambda: signed(b"{}"),
    "of another id": lambda: signed() | {"webhook-id": "evt_2"},
    "by a stranger": lambda: signed(secret=signing.generate_secret()),
    "stale": lambda: signed(at=time.time() - 400),
    "ahead": lambda: signed(at=time.time() + 400),
    "without a moment": lambda: signed() | {"webhook-timestamp": "now"},
    "of the other family": lambda: hex_family(BODY),
    "wrong, and right in the other family": lambda: (
        hex_family(BODY) | signed(secret=signing.generate_secret())
    ),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_is_not_signed_freshly_is_refused(receiver: Receiver, why: str) -> None:
    assert receiver.post(headers=REFUSED[why]()) == 401
    assert receiver.orders == []


@pytest.mark.parametrize("serve", [serve_flask, serve_fastapi])
def test_a_stranger_opens_no_connection(serve: Callable[[Any], Iterator[str]]) -> None:
    def connect() -> Any:
        pytest.fail("A connection was opened.")

    serving = serve(connect)
    assert requests.post(next(serving), data=BODY, timeout=10).status_code == 401
    assert next(serving, None) is None


def test_each_kind_of_secret_accepts_its_own_signatures() -> None:
    moment = int(time.time())
    headers = {
        "webhook-id": "evt_1",
        "webhook-timestamp": str(moment),
        "webhook-signature": signing.sign_standard([PRIVATE], "evt_1", moment, BODY),
    }
    public = PRIVATE.public_text

    assert webhooks_receive.verify(public, headers, BODY)
    assert not webhooks_receive.verify(public, signed(), BODY)
    assert not webhooks_receive.verify(SECRET, headers, BODY)
    # The public key is no secret: nobody may sign v1 with its bytes.
    as_secret = public.replace("whpk_", "whsec_")
    assert not webhooks_receive.verify(public, signed(secret=as_secret), BODY)


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
@pytest.mark.parametrize("text", ["v1,\xe9", "v1a,\xe9", "\udcff", "\xb2"], ids=range(4))
@pytest.mark.parametrize("secret", [SECRET, PRIVATE.public_text], ids=["shared", "public"])
def test_what_no_sender_writes_is_no_signature(name: str, text: str, secret: str) -> None:
    assert not webhooks_receive.verify(secret, signed() | {name: text}, BODY)


@pytest.mark.parametrize("secrets", [[], "", "whsec_", "whsec_short", "abc", ["whsec_!"]])
def test_a_malformed_secret_is_an_error(secrets: Any) -> None:
    with pytest.raises(ValueError, match="secret"):
        webhooks_receive.verify(secrets, signed(), BODY)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("database", [sqlite, postgres])
def test_a_connection_that_commits_at_once_loses_no_event(
    database: Callable[[Path], Callable[[], Any]], tmp_path: Path
) -> None:
    connect = database(tmp_path)

    def at_once() -> Any:
        connection = connect()
        if isinstance(connection, sqlite3.Connection):
            connection.isolation_level = None
        else:
            connection.autocommit = True
        return connection

    with closing(connect()) as own:
        webhooks_receive.create_table(own)
        own.commit()
    with pytest.raises(ValueError, match="without autocommit"), transaction(at_once) as one:
        webhooks_receive.receive(SECRET, signed(), BODY, one, lambda *_: 1 / 0)
    with closing(connect()) as own:
        assert own.execute("SELECT id FROM webhooks_received").fetchall() == []
        own.execute("DROP TABLE webhooks_received")
        own.commit()


def test_old_ids_are_forgotten(tmp_path: Path) -> None:
    own = sqlite(tmp_path)()
    webhooks_receive.create_table(own)
    own.execute("INSERT INTO webhooks_received VALUES ('old', ?)", [int(time.time()) - 8 * 86400])
    own.execute("INSERT INTO webhooks_received VALUES ('new', ?)", [int(time.time())])

    webhooks_receive.forget(own, days=7)

    assert own.execute("SELECT id FROM webhooks_received").fetchall() == [("new",)]
    own.close()
