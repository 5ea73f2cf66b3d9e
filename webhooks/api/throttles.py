"""How often somebody may ask the API (webhooks/allowances.py counts)."""

from collections.abc import Iterable
from contextlib import suppress
from ipaddress import ip_address
from typing import Any

from django.http import HttpRequest
from rest_framework.exceptions import Throttled
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

from webhooks.allowances import WINDOW_SECONDS, Allowance, take
from webhooks.models import ApiToken


class RateThrottle(BaseThrottle):
    """Limits requests per token, those of a special kind per user, others per address."""

    def __init__(self, name: str, *, by_address: bool = False) -> None:
        self._name = name
        self._by_address = by_address
        self._reset_seconds = 0

    def allow_request(self, request: Request, view: Any) -> bool:
        allowance = take(self._name, self._who(request))
        view.allowances.append(allowance)
        self._reset_seconds = allowance.reset_seconds
        return not allowance.is_exceeded

    def wait(self) -> float:
        return self._reset_seconds

    def _who(self, request: Request) -> str:
        if self._by_address or not request.user.is_authenticated:
            return self.get_ident(request)
        if self._name == "token" and isinstance(request.auth, ApiToken):
            return request.auth.id.hex
        return f"user-{request.user.pk}"


def take_of(token: ApiToken) -> Allowance:
    """Count one request with a token."""
    return take("token", token.id.hex)


def check(allowances: Iterable[Allowance]) -> None:
    """Raise Throttled where a limit is exceeded, by the time that there is to wait."""
    waits = [one.reset_seconds for one in allowances if one.is_exceeded]
    if waits:
        raise Throttled(max(waits))


def take_refusal(request: HttpRequest | Request) -> Allowance:
    """Count one request of an address without valid credentials."""
    return take("refused", BaseThrottle().get_ident(request))  # type: ignore[arg-type]


def address_of(request: Request) -> str | None:
    """Return the client's address, None where there is none, as behind a Unix socket.

    NUM_PROXIES says how much of X-Forwarded-For is believed.
    """
    with suppress(ValueError):
        return str(ip_address(BaseThrottle().get_ident(request) or ""))
    return None


def headers_of(allowances: list[Allowance]) -> dict[str, str]:
    """Return the fields RateLimit-Policy and RateLimit (draft-ietf-httpapi-ratelimit-headers)."""
    if not allowances:
        return {}
    return {
        "RateLimit-Policy": ", ".join(
            f'"{one.name}";q={one.limit};w={WINDOW_SECONDS}' for one in allowances
        ),
        "RateLimit": ", ".join(
            f'"{one.name}";r={max(0, one.remaining)};t={one.reset_seconds}' for one in allowances
        ),
    }
