"""Authenticate requests: by a bearer token, or by name and password to get a token."""

import threading
import time
from collections.abc import Callable, Collection
from copy import copy
from datetime import timedelta
from hmac import compare_digest
from typing import Any, Generic, TypeVar

from django.utils import timezone
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework.authentication import (
    BaseAuthentication,
    BasicAuthentication,
    get_authorization_header,
)
from rest_framework.exceptions import AuthenticationFailed, PermissionDenied
from rest_framework.request import Request

from webhooks.doors import api_paths, audit, second_factor
from webhooks.models import ApiToken
from webhooks.models.owners import is_held, owner_model
from webhooks.models.token import digest_of, key_of
from webhooks.postgres.shared import shared
from webhooks.postgres.sql import run

LAST_USED_STEP = timedelta(minutes=1)
"""The precision of `last_used_at`: a write for each request would cost more than the request."""

KNOWN_SECONDS = 1.0
"""The maximum age of a cached token or user, and so the delay of a revocation."""

REFUSAL = "This token is unknown, expired or revoked; POST {tokens} makes a new one."

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """A cache of rows for one second: a query for each request would double the time of most.

    One query refreshes all rows in use, so that many tenants cost as little as one. The cache does
    not remember missing rows: a new token works at once.
    """

    def __init__(self, read: Callable[[Collection[K]], dict[K, V]]) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._read_at = float("-inf")
        self._values: dict[K, V] = {}
        self._used: set[K] = set()

    def get_many(self, keys: Collection[K]) -> dict[K, V]:
        """Return the existing values of these keys; callers share them and must not change them."""
        values = self._fresh_values()
        missing = [key for key in keys if key not in values]
        if missing:
            # Outside the lock: no request waits for the look-up of another request's key.
            values.update(self._query(missing))
        found = {key: values[key] for key in keys if key in values}
        self._used.update(found)
        return found

    def _query(self, keys: Collection[K]) -> dict[K, V]:
        with shared.taken_if_free():
            return self._read(keys)

    def forget(self, key: K) -> None:
        """Drop a row that has changed; its next use queries it."""
        self._values.pop(key, None)

    def _fresh_values(self) -> dict[K, V]:
        if self._is_fresh(time.monotonic()):
            return self._values
        with self._lock:
            now = time.monotonic()
            if not self._is_fresh(now):
                used, self._used = self._used, set()
                self._values = self._query(used) if used else {}
                self._read_at = now
            return self._values

    def _is_fresh(self, now: float) -> bool:
        return self._read_at <= now < self._read_at + KNOWN_SECONDS


TokenKey = tuple[str, str]
"""The beginning of a token, which an index finds, and its digest."""


class Tokens:
    """A cache of the tokens of recent requests, with their users."""

    def __init__(self) -> None:
        self._recent: Recent[TokenKey, ApiToken] = Recent(_read_tokens)

    def find(self, text: str) -> ApiToken | None:
        """Return the token, which callers share and must not change, or None."""
        key = key_of(text), digest_of(text)
        return self._recent.get_many([key]).get(key)

    def get(self, text: str) -> ApiToken | None:
        """Return this request's own copy of the token and its user, or None."""
        found = self.find(text)
        return None if found is None else _own(found)

    def forget(self, token: ApiToken) -> None:
        """Drop a token that has changed; its next use queries it."""
        self._recent.forget((token.token_key, token.digest))


def _own(token: ApiToken) -> ApiToken:
    mine = copy(token)
    mine.user = copy(token.user)
    return mine


def _read_tokens(keys: Collection[TokenKey]) -> dict[TokenKey, ApiToken]:
    wanted: dict[str, list[str]] = {}
    for start, digest in keys:
        wanted.setdefault(start, []).append(digest)
    return {
        (found.token_key, digest): found
        for found in ApiToken.objects.filter(token_key__in=wanted).select_related("user")
        for digest in wanted[found.token_key]
        if compare_digest(found.digest, digest)
    }


