"""A shortcut before Django for the plainest of the door's requests (webhooks/api/door.py).

Django's request, its signals and the middleware cost more than the event itself. So this WSGI
application attempts plain requests with the door's functions, and responds if they succeed. All other
requests go to Django, with the attempt if there was one: then the door only responds.

Responses are the same to the byte. Their headers are learned: Django responds to the first plain
requests to each host, and what its middleware adds then is repeated. A project whose middleware must
see every request (one that refuses addresses, for example) does not use this application.
"""

from collections.abc import Callable, Iterable
from functools import cached_property
from http import HTTPStatus
from io import BytesIO
from typing import Any

from django.conf import settings
from django.db import close_old_connections, connection

from webhooks.api import throttles
from webhooks.api.context import request_id as current_request_id
from webhooks.api.door import (
    ACCEPTED,
    ATTEMPT,
    JSON_TYPES,
    KEY_HEADER,
    Asker,
    Attempt,
    Route,
    attempt,
    render,
    routes,
)
from webhooks.api.middleware import request_id_of
from webhooks.api.parsers import parse_strictly
from webhooks.outbox.tracing import continuing

MAX_LEARNED = 100
"""Hosts whose headers are known; requests to others go to Django."""
OWN_HEADERS = ("Location", "RateLimit", "RateLimit-Policy", "X-Request-ID", "Content-Length")
"""The headers that differ between two responses."""
UNUSUAL = (
    "QUERY_STRING", "HTTP_COOKIE", "HTTP_ORIGIN", "HTTP_TRANSFER_ENCODING", "HTTP_CONTENT_ENCODING",
)  # fmt: skip
"""A request with any of these goes to Django."""

Environ = dict[str, Any]
Application = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]
Headers = tuple[tuple[str, str], ...]


class Shortcut:
    """The WSGI application before Django's."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self._learned: dict[tuple[Any, ...], Headers] = {}
        """The headers of successes that do not differ, by what they may depend on."""
        self._seen: dict[tuple[Any, ...], Headers] = {}
        """The same after one response; a second one has to confirm them."""

    @cached_property
    def _routes(self) -> dict[str, Route]:
        # Only Django's requests know the path with a name that is set.
        return {} if settings.FORCE_SCRIPT_NAME else routes()

    @cached_property
    def _told_of_host(self) -> list[str]:
        """What the middleware learns of the host and the scheme."""
        names = ["HTTP_HOST", "SERVER_NAME", "SERVER_PORT", "wsgi.url_scheme"]
        forwarded = ["HTTP_X_FORWARDED_HOST", "HTTP_X_FORWARDED_PORT"]
        return [*names, *forwarded, *(settings.SECURE_PROXY_SSL_HEADER or ())[:1]]

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        route = self._routes.get(environ["PATH_INFO"]) if _is_plain(environ) else None
        if route is None:
            return self._application(environ, start_response)
        host = (route.path, *map(environ.get, self._told_of_host))
        headers = self._learned.get(host)
        if headers is None:
            return self._application(environ, self._learn(host, route, start_response))
        request_id = environ["HTTP_X_REQUEST_ID"] = request_id_of(environ)
        token = current_request_id.set(request_id)
        try:
            with continuing(environ):
                made = _attempt(route, environ)
        finally:
            current_request_id.reset(token)
        if made is None or made.problem is not None:
            environ[ATTEMPT] = made
            return self._application(environ, start_response)
        if not connection.in_atomic_block:
            # As at the end of Django's requests.
            close_old_connections()
        content = render(made.answer)
        own = {
            **route.location_of(made.answer, route.path),
            **throttles.headers_of(made.allowances),
            "X-Request-ID": request_id,
            "Content-Length": str(len(content)),
        }
        start_response(_status_line(route), [*headers, *own.items()])
        return [content]

    def _learn(
        self, host: tuple[Any, ...], route: Route, start_response: Callable[..., Any]
    ) -> Callable[..., Any]:
        """Return a start_response that learns the headers of a success."""

        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            if status == _status_line(route):
                found = tuple(pair for pair in headers if pair[0] not in OWN_HEADERS)
                if self._seen.get(host) == found:
                    self._learned[host] = found
                elif len(self._seen) < MAX_LEARNED:
                    self._seen[host] = found
            return start_response(status, headers, *rest)

        return start


def _is_plain(environ: Environ) -> bool:
    length = environ.get("CONTENT_LENGTH", "")
    return (
        environ["REQUEST_METHOD"] == "POST"
        and environ.get("CONTENT_TYPE", "").lower() in JSON_TYPES
        and environ.get("HTTP_ACCEPT", "*/*") in ACCEPTED
        and length.isascii()
        and length.isdecimal()
        and 0 < int(length[:20]) <= (settings.DATA_UPLOAD_MAX_MEMORY_SIZE or 0)
        and KEY_HEADER not in environ
        and not any(map(environ.get, UNUSUAL))
        and not environ.get("SCRIPT_NAME")
        # A function of the project's, for Django's requests.
        and not settings.WEBHOOKS_OWNER_OF_REQUEST
    )


def _attempt(route: Route, environ: Environ) -> Attempt | None:
    length = int(environ["CONTENT_LENGTH"])
    body = environ["wsgi.input"].read(length)
    environ["wsgi.input"] = BytesIO(body)
    if len(body) < length:
        return None

    def trigger(asker: Asker) -> dict[str, Any]:
        return route.trigger(asker, parse_strictly(body))

    return attempt(route, environ, trigger)


def _status_line(route: Route) -> str:
    return f"{route.status} {HTTPStatus(route.status).phrase}"
