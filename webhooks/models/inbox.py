"""Test inboxes: URLs of ours that show an owner what his webhooks send."""

from typing import ClassVar

from django.conf import settings
from django.db import models
from django.db.models.functions import Now

from webhooks.ids import new_id
from webhooks.wire.header_lines import header_pairs
from webhooks.wire.url_rules import INBOX_TOKEN_CHARACTERS


class Inbox(models.Model):
    """An owner's test inbox, until it ends; he has one at a time."""

    owner = models.OneToOneField(
        settings.WEBHOOKS_OWNER_MODEL, on_delete=models.CASCADE, related_name="+"
    )
    # In its URL, and so in webhooks. Whoever knows it can put requests in, and read none.
    token = models.CharField(max_length=INBOX_TOKEN_CHARACTERS, unique=True)
    created_at = models.DateTimeField(db_default=Now())
    ends_at = models.DateTimeField(db_index=True)

    def __str__(self) -> str:
        return f"test inbox of {self.owner_id}"


class InboxRequest(models.Model):
    """A request that came into a test inbox."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    inbox = models.ForeignKey(
        Inbox, on_delete=models.CASCADE, related_name="requests", db_index=False
    )
    received_at = models.DateTimeField(db_default=Now())
    head = models.TextField(help_text="Its header lines.")
    body = models.BinaryField(help_text="Its beginning.")
    size = models.PositiveIntegerField(help_text="How many bytes the whole body had.")
    event_type = models.CharField(max_length=100, blank=True)
    signed_for_id = models.UUIDField(
        null=True, help_text="The webhook whose secret signed it; null if none of the owner's did."
    )

    class Meta:
        indexes: ClassVar = [models.Index(fields=["inbox", "id"], name="inbox_request")]

    def __str__(self) -> str:
        return f"{self.event_type or 'request'} of {self.received_at}"

    @property
    def headers(self) -> list[tuple[str, str]]:
        return header_pairs(self.head.encode("latin-1", "replace").splitlines())

    @property
    def text(self) -> str:
        return bytes(self.body).decode(errors="replace").replace("\0", "\ufffd")

    @property
    def is_cut(self) -> bool:
        return self.size > len(self.body)
