"""The door and the shortcut before Django answer what the view answers, to the byte; and it is they
who answer."""

import itertools
import json
import re
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.core.handlers.wsgi import WSGIRequest
from django.core.signals import request_started
from django.core.wsgi import get_wsgi_application
from django.db import close_old_connections, connection, transaction
from django.http import HttpResponse
from django.http.response import ResponseHeaders
from django.test.utils import CaptureQueriesContext
from rest_framework.test import APIClient

from projects.models import User
from tests.webhooks.api.conftest import MakeClient
from tests.webhooks.api.test_hostile_bodies import BOMBS
from webhooks import service
from webhooks.api import authentication, wishes
from webhooks.api.wsgi import Shortcut
from webhooks.doors import allowances
from webhooks.models import ApiToken, Event

DATA = {
    "id": "01935710-5a3c-7d2e-9f10-3b6c8e2a4d71",
    "name": "Website",
    "deletedAt": "2026-11-23T10:30:00.123Z",
}
NEW = {"type": "project.deleted", "data": DATA}
NOBODY = "01935710-5a3c-7d2e-9f10-000000000000"
DOOR = "webhooks.api.door.Door"
LIMIT = 2

BODIES: dict[str, Any] = {
    "an event": NEW,
    "an event with a key": NEW | {"idempotencyKey": "k"},
    "a key of spaces": NEW | {"idempotencyKey": "  "},
    "the longest key": NEW | {"idempotencyKey": "ä" * 255},
    "a type in spaces": NEW | {"type": " project.deleted\u2003"},
    "an empty type": NEW | {"type": ""},
    "a type of spaces": NEW | {"type": "  "},
    "a type that is too long": NEW | {"type": "x" * 101},
    "an unknown type": NEW | {"type": "project.exploded"},
    "a type that is a number": NEW | {"type": 1.5},
    "a type that is null": NEW | {"type": None},
    "a type that is a list": NEW | {"type": ["project.deleted"]},
    "no type": {"data": DATA},
    "no data": {"type": "project.deleted"},
    "data that is a list": NEW | {"data": []},
    "data that is a text": NEW | {"data": "x"},
    "data that is null": NEW | {"data": None},
    "data that does not fit": NEW | {"data": {"id": 1}},
    "data with more": NEW | {"data": DATA | {"more": 1}},
    "data that is too large": NEW | {"data": DATA | {"name": "x" * 262_144}},
    "data that is too deep": NEW | {"data": DATA | {"name": json.loads("[" * 33 + "]" * 33)}},
    "data of other scripts": NEW | {"data": DATA | {"name": "Ünïcode 😀 </script> \u2028\u2029"}},
    "a large integer": NEW | {"data": DATA | {"name": 10**4000}},
    "keys of all kinds": NEW | {"data": {"": 1, "__proto__": {}, "a.b": -0.0, "ä": 1e300}},
    "an unknown field": NEW | {"evil": 1},
    "two unknown fields": NEW | {"evil": 1, "event_type": "x"},
    "an empty key": NEW | {"idempotencyKey": ""},
    "a key that is too long": NEW | {"idempotencyKey": "x" * 256},
    "a key that is a number": NEW | {"idempotencyKey": 7},
    "a key that is null": NEW | {"idempotencyKey": None},
    "an object": NEW | {"object": "invoice:4711"},
    "an object of spaces": NEW | {"object": "  "},
    "the longest object": NEW | {"object": "ä" * 100},
    "an empty object": NEW | {"object": ""},
    "an object that is too long": NEW | {"object": "x" * 101},
    "an object with a NUL": NEW | {"object": "a\0b"},
    "an object with half a character": NEW | {"object": "\ud800"},
    "an object that is a number": NEW | {"object": 7},
    "an object that is null": NEW | {"object": None},
    "a user who is nobody": NEW | {"userId": NOBODY},
    "a user id that is none": NEW | {"userId": "nobody"},
    "a user id that is null": NEW | {"userId": None},
    "a user id that is a number": NEW | {"userId": 7},
    "nothing in it": {},
    "a list": [],
    "a list of events": [NEW],
    "a text": "x",
    "a number": 1,
    "null": None,
    "true": True,
    "a batch": {"events": [NEW, NEW]},
    "a batch with keys": {
        "events": [NEW | {"idempotencyKey": "k"}, NEW | {"idempotencyKey": "k"}, NEW]
    },
    "a batch with a conflict": {
        "events": [
            NEW | {"idempotencyKey": "k"},
            NEW | {"idempotencyKey": "k", "data": DATA | {"name": "b"}},
        ]
    },
    "a batch with objects": {
        "events": [
            NEW | {"object": "a", "idempotencyKey": "k"},
            NEW | {"object": "b", "idempotencyKey": "k"},
            NEW | {"object": ""}, NEW | {"object": "x" * 101}, NEW | {"object": "a\0b"},
            NEW | {"object": None},
        ]
    },
    "a batch of wrong ones": {
        "events": [
            None, 1, "x", [], {}, {"type": "project.exploded", "data": {}}, NEW | {"evil": 1},
            NEW | {"userId": 7}, NEW | {"userId": "x"}, NEW | {"data": {}}, NEW | {"type": ""}, NEW,
        ]
    },
    "a batch for nobody": {"events": [NEW | {"userId": NOBODY}, NEW]},
    "an empty batch": {"events": []},
    "the largest batch": {"events": [1] * 1000},
    "a batch that is too large": {"events": [NEW] * 1001},
    "a batch that is an object": {"events": {}},
    "a batch that is null": {"events": None},
    "a batch that is a text": {"events": "x"},
    "a batch with more": {"events": [NEW], "evil": 1},
}  # fmt: skip
RAW = {
    f"raw: {name}": body for name, body in BOMBS.items() if len(body) < 1_000_000
} | {
    "raw: spaces and escapes": b' {\n"type" : "project.deleted" ,"data":'
    + json.dumps(DATA | {"name": "\u00e9\u2028 </a>"}).encode()
    + b"}\t",
    "raw: numbers as they are": b'{"type":"project.deleted","data":{"id":1.0,"name":1E5,"x":-0}}',
    "raw: more than a megabyte": b'"' + b"x" * 1_048_576 + b'"',
    "raw: a key twice in the data": b'{"type":"project.deleted","data":{"id":1,"id":1}}',
    "raw: cut off": json.dumps(NEW).encode()[:-1],
}  # fmt: skip
CASES = {name: json.dumps(body).encode() for name, body in BODIES.items()} | RAW
HEADERS: dict[str, dict[str, str]] = {
    "no token": {"HTTP_AUTHORIZATION": ""},
    "an unknown token": {"HTTP_AUTHORIZATION": "Bearer rdai_" + "0" * 64},
    "a token of nothing": {"HTTP_AUTHORIZATION": "Bearer "},
    "two tokens": {"HTTP_AUTHORIZATION": "Bearer a b"},
    "a NUL for a token": {"HTTP_AUTHORIZATION": "Bearer a\0b"},
    "a token beyond ASCII": {"HTTP_AUTHORIZATION": "Bearer \u00e9"},
    "a password": {"HTTP_AUTHORIZATION": "Basic YWRhOndyb25n"},
    "another type": {"CONTENT_TYPE": "application/x-www-form-urlencoded"},
    "no type": {"CONTENT_TYPE": ""},
    "a type with its charset": {"CONTENT_TYPE": "application/json; charset=UTF-8"},
    "a type with another charset": {"CONTENT_TYPE": "application/json; charset=latin-1"},
    "JSON wanted": {"HTTP_ACCEPT": "application/json"},
    "anything wanted": {"HTTP_ACCEPT": "application/*, */*;q=0.5"},
    "a picture wanted": {"HTTP_ACCEPT": "image/png"},
    "nothing wanted": {"HTTP_ACCEPT": ""},
    "a parameter": {"QUERY_STRING": "a=1"},
    "a format": {"QUERY_STRING": "format=json"},
    "a cookie": {"HTTP_COOKIE": "sessionid=abc"},
    "a key": {"HTTP_IDEMPOTENCY_KEY": "k"},
    "a bad key": {"HTTP_IDEMPOTENCY_KEY": "a b"},
    "an empty key": {"HTTP_IDEMPOTENCY_KEY": ""},
    "a foreign host": {"HTTP_HOST": "evil.example"},
    "an impossible host": {"HTTP_HOST": "a b"},
    "a body in chunks": {"HTTP_TRANSFER_ENCODING": "chunked"},
    "a compressed body": {"HTTP_CONTENT_ENCODING": "gzip"},
    "no length": {"CONTENT_LENGTH": ""},
    "a length of nothing": {"CONTENT_LENGTH": "0"},
    "a length that is none": {"CONTENT_LENGTH": "x"},
    "a length that is too short": {"CONTENT_LENGTH": "10"},
    "over TLS": {"wsgi.url_scheme": "https"},
}
PATHS = ("/api/v1/events", "/api/v1/events/batch")

