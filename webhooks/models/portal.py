"""Links into the customers' portal, and the sessions that they open."""

from typing import ClassVar

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from webhooks.ids import PORTAL_LINK_PREFIX, new_id
from webhooks.models.fields import past_user
from webhooks.models.webhook import Webhook


class PortalLink(models.Model):
    """A link that opens one session in one owner's portal; only digests of its keys are stored."""

    class Capability(models.TextChoices):
        VIEW = "view", _("See webhooks, deliveries and payloads")
        MANAGE = "manage", _("Change webhooks and send deliveries again")
        SECRETS = "secrets", _("Add webhooks, see and rotate signing secrets")

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    owner = models.ForeignKey(
        settings.WEBHOOKS_OWNER_MODEL, on_delete=models.CASCADE, related_name="+"
    )
    # Without a database constraint: the purge of a webhook looks at no links.
    webhook = models.ForeignKey(
        Webhook,
        on_delete=models.CASCADE,
        null=True,
        default=None,
        related_name="+",
        db_index=False,
        db_constraint=False,
        help_text="The only webhook that is shown; empty for all of the owner's.",
    )
    capabilities = ArrayField(models.CharField(max_length=7, choices=Capability))
    return_url = models.CharField(max_length=2048, blank=True, default="")
    digest = models.BinaryField(max_length=32, unique=True)
    opens_until = models.DateTimeField()
    session_seconds = models.PositiveIntegerField(
        help_text="How long the session lasts, once open."
    )
    opened_at = models.DateTimeField(null=True)
    session_digest = models.BinaryField(max_length=32, null=True, unique=True)
    session_ends_at = models.DateTimeField(null=True)
    revoked_at = models.DateTimeField(null=True)
    created_by = past_user(help_text="The user who made it.")
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        indexes: ClassVar = [
            # The owner's list, newest first, and the removal of what ended long ago.
            models.Index(fields=["owner", "id"], name="portal_link_owner")
        ]

    key: str | None = None
    """What opens the link, on the instance that create_link() returned only."""

    def __str__(self) -> str:
        return f"portal link {self.public_id}"

    @property
    def public_id(self) -> str:
        return PORTAL_LINK_PREFIX + self.id.hex
