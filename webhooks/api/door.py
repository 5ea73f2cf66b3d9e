"""A short path for `POST /events` and `/events/batch`: no view, no renderer, no session.

The door handles usual requests: a bearer token, a JSON body, a JSON response. Any other request,
and one whose token lacks the scope, goes on to the view (webhooks/api/events.py). Both respond with
the same bytes, because both check tokens, count requests, read bodies, store events and name
problems with the same functions. The door stands before the session middleware, and behind the
middleware that sets the headers of every response.

A server that puts webhooks/api/wsgi.py before Django has the plainest of these requests attempted
there; the door then only responds to those that failed.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from http import HTTPStatus
from typing import Any

from django.conf import settings
from django.core.exceptions import DisallowedHost
from django.http import HttpRequest, HttpResponse
from django.http.request import HttpHeaders
from django.urls import Resolver404, resolve
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.response import Response

from webhooks.api import throttles, wishes
from webhooks.api.authentication import BearerAuthentication, check_token
from webhooks.api.events import EventViewSet
from webhooks.api.idempotency import HEADER, answer_once
from webhooks.api.middleware import GetResponse, answer_crash
from webhooks.api.parsers import parse_strictly, read_body
from webhooks.api.problems import CONTENT_TYPE, answer_exception
from webhooks.api.renderers import ApiRenderer
from webhooks.doors import api_paths
from webhooks.doors.allowances import Allowance, take_refusal
from webhooks.models import ApiToken

JSON_TYPES = {"application/json", "application/json; charset=utf-8"}
ACCEPTED = {"*/*", "application/json"}
KEY_HEADER = "HTTP_" + HEADER.upper().replace("-", "_")

ATTEMPT = "webhooks.attempt"
"""The key of the WSGI environment for an attempt that was made before Django."""

AUTHENTICATE = BearerAuthentication.scheme

Trigger = Callable[[Any, Any], dict[str, Any]]


class Route:
    """One of the two paths: its action, and the attributes of its view."""

    def __init__(self, path: str, status: int, trigger: Trigger, actions: dict[str, str]) -> None:
        self.path, self.status, self.trigger = path, status, trigger
        view = EventViewSet()
        for method, action in actions.items():
            setattr(view, method, getattr(view, action))
        if "get" in actions:
            view.head = view.get  # type: ignore[attr-defined]
        self.headers = view.default_response_headers
        self.scopes = EventViewSet.action_scopes[actions["post"]]

    def location_of(self, shown: dict[str, Any], path: str) -> dict[str, str]:
        """Return the header that names what a request to this path made, if it made one thing."""
        is_one = self.status == HTTPStatus.CREATED
        return {"Location": f"{path}/{shown['id']}"} if is_one else {}


def routes() -> dict[str, Route]:
    """Return the routes by path; none where another view of the project takes a path of ours."""
    found = {}
    for root in api_paths.roots():
        for path, status, trigger in (
            (f"{root}events", 201, wishes.trigger_one),
            (f"{root}events/batch", 200, wishes.trigger_many),
        ):
            with suppress(Resolver404):
                view: Any = resolve(path, settings.ROOT_URLCONF).func
                if getattr(view, "cls", None) is EventViewSet:
                    found[path] = Route(path, status, trigger, view.actions)
    return found


class Door:
    """Middleware that responds to the usual requests itself."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    @cached_property
    def _routes(self) -> dict[str, Route]:
        return routes()

    def __call__(self, request: HttpRequest) -> HttpResponse:
        route = self._routes.get(request.path_info) if _is_usual(request) else None
        answer = _answer(request, route) if route else None
        if answer is None:
            return self.get_response(request)
        answer["Content-Length"] = str(len(answer.content))
        return answer


def _is_usual(request: HttpRequest) -> bool:
    told = request.META
    return (
        request.method == "POST"
        and told.get("CONTENT_TYPE", "").lower() in JSON_TYPES
        and told.get("HTTP_ACCEPT", "*/*") in ACCEPTED
        and told.get("CONTENT_LENGTH", "").strip("0").isdecimal()
        and not told.get("QUERY_STRING")
        and not told.get("HTTP_COOKIE")
        and _has_known_host(request)
    )


