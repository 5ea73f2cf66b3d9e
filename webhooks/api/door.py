"""A short path for `POST /events` and `/events/batch`: no view, no renderer, no session.

The door handles usual requests: a bearer token, a JSON body, a JSON response. Any other request,
and one whose token lacks the scope, goes on to the view (webhooks/api/events.py). Both respond with
the same bytes, because both check tokens, count requests, read bodies, store events and name
problems with the same functions. The door stands before the session middleware, and behind the
middleware that sets the headers of every response.
"""

from collections.abc import Callable
from functools import cached_property
from http import HTTPStatus
from typing import Any

from django.core.exceptions import DisallowedHost
from django.http import HttpRequest, HttpResponse
from django.urls import resolve, reverse
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.renderers import JSONRenderer
from rest_framework.response import Response

from webhooks.api import throttles, wishes
from webhooks.api.authentication import BearerAuthentication, check_token
from webhooks.api.events import EventViewSet
from webhooks.api.idempotency import HEADER, answer_once
from webhooks.api.middleware import GetResponse, answer_crash
from webhooks.api.parsers import parse_strictly, read_body
from webhooks.api.problems import CONTENT_TYPE, answer_exception
from webhooks.doors.allowances import Allowance
from webhooks.models import ApiToken

JSON_TYPES = {"application/json", "application/json; charset=utf-8"}
ACCEPTED = {"*/*", "application/json"}
KEY_HEADER = "HTTP_" + HEADER.upper().replace("-", "_")

AUTHENTICATE = BearerAuthentication().authenticate_header(None)

Trigger = Callable[[Any, Any], dict[str, Any]]


class Route:
    """One of the two paths: its action, and the attributes of its view."""

    def __init__(self, name: str, status: int, trigger: Trigger) -> None:
        self.path = reverse(name)
        self.status, self.trigger = status, trigger
        match = resolve(self.path)
        view = EventViewSet()
        actions = match.func.actions  # type: ignore[attr-defined]
        for method, action in actions.items():
            setattr(view, method, getattr(view, action))
        if "get" in actions:
            view.head = view.get  # type: ignore[attr-defined]
        self.headers = view.default_response_headers
        self.scope = EventViewSet.action_scopes[actions["post"]]


class Door:
    """Middleware that responds to the usual requests itself."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    @cached_property
    def _routes(self) -> dict[str, Route]:
        routes = (
            Route("event-list", 201, wishes.trigger_one),
            Route("event-batch", 200, wishes.trigger_many),
        )
        return {route.path: route for route in routes}

    def __call__(self, request: HttpRequest) -> HttpResponse:
        route = self._routes.get(request.path) if _is_usual(request) else None
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


def _answer(request: HttpRequest, route: Route) -> HttpResponse | None:
    """Return the response, or None to leave it to the view."""
    prefix, _, text = request.META.get("HTTP_AUTHORIZATION", "").partition(" ")
    if prefix != "Bearer" or not text.isascii() or text.split() != [text]:
        return None
    allowances: list[Allowance] = []
    try:
        token = _authenticate(request, text, allowances)
        if route.scope not in token.scopes:
            return None
        allowances.append(throttles.take_of(token))
        throttles.check(allowances)
        of_user = throttles.take_of_user(token.user_id)
        if of_user.is_exceeded:
            allowances.append(of_user)
            throttles.check(allowances)
        request.user, request.auth = token.user, token  # type: ignore[attr-defined]
        answer = _trigger(request, route)
        headers = route.headers
    except Exception as problem:  # as the framework does: each becomes an answer
        refusal = answer_exception(problem, {"request": request})
        if refusal is None:
            return answer_crash(request, problem)
        content = JSONRenderer().render(refusal.data)
        answer = HttpResponse(content, status=refusal.status_code)
        headers = {**route.headers, **refusal.headers, "Content-Type": CONTENT_TYPE}
    for name, value in {**headers, **throttles.headers_of(allowances)}.items():
        answer[name] = value
    return answer


def _trigger(request: HttpRequest, route: Route) -> HttpResponse:
    """Store the events of the request, once for its Idempotency-Key."""

    def trigger(_: HttpRequest) -> Response:
        shown = route.trigger(request, parse_strictly(read_body(request)))
        is_one = route.status == HTTPStatus.CREATED
        made = {"Location": f"{route.path}/{shown['id']}"} if is_one else None
        return Response(shown, status=route.status, headers=made)

    key = request.META.get(KEY_HEADER)
    answer = trigger(request) if key is None else answer_once(key, trigger, request, is_atomic=True)
    if not isinstance(answer, Response):
        return answer  # of the first request with this key
    content = JSONRenderer().render(answer.data)
    headers = {**answer.headers, "Content-Type": "application/json"}
    return HttpResponse(content, status=answer.status_code, headers=headers)


def _authenticate(request: HttpRequest, text: str, allowances: list[Allowance]) -> ApiToken:
    try:
        return check_token(text.encode())
    except AuthenticationFailed as refusal:
        allowances.append(throttles.take_refusal(request))
        throttles.check(allowances)
        refusal.auth_header = AUTHENTICATE  # type: ignore[attr-defined]
        raise