Ask = Callable[..., list[HttpResponse]]


class BeforeDjango:
    """A handler for a test client: the WSGI application with the shortcut before Django."""

    def __init__(self) -> None:
        self.seen_by_django: list[dict[str, Any]] = []
        django_application = get_wsgi_application()

        def application(environ: dict[str, Any], start_response: Any) -> Any:
            self.seen_by_django.append(environ)
            return django_application(environ, start_response)

        self._application = Shortcut(application)

    def __call__(self, environ: dict[str, Any]) -> HttpResponse:
        answer = HttpResponse()

        def start_response(status: str, headers: list[tuple[str, str]], *_: Any) -> None:
            code, answer.reason_phrase = status.split(" ", 1)
            answer.status_code = int(code)
            answer.headers = ResponseHeaders(dict(headers))
            # The test client keeps cookies apart.
            answer.headers.pop("Set-Cookie", None)

        # As Django's test client does: the test's transaction must go on.
        request_started.disconnect(close_old_connections)
        try:
            answer.content = b"".join(self._application(environ, start_response))
        finally:
            request_started.connect(close_old_connections)
        answer.wsgi_request = WSGIRequest(environ)  # type: ignore[attr-defined]
        return answer


def before_django(token: str, **told: str) -> APIClient:
    """Return a client of a WSGI application that has learned the headers."""
    client = APIClient(raise_request_exception=False)
    client.handler = BeforeDjango()  # type: ignore[assignment]
    with transaction.atomic():
        for path, body in zip(PATHS, (NEW, {"events": [NEW]}), strict=True):
            for _ in range(2):
                _post(client, path, json.dumps(body).encode(), token, {})
        transaction.set_rollback(True)
    client.handler.seen_by_django.clear()  # type: ignore[attr-defined]
    return client


