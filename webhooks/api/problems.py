"""Turn every error of the API into RFC 9457 `application/problem+json`."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import reduce
from itertools import islice
from typing import Any

from django.conf import settings
from django.core.exceptions import PermissionDenied as DjangoPermissionDenied
from django.core.exceptions import ValidationError as DjangoValidationError
from django.db import OperationalError, connection
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.urls import NoReverseMatch, reverse
from django.utils.cache import add_never_cache_headers
from django.views.decorators.csrf import csrf_exempt
from django.views.defaults import bad_request as default_bad_request
from django.views.defaults import page_not_found as default_not_found
from django.views.defaults import server_error as default_server_error
from rest_framework import exceptions
from rest_framework.response import Response
from rest_framework.settings import api_settings
from rest_framework.views import set_rollback

from webhooks import errors
from webhooks.api.errors import (
    ConflictError,
    KeyInUseError,
    ParametersInvalidError,
    TakesTooLongError,
)
from webhooks.api.names import camel_case
from webhooks.api.overtaking import was_overtaken
from webhooks.doors import api_paths
from webhooks.models.webhook import api_name
from webhooks.pace.bounds import MAX_NAME_CHARACTERS, MAX_PROBLEMS, shortened
from webhooks.postgres.sql import is_read_only, is_unavailable, took_too_long

logger = logging.getLogger(__name__)

CONTENT_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:remotedevai:problem:"
MAX_DETAIL_CHARACTERS = 4000
"""The maximum length of a message about an event's data, which quotes the data."""

TITLES = {
    "authentication_failed": "The credentials are not valid",
    "conflict": "The present state does not allow this",
    "error": "Something went wrong on our side",
    "event_data_invalid": "The data does not fit the event type",
    "event_type_unknown": "There is no such event type",
    "idempotency_conflict": "The idempotency key was used for another request",
    "idempotency_key_in_use": "The first request with this idempotency key is still at work",
    "invalid": "The request is not valid",
    "length_required": "The length of the body is not known",
    "limit_reached": "There are as many as there may be",
    "method_not_allowed": "This resource has no such method",
    "misdirected": "The owner is in another cell",
    "not_acceptable": "The answer is JSON only",
    "not_authenticated": "Credentials are needed",
    "not_found": "There is no such resource",
    "parse_error": "The body is not JSON that we accept",
    "permission_denied": "These credentials do not allow this",
    "precondition_failed": "The object is not as If-Match says",
    "scope_invalid": "The selection is not valid",
    "takes_too_long": "This would take too long",
    "throttled": "Too many requests",
    "too_large": "The body is too large",
    "unavailable": "This cannot be done at the moment",
    "unsupported_media_type": "The body is not JSON",
}
"""By code, the last part of a problem's `type`; docs/api.md lists them."""

HINTS = {
    exceptions.NotAuthenticated: "Send a token: `Authorization: Bearer {prefix}…`; POST {tokens}"
    " makes one.",
    exceptions.UnsupportedMediaType: "Send the body as application/json, not compressed.",
    exceptions.NotAcceptable: "Answers are application/json; accept that.",
    exceptions.MethodNotAllowed: "The header Allow lists the methods there are.",
}
"""Advice after the framework's message, with {prefix} and {tokens} for those of the project."""


DOMAIN_ERRORS: dict[type[errors.WebhooksError], tuple[int, str]] = {
    errors.EventTypeUnknownError: (400, "event_type_unknown"),
    errors.EventDataInvalidError: (400, "event_data_invalid"),
    errors.IdempotencyConflictError: (409, "idempotency_conflict"),
    errors.PortalLinkLimitError: (400, "limit_reached"),
    errors.PublicIdInvalidError: (400, "invalid"),
    errors.RedeliveryScopeError: (400, "scope_invalid"),
    errors.SecretRefusedError: (409, "conflict"),
    errors.StorageUnavailableError: (503, "unavailable"),
    errors.TokenLimitError: (409, "conflict"),
    errors.WebhookLimitError: (400, "limit_reached"),
    errors.WebhookNotSendingError: (409, "conflict"),
    errors.WebhookUnprovedError: (409, "conflict"),
}
"""Clients' mistakes and temporary failures; any other error is our mistake."""


def answer_exception(exception: Exception, context: Mapping[str, Any]) -> Response | None:
    """Turn an exception of a view into a problem; None leaves it to ApiMiddleware (500)."""
    known = translate(exception)
    if known is None:
        return None
    headers = {}
    if getattr(known, "auth_header", None):
        headers["WWW-Authenticate"] = known.auth_header  # type: ignore[attr-defined]
    if isinstance(known, (exceptions.Throttled, KeyInUseError)):
        headers["Retry-After"] = str(max(1, int(getattr(known, "wait", None) or 1)))
    set_rollback()
    return Response(
        problem_of(known, context["request"]),
        status=known.status_code,
        headers=headers,
        content_type=CONTENT_TYPE,
    )


def translate(exception: Exception) -> exceptions.APIException | None:
    """Return the API exception for an exception, or None if clients must not see it."""
    if isinstance(exception, exceptions.APIException):
        return exception
    if isinstance(exception, Http404):
        return exceptions.NotFound()
    if isinstance(exception, DjangoPermissionDenied):
        return exceptions.PermissionDenied()
    if isinstance(exception, DjangoValidationError):
        return exceptions.ValidationError(_field_errors(exception))
    if isinstance(exception, OperationalError) and took_too_long(exception):
        return TakesTooLongError()
    if was_overtaken(exception):
        return ConflictError("Others change the same objects just now; try again.")
    if is_unavailable(exception):
        logger.warning("The database failed: %s", exception)
        if is_read_only(exception) and not connection.in_atomic_block:
            connection.close()
        exception = errors.StorageUnavailableError()
    for kind, (status, code) in DOMAIN_ERRORS.items():
        if isinstance(exception, kind):
            answer = exceptions.APIException(str(exception), code)
            answer.status_code, answer.default_code = status, code
            if isinstance(exception, errors.EventDataInvalidError):
                answer.problems = exception.problems  # type: ignore[attr-defined]
            return answer
    return None