def _read_owners(ids: Collection[Any]) -> dict[Any, bool]:
    found = owner_model()._base_manager.filter(pk__in=ids)
    return dict.fromkeys(found.values_list("pk", flat=True), True)


tokens = Tokens()
owners: Recent[Any, bool] = Recent(_read_owners)
"""A cache of the ids of existing owners."""


# All requests of a process may wait for the shared connection, so it waits for no lock on one token.
NOTE_USE_SQL = """
UPDATE webhooks_apitoken SET last_used_at = %(now)s
 WHERE id = (SELECT id FROM webhooks_apitoken WHERE id = %(id)s FOR NO KEY UPDATE SKIP LOCKED)
"""


def check_token(text: bytes) -> ApiToken:
    """Return the valid token of a text, which callers share, and note its use.

    Raises AuthenticationFailed.
    """
    # Postgres refuses NUL, even in a condition.
    is_possible = text.isascii() and b"\0" not in text
    found = tokens.find(text.decode()) if is_possible else None
    now = timezone.now()
    if (
        found is None
        or not found.user.is_active
        or (found.expiry and found.expiry <= now)
        or is_held(found.user.pk)
    ):
        raise AuthenticationFailed(REFUSAL.format(tokens=api_paths.path_of("tokens")))
    if found.last_used_at is None or now - found.last_used_at >= LAST_USED_STEP:
        # In the shared copy, too: while the row is locked, one request a second tries, not each.
        found.last_used_at = now
        with shared.taken_if_free():
            run(NOTE_USE_SQL, {"id": found.id, "now": now})
    return found


class BearerAuthentication(BaseAuthentication):
    """`Authorization: Bearer …`, in one statement at most."""

    scheme = "Bearer"

    def authenticate(self, request: Request) -> tuple[Any, ApiToken] | None:
        named, *parts = get_authorization_header(request).split() or [b""]
        if named.lower() != self.scheme.lower().encode():
            return None
        if not parts:
            raise AuthenticationFailed("Invalid token header. No credentials provided.")
        if len(parts) > 1:
            raise AuthenticationFailed(
                "Invalid token header. Token string should not contain spaces."
            )
        mine = _own(check_token(parts[0]))
        return mine.user, mine

    def authenticate_header(self, request: Request) -> str:
        return self.scheme


CODE_HEADER = "X-One-Time-Code"
WRONG_PASSWORD = (
    f"Invalid username/password; accounts with a second factor also need its code in {CODE_HEADER}."
)


class PasswordAuthentication(BasicAuthentication):
    """User name and password over HTTP Basic, and the code of an account's second factor in CODE_HEADER:
    for making a token only.
    """

    www_authenticate_realm = "tokens"

    def authenticate_credentials(self, userid: str, password: str, request: Any = None) -> Any:
        if "\0" in userid:
            # No name holds NUL, and Postgres would refuse the query; the response is that of an unknown name.
            raise AuthenticationFailed(WRONG_PASSWORD)
        try:
            user, _ = super().authenticate_credentials(userid, password, request)
        except AuthenticationFailed:
            raise AuthenticationFailed(WRONG_PASSWORD) from None
        code = request.headers.get(CODE_HEADER, "")
        if second_factor.is_missing(user):
            raise PermissionDenied(str(second_factor.MISSING))
        if second_factor.is_asked(user) and not second_factor.accepts(user, code):
            audit.note(request, "secondfactor.refuse", user, actor=user)
            raise AuthenticationFailed(WRONG_PASSWORD)
        return user, None


class BearerScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = BearerAuthentication
    name = "accessToken"

    def get_security_definition(self, auto_schema: Any) -> dict[str, Any]:
        return {
            "type": "http",
            "scheme": "bearer",
            "description": "A token of POST /tokens, with the scope that the operation names.",
        }


PASSWORD_SCHEME = {"type": "http", "scheme": "basic", "description": "User name and password."}
"""Of the one operation that makes tokens; the generator knows the scheme of all the others only."""


class PasswordScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = PasswordAuthentication
    name = "password"

    def get_security_definition(self, auto_schema: Any) -> dict[str, Any]:
        return PASSWORD_SCHEME