def _has_known_host(request: HttpRequest) -> bool:
    try:
        request.get_host()
    except DisallowedHost:
        return False
    return True


@dataclass(slots=True)
class Asker:
    """A request's environment and, once it is known, its token."""

    META: dict[str, Any]
    auth: ApiToken | None = None

    @property
    def user(self) -> Any:
        return None if self.auth is None else self.auth.user

    @property
    def headers(self) -> HttpHeaders:
        return HttpHeaders(self.META)


@dataclass(slots=True)
class Attempt:
    """What came of a request: `answer` is set, or `problem`."""

    answer: Any = None
    problem: Exception | None = None
    allowances: list[Allowance] = field(default_factory=list)


def attempt(
    route: Route, environ: dict[str, Any], trigger: Callable[[Asker], Any]
) -> Attempt | None:
    """Check the token and the limits and call `trigger` for the answer; None leaves it to the view."""
    text = _bearer_of(environ)
    if text is None:
        return None
    made, asker = Attempt(), Asker(environ)
    try:
        token = asker.auth = _authenticate(asker, text, made.allowances)
        if any(scope not in token.scopes for scope in route.scopes):
            return None
        made.allowances.append(throttles.take_of(token))
        throttles.check(made.allowances)
        of_user = throttles.take_of_user(token.user_id)
        if of_user.is_exceeded:
            made.allowances.append(of_user)
            throttles.check(made.allowances)
        made.answer = trigger(asker)
    except Exception as problem:  # as the framework does: each becomes an answer
        made.problem = problem
    return made


def _bearer_of(environ: Mapping[str, Any]) -> str | None:
    """Return the text of the token, or None if the view must judge the header."""
    prefix, _, text = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    return text if prefix == "Bearer" and text.isascii() and text.split() == [text] else None


def _authenticate(asker: Asker, text: str, allowances: list[Allowance]) -> ApiToken:
    try:
        return check_token(text.encode())
    except AuthenticationFailed as refusal:
        allowances.append(take_refusal(asker))
        throttles.check(allowances)
        refusal.auth_header = AUTHENTICATE  # type: ignore[attr-defined]
        raise


def _answer(request: HttpRequest, route: Route) -> HttpResponse | None:
    """Return the response, or None to leave it to the view."""

    def trigger(asker: Asker) -> HttpResponse:
        request.user, request.auth = asker.user, asker.auth  # type: ignore[attr-defined]
        return _trigger(request, route)

    made = request.META.get(ATTEMPT) or attempt(route, request.META, trigger)
    if made is None:
        return None
    answer, headers = made.answer, route.headers
    if made.problem is not None:
        refusal = answer_exception(made.problem, {"request": request})
        if refusal is None:
            return answer_crash(request, made.problem)
        answer = HttpResponse(ApiRenderer().render(refusal.data), status=refusal.status_code)
        headers = {**route.headers, **refusal.headers, "Content-Type": CONTENT_TYPE}
    for name, value in {**headers, **throttles.headers_of(made.allowances)}.items():
        answer[name] = value
    return answer  # type: ignore[no-any-return]


def _trigger(request: HttpRequest, route: Route) -> HttpResponse:
    """Store the events of the request, once for its Idempotency-Key."""

    def trigger(_: HttpRequest) -> Response:
        shown = route.trigger(request, parse_strictly(read_body(request)))
        return Response(shown, status=route.status, headers=route.location_of(shown, request.path))

    key = request.META.get(KEY_HEADER)
    answer = trigger(request) if key is None else answer_once(key, trigger, request, is_atomic=True)
    if not isinstance(answer, Response):
        return answer  # of the first request with this key
    headers = {**answer.headers, "Content-Type": "application/json"}
    return HttpResponse(render(answer.data), status=answer.status_code, headers=headers)


def render(shown: dict[str, Any]) -> bytes:
    """Return a response's body."""
    content: bytes = ApiRenderer().render(shown)
    return content