def _field_errors(problem: DjangoValidationError) -> dict[str, list[exceptions.ErrorDetail]]:
    """Name the fields of a model's ValidationError as the API does."""
    if not hasattr(problem, "error_dict"):
        return {api_settings.NON_FIELD_ERRORS_KEY: _details(problem.error_list)}
    return {
        _wire_name(name): _details(list(problems)) for name, problems in problem.error_dict.items()
    }


def _wire_name(name: str) -> str:
    return "nonFieldErrors" if name == "__all__" else camel_case(api_name(name))


def _details(problems: Iterable[DjangoValidationError]) -> list[exceptions.ErrorDetail]:
    return [
        exceptions.ErrorDetail(message, code=problem.code or "invalid")
        for problem in problems
        for message in problem.messages
    ]


def problem_of(exception: exceptions.APIException, request: Any) -> dict[str, Any]:
    """Return an API exception as the members of a problem."""
    code = exception.default_code
    extra: dict[str, Any] = {}
    if isinstance(exception, exceptions.ValidationError):
        key = "parameter" if isinstance(exception, ParametersInvalidError) else "pointer"
        extra["errors"] = list(islice(flatten(exception.detail, key), MAX_PROBLEMS))
        detail = _summary(extra["errors"], key)
    else:
        detail = shortened(str(exception.detail), MAX_DETAIL_CHARACTERS)
        if problems := getattr(exception, "problems", ()):
            extra["errors"] = [_data_problem(path, text) for path, text in problems]
        for kind, hint in HINTS.items():
            if isinstance(exception, kind):
                prefix = settings.WEBHOOKS_TOKEN_PREFIX
                hint = hint.format(prefix=prefix, tokens=api_paths.path_of("tokens"))
                detail = f"{detail} {hint}"
    return problem(request, exception.status_code, code, detail, **extra)


def _data_problem(path: Iterable[str | int], text: str) -> dict[str, str]:
    pointer = reduce(lambda place, part: _step(place, str(part), "pointer"), path, "/data")
    return {"pointer": pointer, "code": "invalid", "message": shortened(text)}


def _summary(found: list[dict[str, str]], key: str) -> str:
    first = found[0]
    place = first[key].lstrip("/")
    rest = f" ({len(found) - 1} more in errors.)" if len(found) > 1 else ""
    return f"{place}: {first['message']}{rest}" if place else f"{first['message']}{rest}"


def flatten(detail: Any, key: str, place: str = "") -> Iterator[dict[str, str]]:
    """Yield the nested errors of serializers one by one, each with a JSON pointer or a name."""
    if isinstance(detail, Mapping):
        for name, part in detail.items():
            is_whole = name == api_settings.NON_FIELD_ERRORS_KEY
            yield from flatten(part, key, place if is_whole else _step(place, str(name), key))
    elif isinstance(detail, list):
        for index, part in enumerate(detail):
            is_leaf = isinstance(part, str)
            yield from flatten(part, key, place if is_leaf else _step(place, str(index), key))
    else:
        code = getattr(detail, "code", None) or "invalid"
        yield {key: place, "code": wire_code(code), "message": shortened(str(detail))}


def _step(place: str, name: str, key: str) -> str:
    name = shortened(name, MAX_NAME_CHARACTERS)
    if key == "parameter":
        return place or name
    return f"{place}/{name.replace('~', '~0').replace('/', '~1')}"


def wire_code(code: str) -> str:
    """Return a code of ours or of the framework as all codes are spelt on the wire."""
    return code.replace("_", "-")


def problem(request: Any, status: int, code: str, detail: str, **extra: Any) -> dict[str, Any]:
    """Return the members of a problem; `code` is a key of TITLES."""
    return {
        "type": TYPE_PREFIX + wire_code(code),
        "title": TITLES[code],
        "status": int(status),
        "detail": detail,
        "instance": request.path,
        "requestId": getattr(request, "request_id", ""),
        **extra,
    }


def respond(members: Mapping[str, Any]) -> HttpResponse:
    """Return a problem's members as a response outside the framework's views."""
    return JsonResponse(members, status=members["status"], content_type=CONTENT_TYPE)


def answer_outside_views(request: HttpRequest, exception: exceptions.APIException) -> HttpResponse:
    """Respond with a problem outside the framework's views."""
    return respond(problem_of(exception, request))


def answer_our_mistake(request: HttpRequest) -> HttpResponse:
    """Respond with 500 and no details; the log has them under the request id."""
    detail = "Try again; if it stays, tell the support the request id."
    return respond(problem(request, 500, "error", detail))


@csrf_exempt
def no_such_route(request: HttpRequest) -> HttpResponse:
    """Respond to the API's paths without a route, in DEBUG too."""
    detail = "There is no such path."
    with suppress(NoReverseMatch):
        detail = f"There is no such path; GET {reverse('schema')} lists them all."
    response = answer_outside_views(request, exceptions.NotFound(detail))
    add_never_cache_headers(response)
    return response


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    if not api_paths.is_ours(request.path_info):
        return default_bad_request(request, exception)
    return answer_outside_views(request, exceptions.ParseError("The request is not acceptable."))


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    if not api_paths.is_ours(request.path_info):
        return default_not_found(request, exception)
    return no_such_route(request)


def server_error(request: HttpRequest) -> HttpResponse:
    if not api_paths.is_ours(request.path_info):
        return default_server_error(request)
    return answer_our_mistake(request)