@pytest.fixture
def ask(user: User, make_token: Callable[..., str], settings: Any) -> Ask:
    """Send a request to the view and to the door, from the same state; returns both answers.

    The shortcut before Django must answer like the door.
    """
    token = make_token(user)

    def ask_both(path: str, body: bytes, times: int = 1, **told: str) -> list[HttpResponse]:
        answers: list[HttpResponse] = []
        without_door = [name for name in with_door if name != DOOR]
        for middleware in (without_door, with_door, with_door):
            settings.MIDDLEWARE = middleware
            client = APIClient(raise_request_exception=False)
            if len(answers) == 2 * times:
                client = learned
            allowances.counter._known.clear()
            with transaction.atomic():
                for _ in range(times):
                    answers.append(_post(client, path, body, token, told))
                transaction.set_rollback(True)
        of_view, of_door, of_shortcut = answers[times - 1 :: times]
        assert readable(of_shortcut) == readable(of_door)
        return [of_view, of_door]

    learned = before_django(token)
    with_door = list(django_settings.MIDDLEWARE)
    assert DOOR in with_door
    return ask_both


@pytest.mark.parametrize("path", PATHS)
def test_plain_requests_never_reach_django(
    user: User, make_token: Callable[..., str], path: str
) -> None:
    client = before_django(token := make_token(user))
    seen = client.handler.seen_by_django  # type: ignore[attr-defined]
    body = json.dumps(NEW if path == PATHS[0] else {"events": [NEW]}).encode()

    assert _post(client, path, body, token, {}).status_code in (200, 201)
    assert seen == []

    for told in HEADERS.values():
        _post(client, path, body, token, told)
    usual = {"a type with its charset", "JSON wanted"}
    assert len(seen) == len(HEADERS) - len(usual)


def test_headers_that_change_are_not_repeated(
    user: User, make_token: Callable[..., str], settings: Any
) -> None:
    settings.MIDDLEWARE = [f"{__name__}.count_requests", *settings.MIDDLEWARE]
    client = before_django(token := make_token(user))

    counts = [_post(client, PATHS[0], CASES["an event"], token, {})["X-Count"] for _ in range(3)]

    assert len(set(counts)) == 3


