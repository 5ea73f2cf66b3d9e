"""Bearer tokens of the HTTP API: only a digest is stored, the token itself is shown once.

The model stands on Django alone: an app that only stores and sends events has this table too, and
must not need the HTTP API's libraries for it. Tokens and digests have the form of django-rest-knox,
which made the first ones.
"""

import hashlib
import secrets
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, ClassVar

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from webhooks.errors import TokenLimitError
from webhooks.ids import TOKEN_PREFIX, mark_of, new_id

MAX_TOKENS = 50
"""Of one user."""
SECRET_BYTES = 32
KEY_LENGTH = 15
"""Of the beginning of a token's text, which an index finds."""


def digest_of(text: str) -> str:
    """Return the digest by which a token's text is recognized."""
    return hashlib.sha512(text.encode()).hexdigest()


def key_of(text: str) -> str:
    """Return the beginning of a token's text, which is stored."""
    return text[:KEY_LENGTH]


class ApiTokenManager(models.Manager["ApiToken"]):
    def make_room(self, user: Any) -> None:
        """Raise TokenLimitError if the user has the maximum number of tokens.

        For a transaction: another one of the same user waits here until it ends.
        """
        get_user_model()._base_manager.select_for_update(no_key=True).get(pk=user.pk)
        if self.filter(user=user).count() >= MAX_TOKENS:
            raise TokenLimitError(f"There are {MAX_TOKENS} tokens; revoke one that is not needed.")

    def issue(
        self,
        user: Any,
        *,
        name: str,
        scopes: Sequence[str],
        lifetime: timedelta | None,
        is_service: bool = False,
    ) -> tuple["ApiToken", str]:
        """Store a new token and return it with its text, which is not stored."""
        text = settings.WEBHOOKS_TOKEN_PREFIX + mark_of(user.pk) + secrets.token_hex(SECRET_BYTES)
        token = self.create(
            user=user,
            name=name,
            scopes=sorted(set(scopes)),
            is_service=is_service,
            digest=digest_of(text),
            token_key=key_of(text),
            expiry=None if lifetime is None else timezone.now() + lifetime,
        )
        token.token = text
        return token, text


class ApiToken(models.Model):
    """A program's credential."""

    class Scope(models.TextChoices):
        READ = "read", _("Read")
        WRITE = "write", _("Change")
        TRIGGER = "trigger", _("Trigger events")

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    # Not the primary key, which would put it into URLs and logs.
    digest = models.CharField(max_length=128, unique=True, editable=False)
    token_key = models.CharField(max_length=25, db_index=True)
    created = models.DateTimeField(auto_now_add=True)
    expiry = models.DateTimeField(null=True, blank=True)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    name = models.CharField(max_length=100)
    scopes = ArrayField(models.CharField(max_length=7, choices=Scope))
    is_service = models.BooleanField(
        default=False, help_text="May trigger events for every owner; only staff can make one."
    )
    last_used_at = models.DateTimeField(null=True, editable=False)

    objects: ClassVar[ApiTokenManager] = ApiTokenManager()

    token: str
    """The text, on the instance that issue() has made only."""

    def __str__(self) -> str:
        return self.name

    @property
    def public_id(self) -> str:
        return TOKEN_PREFIX + self.id.hex
