"""Middleware of every request: an id, a bounded body, problem responses for crashes."""

import logging
import re
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from django.conf import settings
from django.core.signals import got_request_exception
from django.http import HttpRequest, HttpResponse
from rest_framework.exceptions import APIException, UnsupportedMediaType

from webhooks.api.context import request_id as current_request_id
from webhooks.api.errors import BodyTooLargeError, LengthRequiredError
from webhooks.api.problems import answer_our_mistake, answer_outside_views
from webhooks.doors import api_paths
from webhooks.ids import new_id
from webhooks.outbox.tracing import continuing

logger = logging.getLogger(__name__)

ACCEPTABLE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

GetResponse = Callable[[HttpRequest], HttpResponse]


def request_id_of(environ: Mapping[str, Any]) -> str:
    """Return the id that a proxy gave the request, or a new one."""
    given = environ.get("HTTP_X_REQUEST_ID", "")
    return given if ACCEPTABLE_ID.fullmatch(given) else new_id().hex


class RequestIdMiddleware:
    """Gives every request an id unless a proxy did, and puts it into the response."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        # Not request.headers: Django takes longer to build them than this whole method takes.
        request_id = request_id_of(request.META)
        request.request_id = request_id  # type: ignore[attr-defined]
        token = current_request_id.set(request_id)
        try:
            with continuing(request.META):
                response = self.get_response(request)
        finally:
            current_request_id.reset(token)
        response["X-Request-ID"] = request_id
        return response


class ApiMiddleware:
    """Refuses bodies that no view should read, and turns crashes into problem responses."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    @cached_property
    def _is_ours(self) -> Callable[[str], object]:
        # Every request of the site asks it.
        return api_paths.ours().match

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if not self._is_ours(request.path_info):
            return self.get_response(request)
        refusal = _refusal(request)
        if refusal is not None:
            return answer_outside_views(request, refusal)
        response = self.get_response(request)
        # Responses hold data that only their owner may see, some of them a secret.
        response.setdefault("Cache-Control", "no-store")
        return response

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        return answer_crash(request, exception) if self._is_ours(request.path_info) else None


def answer_crash(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Log the exception and respond with a problem that does not reveal it."""
    logger.exception(
        "%s %s failed (request %s).",
        request.method,
        request.path,
        getattr(request, "request_id", ""),
        exc_info=exception,
    )
    got_request_exception.send(sender=ApiMiddleware, request=request)
    return answer_our_mistake(request)


def _refusal(request: HttpRequest) -> APIException | None:
    # A body in chunks has no length to limit, and WSGI servers differ in how they handle it.
    if request.META.get("HTTP_TRANSFER_ENCODING"):
        return LengthRequiredError()
    encoding = request.META.get("HTTP_CONTENT_ENCODING", "identity")
    if encoding.lower() != "identity":
        return UnsupportedMediaType(encoding)
    length = request.META.get("CONTENT_LENGTH") or "0"
    if length.isdecimal() and int(length[:20]) > (settings.DATA_UPLOAD_MAX_MEMORY_SIZE or 0):
        return BodyTooLargeError()
    return None
