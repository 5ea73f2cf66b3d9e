"""Rows of operators, the API and housekeeping: redeliveries, pauses, the audit log, stored responses,
the schedule of the chores."""

from typing import Any
from uuid import UUID, uuid5

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from webhooks.ids import REDELIVERY_PREFIX, new_id
from webhooks.models.fields import past_user


class Redelivery(models.Model):
    """A person's request to send deliveries again, or events that a webhook missed."""

    class Status(models.TextChoices):
        RUNNING = "running", "Running"
        DONE = "done", "Done"
        CANCELLED = "cancelled", "Cancelled"
        FAILED = "failed", "Failed"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    scope = models.JSONField(default=dict, help_text="The requested Scope.")
    is_replay = models.BooleanField(
        default=False, help_text="Creates missing deliveries instead of repeating existing ones."
    )
    status = models.CharField(max_length=9, choices=Status, default=Status.RUNNING)
    rate_limit = models.FloatField(null=True, help_text="Deliveries per second; null for no limit.")
    matched_count = models.PositiveIntegerField(default=0)
    queued_count = models.PositiveIntegerField(default=0)
    # Its position, from which it continues after a crash.
    cursor = models.UUIDField(null=True)
    passed_over = ArrayField(
        models.UUIDField(),
        default=list,
        db_default=[],
        help_text="Deliveries before the cursor that another transaction had locked.",
    )
    due_at = models.DateTimeField(
        db_default=Now(), help_text="When its next batch may run; the earliest runs first."
    )
    failures = models.PositiveSmallIntegerField(
        default=0, db_default=0, help_text="Consecutive batches that failed in Postgres."
    )
    error = models.CharField(
        max_length=500,
        blank=True,
        default="",
        db_default="",
        help_text="Why it failed, or why its last batch did.",
    )
    requested_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+"
    )
    created_at = models.DateTimeField(db_default=Now())
    finished_at = models.DateTimeField(null=True)
    dismissed_at = models.DateTimeField(null=True)

    class Meta:
        verbose_name_plural = "redeliveries"
        indexes = [
            # Housekeeping: running redeliveries.
            models.Index(fields=["id"], name="redelivery_running", condition=Q(status="running"))
        ]

    def __str__(self) -> str:
        return f"redelivery {self.public_id}"

    @property
    def public_id(self) -> str:
        return REDELIVERY_PREFIX + self.id.hex


class RedeliveryTakeover(models.Model):
    """A delivery that a later redelivery took over: both count its result."""

    pk = models.CompositePrimaryKey("redelivery_id", "delivery_id")
    redelivery_id = models.UUIDField(help_text="The earlier redelivery.")
    # Without foreign keys: housekeeping removes both ends, and locks neither.
    delivery_id = models.UUIDField()

    class Meta:
        indexes = [
            # The purge of a delivery.
            models.Index(fields=["delivery_id"], name="takeover_delivery")
        ]

    def __str__(self) -> str:
        return f"{self.delivery_id} was taken over from {self.redelivery_id}"


class Pause(models.Model):
    """The pause of all sending: one row while it lasts."""

    id = models.BooleanField(primary_key=True, default=True)
    reason = models.CharField(max_length=500, blank=True)
    paused_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+"
    )
    created_at = models.DateTimeField(db_default=Now())

    is_new = False
    """Of the instance that pause_sending() returns: whether it was made just now."""

    class Meta:
        permissions = [("pause_sending", "Can stop all sending and start it again")]
        constraints = [models.CheckConstraint(condition=Q(id=True), name="only_one_pause")]

    def __str__(self) -> str:
        return f"paused since {self.created_at}"


class AuditEntry(models.Model):
    """An action, its actor and its object, without secrets."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    actor = past_user()
    action = models.CharField(max_length=50)
    object_reference = models.CharField(max_length=100)
    changes = models.JSONField(default=dict)
    source_address = models.GenericIPAddressField(null=True)
    request_id = models.CharField(max_length=64, blank=True)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        verbose_name_plural = "audit entries"
        indexes = [
            # The history of one object.
            models.Index(fields=["object_reference", "id"], name="audit_object")
        ]

    def __str__(self) -> str:
        return f"{self.action} {self.object_reference}"


USERS = UUID("6f1f2c5e-3c0b-4c53-9d3e-5a6f0f6f7c11")
"""The namespace of users whose keys are no UUIDs."""


def owner_of_answers(user_key: Any, *, is_service: bool, owner_key: Any = None) -> UUID:
    """Return the owner_id of a user's stored responses, apart from it those of his service tokens.

    `owner_key` is given where a user may act for several owners.
    """
    # An event that users report about themselves differs from the same event reported by the product,
    # so neither may respond to the other's key.
    whose = user_key if isinstance(user_key, UUID) else uuid5(USERS, str(user_key))
    if owner_key is not None:
        whose = uuid5(whose, f"owner {owner_key}")
    return uuid5(whose, "service tokens") if is_service else whose


class IdempotentAnswer(models.Model):
    """The stored response to a POST with an Idempotency-Key; encrypted, as it may hold a secret."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    # See owner_of_answers().
    owner_id = models.UUIDField()
    key = models.CharField(max_length=255)
    request_hash = models.BinaryField(max_length=32)
    status_code = models.PositiveSmallIntegerField(null=True)
    answer_encrypted = models.BinaryField(null=True)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [models.UniqueConstraint(fields=["owner_id", "key"], name="answer_once")]
        indexes = [
            # Expiry after 24 hours.
            models.Index(fields=["created_at"], name="answer_created")
        ]

    def __str__(self) -> str:
        return f"answer {self.id}"


class Chore(models.Model):
    """The schedule of one chore of housekeeping, and the results of its last runs."""

    name = models.CharField(primary_key=True, max_length=50)
    due_at = models.DateTimeField(db_default=Now())
    progress = models.JSONField(
        null=True, help_text="Where its next turn continues; null between runs."
    )
    started_at = models.DateTimeField(null=True, help_text="When its last run began.")
    finished_at = models.DateTimeField(null=True, help_text="When a run last finished.")
    failures = models.PositiveIntegerField(
        default=0, db_default=0, help_text="Consecutive turns that failed or never ended."
    )
    last_error = models.CharField(max_length=500, blank=True, default="", db_default="")
    claimed_by = models.UUIDField(null=True, help_text="The housekeeper that runs it.")
    leased_until = models.DateTimeField(null=True, help_text="When others may take over.")

    def __str__(self) -> str:
        return self.name


class ExpiringPartition(models.Model):
    """A partition of attempts whose deliveries a purge deletes, to drop or replace it as a whole.

    While its row is here, attempts in it may have no delivery (webhooks/repair/partitions.py).
    """

    name = models.CharField(primary_key=True, max_length=63, help_text="The table's name.")
    # The ids of its deliveries.
    first_id = models.UUIDField()
    end_id = models.UUIDField()
    by_rows = models.BooleanField(
        db_default=False,
        help_text="It keeps so many attempts that the others are deleted one by one.",
    )

    def __str__(self) -> str:
        return self.name
