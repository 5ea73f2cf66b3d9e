"""One immutable fact, with the exact bytes that are signed and sent."""

import uuid

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from webhooks.ids import EVENT_PREFIX, new_id
from webhooks.models.fields import (
    CurrentEpoch,
    CurrentTransactionId,
    NextEventSequence,
    TransactionIdField,
)
from webhooks.models.owner_keys import owner_key_field


class EventQuerySet(models.QuerySet["Event"]):
    def for_owner(self, owner_id: uuid.UUID) -> "EventQuerySet":
        return self.filter(owner_id=owner_id)


class Event(models.Model):
    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    type = models.CharField(max_length=100)
    # Not a foreign key, because events outlive users. Null for events without an owner.
    owner_id = owner_key_field(null=True)
    payload = models.BinaryField(help_text="The exact bytes that are signed and sent.")
    version = models.DateField(
        null=True,
        default=None,
        help_text="Of its data; none where its type had one version only.",
    )
    idempotency_key = models.CharField(max_length=255, null=True)  # noqa: DJ001 (null = none given)
    body_hash = models.BinaryField(max_length=32, null=True)
    fanout_count = models.IntegerField(default=0)
    object_reference = models.CharField(max_length=100, blank=True)
    is_self_reported = models.BooleanField(
        db_default=False,
        help_text="Its owner triggered it over the API; platform webhooks do not receive it.",
    )
    epoch = models.BigIntegerField(
        db_default=CurrentEpoch(), help_text="The epoch of the transaction id."
    )
    transaction_id = TransactionIdField(db_default=CurrentTransactionId())
    sequence = models.BigIntegerField(db_default=NextEventSequence())
    created_at = models.DateTimeField(db_default=Now())
    traceparent = models.CharField(  # noqa: DJ001 (null = not traced)
        max_length=55,
        null=True,
        default=None,
        help_text="The span that stored it, as W3C trace context.",
    )

    objects = EventQuerySet.as_manager()

    data_digest: int = 0
    """The hash of the data, in the process that built the event; not stored."""

    class Meta:
        permissions = [
            ("view_payload", "Can read what is sent and what is answered"),
            ("trigger_for_others", "Can trigger events of every owner, with service tokens"),
        ]
        constraints = [
            models.UniqueConstraint(
                # Owners choose keys for what they report themselves: theirs are apart from the
                # product's, or an owner could take the key of a payment that is still to come.
                fields=["owner_id", "idempotency_key", "is_self_reported"],
                condition=Q(idempotency_key__isnull=False),
                nulls_distinct=False,
                name="event_idempotency_by_source",
            )
        ]
        indexes = [
            # The owner's list, newest first.
            models.Index(fields=["owner_id", "id"], name="event_owner"),
            # Cursors free of gaps: events in order below the oldest running transaction.
            models.Index(fields=["epoch", "transaction_id", "sequence"], name="event_epoch_order"),
        ]

    def __str__(self) -> str:
        return f"{self.type} {self.public_id}"

    @property
    def public_id(self) -> str:
        return EVENT_PREFIX + self.id.hex
