"""What holds for every page: its Content-Security-Policy, no NUL in what asks for it, and which
other sites' pages may use the API."""

from collections.abc import Callable

from django.conf import settings
from django.core.exceptions import BadRequest, MiddlewareNotUsed
from django.http import HttpRequest, HttpResponse
from django.utils.cache import patch_vary_headers

POLICY = "; ".join(
    [
        "default-src 'none'",
        # unfold uses Alpine, which evaluates attributes.
        "script-src 'self' 'unsafe-eval'",
        # unfold writes colours into the page and widths into attributes.
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data:",
        "font-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "object-src 'none'",
    ]
)


def content_security_policy(
    get_response: Callable[[HttpRequest], HttpResponse],
) -> Callable[[HttpRequest], HttpResponse]:
    """Return a middleware that sets the policy on responses without one."""

    def middleware(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        response.headers.setdefault("Content-Security-Policy", POLICY)
        return response

    return middleware


def refuse_nul(
    get_response: Callable[[HttpRequest], HttpResponse],
) -> Callable[[HttpRequest], HttpResponse]:
    """Respond with 400 to a query string with a NUL, which Postgres refuses in any condition.

    The API does so itself and names the parameter.
    """

    def middleware(request: HttpRequest) -> HttpResponse:
        if "%00" in request.META.get("QUERY_STRING", "") and not request.path.startswith("/api/"):
            raise BadRequest("A parameter holds a NUL character.")
        return get_response(request)

    return middleware


SHARED = {
    "Access-Control-Allow-Methods": "GET, POST, PUT, PATCH, DELETE",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, Idempotency-Key, If-Match, "
    "X-One-Time-Code, X-Request-ID",
    "Access-Control-Max-Age": "600",
}
EXPOSED = (
    "ETag, Idempotency-Replayed, Location, RateLimit, RateLimit-Policy, Retry-After, X-Request-ID"
)


def share_with_origins(
    get_response: Callable[[HttpRequest], HttpResponse],
) -> Callable[[HttpRequest], HttpResponse]:
    """Let pages of the origins in WEBHOOKS_CORS_ORIGINS use the API, with a token: cookies of ours
    never come along. Not in use where there are none.
    """
    if not settings.WEBHOOKS_CORS_ORIGINS:
        raise MiddlewareNotUsed
    origins = frozenset(settings.WEBHOOKS_CORS_ORIGINS)

    def middleware(request: HttpRequest) -> HttpResponse:
        origin = request.META.get("HTTP_ORIGIN")
        if not request.path.startswith("/api/") or origin not in origins:
            return get_response(request)
        if request.method == "OPTIONS" and "HTTP_ACCESS_CONTROL_REQUEST_METHOD" in request.META:
            response = HttpResponse(status=204, headers=SHARED)
        else:
            response = get_response(request)
            response["Access-Control-Expose-Headers"] = EXPOSED
        response["Access-Control-Allow-Origin"] = origin
        patch_vary_headers(response, ["Origin"])
        return response

    return middleware
