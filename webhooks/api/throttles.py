"""Limit the requests to the API (webhooks/doors/allowances.py counts them)."""

from collections.abc import Iterable
from typing import Any

from rest_framework.exceptions import ErrorDetail, Throttled
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

from webhooks.doors import allowances
from webhooks.doors.allowances import WINDOW_SECONDS, Allowance, take
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
        if allowance.is_exceeded or self._name != "token" or not request.user.is_authenticated:
            return not allowance.is_exceeded
        return not self._exceeds_user(request, view)

    def _exceeds_user(self, request: Request, view: Any) -> bool:
        of_user = take_of_user(request.user.pk)
        if of_user.is_exceeded:
            view.allowances.append(of_user)
        return of_user.is_exceeded

    def wait(self) -> float:
        return self._reset_seconds

    def _who(self, request: Request) -> str:
        if self._by_address or not request.user.is_authenticated:
            return allowances.address_in(request)
        if self._name == "token" and isinstance(request.auth, ApiToken):
            return request.auth.id.hex
        return f"user-{request.user.pk}"


def take_of(token: ApiToken) -> Allowance:
    """Count one request with a token."""
    return take("token", token.id.hex)


def take_of_user(user_id: Any) -> Allowance:
    """Count one request of a user, with any of the user's tokens."""
    return take("user", str(user_id))


def spend(name: str, owner_id: Any, amount: int) -> None:
    """Spend an owner's quota of this hour; raises QuotaExceededError if it is used up."""
    check_quota(allowances.spend(name, owner_id, amount))


def check_quota(allowance: Allowance) -> None:
    """Raise QuotaExceededError if an owner's quota of this hour is used up."""
    if allowance.is_exceeded:
        raise QuotaExceededError(allowance)


class QuotaExceededError(Throttled):
    """An owner's quota of this hour is used up."""

    def __init__(self, allowance: Allowance) -> None:
        super().__init__(allowance.reset_seconds)
        self.detail = ErrorDetail(
            f"Your {allowance.limit:,} {allowance.name} of this hour are used up, or this would be "
            f"more than are left; the next hour begins in {allowance.reset_seconds} seconds."
        )


def check(found: Iterable[Allowance]) -> None:
    """Raise Throttled, with the time to wait, if a limit is exceeded."""
    waits = [one.reset_seconds for one in found if one.is_exceeded]
    if waits:
        raise Throttled(max(waits))


def headers_of(found: list[Allowance]) -> dict[str, str]:
    """Return the fields RateLimit-Policy and RateLimit (draft-ietf-httpapi-ratelimit-headers)."""
    if not found:
        return {}
    return {
        "RateLimit-Policy": ", ".join(
            f'"{one.name}";q={one.limit};w={WINDOW_SECONDS}' for one in found
        ),
        "RateLimit": ", ".join(
            f'"{one.name}";r={max(0, one.remaining)};t={one.reset_seconds}' for one in found
        ),
    }
