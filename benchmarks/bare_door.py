"""Yardsticks for the door: the server that answers a constant, and one insert with its commit.

`/constant` does nothing; `/insert` reads the JSON, stores one row and commits; `/queue` also hands the
row to benchmarks.bare_worker. Django without middleware, as WSGI and as ASGI application.
"""

import json
import os
import uuid
from collections.abc import Callable
from typing import Any

import redis
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.urls import path

QUEUE = "bench:bare"
TABLES = """
    CREATE TABLE IF NOT EXISTS bare_event (
        id uuid PRIMARY KEY, payload bytea NOT NULL, claimed boolean NOT NULL DEFAULT false,
        finished_at timestamptz, created_at timestamptz NOT NULL DEFAULT clock_timestamp());
    CREATE TABLE IF NOT EXISTS bare_attempt (
        event_id uuid PRIMARY KEY, response_code int, at timestamptz NOT NULL DEFAULT clock_timestamp());
    TRUNCATE bare_event, bare_attempt
"""
INSERT = "INSERT INTO bare_event (id, payload) VALUES (%s, %s)"


def make_tables() -> None:
    """Create the tables of the yardsticks, or empty them."""
    with connection.cursor() as cursor:
        cursor.execute(TABLES)


def store(payload: bytes) -> str:
    """Insert one row, in a transaction of its own, and return its id."""
    event_id = str(uuid.uuid4())
    with connection.cursor() as cursor:
        cursor.execute(INSERT, [event_id, payload])
    return event_id


def hand_over(client: redis.Redis, event_id: str) -> None:
    client.rpush(QUEUE, event_id)


def constant(request: HttpRequest) -> HttpResponse:
    return _created("0")


def insert(request: HttpRequest) -> HttpResponse:
    return _created(_store_body(request))


def queue(request: HttpRequest) -> HttpResponse:
    event_id = _store_body(request)
    hand_over(_client, event_id)
    return _created(event_id)


def _store_body(request: HttpRequest) -> str:
    return store(json.dumps(json.loads(request.body)["data"]).encode())


def _created(event_id: str) -> HttpResponse:
    content = json.dumps({"id": event_id}).encode()
    headers = {"Content-Type": "application/json", "Content-Length": str(len(content))}
    return HttpResponse(content, status=201, headers=headers)


urlpatterns = [path("constant", constant), path("insert", insert), path("queue", queue)]


# The applications.

ANSWER = b'{"id":"0"}'
HEADERS = {"Content-Type": "application/json", "Content-Length": str(len(ANSWER))}


def alone(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    """The server alone: reads the body and answers a constant, without Django (WSGI)."""
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    start_response("201 Created", list(HEADERS.items()))
    return [ANSWER]


async def alone_asgi(scope: Any, receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
    """The same as ASGI application."""
    while (await receive()).get("more_body"):
        pass
    headers = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
    await send({"type": "http.response.start", "status": 201, "headers": headers})
    await send({"type": "http.response.body", "body": ANSWER})


def __getattr__(name: str) -> object:
    """Make one of Django's applications only where a server asks for it."""
    if name not in ("application", "asgi", "our_asgi"):
        raise AttributeError(name)
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    if name != "our_asgi":
        settings.ROOT_URLCONF = __name__
        settings.MIDDLEWARE = []
    if name == "application":
        return get_wsgi_application()
    # Each request has a thread of its own there, so that a kept connection would never be used again.
    settings.DATABASES["default"]["CONN_MAX_AGE"] = 0
    return get_asgi_application()


_client = redis.Redis.from_url(os.environ["REDIS_URL"])
