"""Bearer tokens of the HTTP API: only a digest is stored, the token itself is shown once."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, ClassVar

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from knox.models import AbstractAuthToken, get_digest_token
from knox.settings import CONSTANTS

from webhooks.ids import TOKEN_PREFIX, new_id

MAX_TOKENS = 50
"""Of one user."""


class ApiTokenManager(models.Manager["ApiToken"]):
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
        digest, text = get_digest_token()
        token = self.create(
            user=user,
            name=name,
            scopes=sorted(set(scopes)),
            is_service=is_service,
            digest=digest,
            token_key=text[: CONSTANTS.TOKEN_KEY_LENGTH],
            expiry=None if lifetime is None else timezone.now() + lifetime,
        )
        return token, text


class ApiToken(AbstractAuthToken):  # type: ignore[misc]  # knox is untyped
    """A program's credential."""

    class Scope(models.TextChoices):
        READ = "read", _("Read")
        WRITE = "write", _("Change")
        TRIGGER = "trigger", _("Trigger events")

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    # Instead of knox's primary key, which would put the digest into URLs and logs.
    digest = models.CharField(max_length=128, unique=True, editable=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    name = models.CharField(max_length=100)
    scopes = ArrayField(models.CharField(max_length=7, choices=Scope))
    is_service = models.BooleanField(
        default=False, help_text="May trigger events for every owner; only staff can make one."
    )
    last_used_at = models.DateTimeField(null=True, editable=False)

    objects: ClassVar[ApiTokenManager] = ApiTokenManager()

    def __str__(self) -> str:
        return self.name

    @property
    def public_id(self) -> str:
        return TOKEN_PREFIX + self.id.hex
