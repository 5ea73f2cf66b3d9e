"""Who asks: a bearer token, or once, to get one, a user name and password."""

import time
from copy import copy
from datetime import datetime, timedelta
from hmac import compare_digest
from typing import Any

from django.utils import timezone
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from knox.auth import TokenAuthentication
from knox.crypto import hash_token
from knox.settings import CONSTANTS
from rest_framework.authentication import BasicAuthentication
from rest_framework.exceptions import AuthenticationFailed

from webhooks.models import ApiToken

LAST_USED_STEP = timedelta(minutes=1)
"""How exact `last_used_at` is: a write for each request would cost more than the request."""

KNOWN_SECONDS = 1.0
MAX_KNOWN = 10_000

REFUSAL = "This token is unknown, expired or revoked; POST /api/v1/tokens makes a new one."


class Tokens:
    """The tokens seen within the last second: reading one anew for each request takes longer than
    most requests do otherwise. A revoked one is refused by all processes after that second.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, ApiToken]] = {}

    def get(self, text: str) -> ApiToken | None:
        """Return the token with its user, for this request alone; None where there is none."""
        digest = hash_token(text)
        read_at, token = self._known.get(digest, (float("-inf"), None))
        now = time.monotonic()
        if token is None or now - read_at >= KNOWN_SECONDS:
            token = _read(text, digest)
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            if token is not None:
                self._known[digest] = now, token
        if token is None:
            return None
        mine = copy(token)
        mine.user = copy(token.user)
        return mine

    def forget(self, digest: str) -> None:
        """Read a token anew next time, as it has changed."""
        self._known.pop(digest, None)


def _read(text: str, digest: str) -> ApiToken | None:
    start = text[: CONSTANTS.TOKEN_KEY_LENGTH]
    for found in ApiToken.objects.filter(token_key=start).select_related("user"):
        if compare_digest(found.digest, digest):
            return found
    return None


tokens = Tokens()


class BearerAuthentication(TokenAuthentication):  # type: ignore[misc]  # knox is untyped
    """`Authorization: Bearer rdai_…`, in one statement at most and without deleting anything."""

    def authenticate_credentials(self, token: bytes) -> tuple[Any, ApiToken]:
        # Postgres takes no NUL, not even to look for it.
        is_possible = token.isascii() and b"\0" not in token
        found = tokens.get(token.decode()) if is_possible else None
        now = timezone.now()
        if found is None or not found.user.is_active or (found.expiry and found.expiry <= now):
            raise AuthenticationFailed(REFUSAL)
        self._note_use(found, now)
        return found.user, found

    def _note_use(self, token: ApiToken, now: datetime) -> None:
        if token.last_used_at is None or now - token.last_used_at >= LAST_USED_STEP:
            ApiToken.objects.filter(id=token.id).update(last_used_at=now)
            tokens.forget(token.digest)


class PasswordAuthentication(BasicAuthentication):
    """User name and password over HTTP Basic: for making a token only."""

    www_authenticate_realm = "tokens"

    def authenticate_credentials(self, userid: str, password: str, request: Any = None) -> Any:
        if "\0" in userid:
            # No name holds one, and Postgres would refuse to look; answered as any unknown name.
            raise AuthenticationFailed("Invalid username/password.")
        return super().authenticate_credentials(userid, password, request)


class BearerScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = BearerAuthentication
    name = "token"

    def get_security_definition(self, auto_schema: Any) -> dict[str, Any]:
        return {
            "type": "http",
            "scheme": "bearer",
            "description": "A token of POST /tokens, with the scope that the operation names.",
        }


class PasswordScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = PasswordAuthentication
    name = "password"

    def get_security_definition(self, auto_schema: Any) -> dict[str, Any]:
        return {"type": "http", "scheme": "basic", "description": "User name and password."}