def count_requests(get_response: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    numbers = itertools.count()

    def middleware(request: Any) -> HttpResponse:
        response = get_response(request)
        response["X-Count"] = str(next(numbers))
        return response

    return middleware


def _post(
    client: APIClient, path: str, body: bytes, token: str, told: dict[str, str]
) -> HttpResponse:
    told = {
        "HTTP_AUTHORIZATION": f"Bearer {token}",
        "CONTENT_TYPE": "application/json",
        "HTTP_X_REQUEST_ID": "same",
    } | told
    return client.generic("POST", path, body, told["CONTENT_TYPE"], **told)  # type: ignore[arg-type]


def readable(answer: HttpResponse) -> tuple[int, str, dict[str, str], str]:
    """Return all of an answer but its ids and times."""

    def without_ids(text: str) -> str:
        return re.sub(r"evt_[0-9a-f]{32}", "evt_", text)

    text = without_ids(answer.content.decode())
    headers = {name: without_ids(value) for name, value in answer.headers.items()}
    text = re.sub(r'"createdAt":"[^"]+"', '"createdAt":""', text)
    return answer.status_code, answer.reason_phrase, headers, text


def is_of_door(answer: HttpResponse) -> bool:
    return not hasattr(answer, "renderer_context")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", CASES)
def test_bodies_are_answered_alike(ask: Ask, path: str, name: str) -> None:
    of_view, of_door = ask(path, CASES[name])

    assert readable(of_door) == readable(of_view)
    assert is_of_door(of_door)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", HEADERS)
def test_headers_are_answered_alike(ask: Ask, path: str, name: str) -> None:
    body = json.dumps(NEW if path == PATHS[0] else {"events": [NEW]}).encode()

    of_view, of_door = ask(path, body, **HEADERS[name])

    assert readable(of_door) == readable(of_view)


@pytest.mark.parametrize("name", ["an event with a key", "a batch with keys", "a key of spaces"])
def test_known_keys_are_answered_alike(ask: Ask, name: str) -> None:
    path = PATHS["batch" in name]

    of_view, of_door = ask(path, CASES[name], times=2)

    assert readable(of_door) == readable(of_view)
    assert of_door.status_code in (200, 201)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("key", ["k", "a b", "", "x" * 256])
@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("name", ["an event", "a batch", "data that does not fit", "a list"])
def test_idempotency_keys_are_answered_alike(
    ask: Ask, path: str, key: str, times: int, name: str
) -> None:
    of_view, of_door = ask(path, CASES[name], times=times, HTTP_IDEMPOTENCY_KEY=key)

    assert readable(of_door) == readable(of_view)
    is_done = key == "k" and name == ("an event", "a batch")["batch" in path]
    assert ("Idempotency-Replayed" in of_door.headers) == (is_done and times > 1)
    assert is_of_door(of_door)


def test_key_of_another_request_is_refused_alike(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    post, bodies = _post, itertools.cycle([CASES["an event"], CASES["a list"]])
    monkeypatch.setattr(
        f"{__name__}._post", lambda client, path, _, *rest: post(client, path, next(bodies), *rest)
    )

    of_view, of_door = ask(PATHS[0], b"", times=2, HTTP_IDEMPOTENCY_KEY="k")

    assert readable(of_door) == readable(of_view)
    assert of_door.status_code == 409
    assert is_of_door(of_door)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("authorization", [None, "Bearer rdai_0"])
@pytest.mark.parametrize("times", [LIMIT, LIMIT + 1])
def test_limits_are_told_alike(
    ask: Ask, settings: Any, path: str, authorization: str | None, times: int
) -> None:
    settings.WEBHOOKS_API_REQUESTS_PER_MINUTE = {"token": LIMIT, "user": 9, "refused": LIMIT}
    told = {} if authorization is None else {"HTTP_AUTHORIZATION": authorization}

    of_view, of_door = ask(path, CASES["an event"], times=times, **told)

    assert readable(of_door) == readable(of_view)
    assert (of_door.status_code == 429) == (times > LIMIT)
    assert is_of_door(of_door)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("scopes", [("read",), ("write",), ("read", "write")])
def test_scopes_are_asked_for_alike(
    ask: Ask, make_token: Callable[..., str], user: User, path: str, scopes: tuple[str, ...]
) -> None:
    token = make_token(user, *scopes)

    of_view, of_door = ask(path, CASES["an event"], HTTP_AUTHORIZATION=f"Bearer {token}")

    assert readable(of_door) == readable(of_view)
    assert of_door.status_code == 403


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", ["an event", "a user who is nobody", "a batch for nobody"])
def test_service_tokens_are_answered_alike(
    ask: Ask, make_token: Callable[..., str], staff: User, path: str, name: str
) -> None:
    token = make_token(staff, is_service=True)

    of_view, of_door = ask(path, CASES[name], HTTP_AUTHORIZATION=f"Bearer {token}")

    assert readable(of_door) == readable(of_view)


@pytest.mark.parametrize("path", PATHS)
def test_crashes_are_answered_alike(ask: Ask, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setattr("webhooks.api.wishes.is_service", lambda _: 1 / 0)
    body = CASES["an event" if path == PATHS[0] else "a batch"]

    of_view, of_door = ask(path, body)

    assert readable(of_door) == readable(of_view)
    assert of_door.status_code == 500


def test_the_same_bytes_are_stored_by_both(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    stored: list[list[Any]] = []
    post = _post

    def post_and_look(*arguments: Any) -> HttpResponse:
        answer = post(*arguments)
        stored.append(
            [
                (bytes(event.payload)[37:].partition(b'"data":')[2], event.is_self_reported)
                for event in Event.objects.filter(type="project.deleted")
            ]
        )
        return answer

    monkeypatch.setattr(f"{__name__}._post", post_and_look)
    ask(PATHS[0], RAW["raw: spaces and escapes"])

    assert stored[0] == stored[1]
    assert len(stored[0]) == 1


@pytest.mark.parametrize("microsecond", [0, 120_000, 123_456])
@pytest.mark.parametrize("key", [None, "k"])
def test_events_are_shown_as_in_lists(user: User, key: str | None, microsecond: int) -> None:
    event = service.trigger_event("project.deleted", user, DATA, key)
    event.created_at = event.created_at.replace(microsecond=microsecond)

    shown, listed = wishes.show(event), wishes.EventSerializer(event).data

    assert shown == listed
    assert list(shown) == list(listed)


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"])
@pytest.mark.parametrize("path", PATHS)
def test_other_methods_are_the_views(client: APIClient, path: str, method: str) -> None:
    assert not is_of_door(client.generic(method, path))


# What many tenants cost.


def test_tokens_in_use_are_read_together(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch, db: None
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(authentication, "KNOWN_SECONDS", 1.0)
    clients = [
        make_client(User.objects.create(username=name, email=f"{name}@example.com"))
        for name in ("a", "b", "c", "d")
    ]

    def statements() -> int:
        with CaptureQueriesContext(connection) as queries:
            for client in clients:
                assert client.post("/api/v1/events", NEW).status_code == 201
        return len(queries)

    statements(), statements()
    known = statements()
    clock[0] += 1.0

    assert statements() == known + 1


@pytest.mark.parametrize("change", ["revoked", "inactive", "without the scope"])
def test_what_changes_of_a_token_holds_within_a_second(
    user: User, client: APIClient, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(authentication, "KNOWN_SECONDS", 1.0)
    for _ in range(2):
        assert client.post("/api/v1/events", NEW).status_code == 201

    if change == "revoked":
        ApiToken.objects.all().delete()
    elif change == "inactive":
        User.objects.update(is_active=False)
    else:
        ApiToken.objects.update(scopes=["read"])
    clock[0] += 1.0

    assert client.post("/api/v1/events", NEW).status_code in (401, 403)
    assert Event.objects.filter(type="project.deleted").count() == 2


def test_threads_that_come_together_reserve_once(monkeypatch: pytest.MonkeyPatch) -> None:
    counter = allowances.Counter()
    taken: list[int] = []
    gate = threading.Barrier(8)

    def add(key: str, step: int, last: int, seconds: int) -> int:
        time.sleep(0.01)  # as Valkey does: the others come meanwhile
        taken.append(step)
        return last + step

    def hit() -> None:
        gate.wait()
        counter.hit("a", 1200)

    monkeypatch.setattr(counter, "_add", add)
    threads = [threading.Thread(target=hit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert taken == [13]
