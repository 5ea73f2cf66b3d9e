"""What operators and the API leave behind: redeliveries, pauses, the audit log, stored answers."""

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from webhooks.ids import REDELIVERY_PREFIX, new_id


class Redelivery(models.Model):
    """A person's request to send deliveries once more, or events that a webhook never got."""

    class Status(models.TextChoices):
        RUNNING = "running", "Running"
        DONE = "done", "Done"
        CANCELLED = "cancelled", "Cancelled"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    scope = models.JSONField(default=dict, help_text="What was asked for (webhooks/redelivery.py).")
    is_replay = models.BooleanField(
        default=False, help_text="Creates deliveries that never existed instead of repeating some."
    )
    status = models.CharField(max_length=9, choices=Status, default=Status.RUNNING)
    rate_limit = models.FloatField(null=True, help_text="Deliveries per second; null for no limit.")
    matched_count = models.PositiveIntegerField(default=0)
    queued_count = models.PositiveIntegerField(default=0)
    # How far it came, so that it can go on after a crash.
    cursor = models.UUIDField(null=True)
    requested_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+"
    )
    created_at = models.DateTimeField(db_default=Now())
    finished_at = models.DateTimeField(null=True)
    dismissed_at = models.DateTimeField(null=True)

    class Meta:
        verbose_name_plural = "redeliveries"
        indexes = [
            # Housekeeping: what is to be gone on with.
            models.Index(fields=["id"], name="redelivery_running", condition=Q(status="running"))
        ]

    def __str__(self) -> str:
        return f"redelivery {self.public_id}"

    @property
    def public_id(self) -> str:
        return REDELIVERY_PREFIX + self.id.hex


class Pause(models.Model):
    """The switch that stops all sending; one row while it is on."""

    id = models.BooleanField(primary_key=True, default=True)
    reason = models.CharField(max_length=500, blank=True)
    paused_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+"
    )
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        permissions = [("pause_sending", "Can stop all sending and start it again")]
        constraints = [models.CheckConstraint(condition=Q(id=True), name="only_one_pause")]

    def __str__(self) -> str:
        return f"paused since {self.created_at}"


class AuditEntry(models.Model):
    """Who did what to what, without secrets."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    actor_id = models.UUIDField(null=True)
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


class IdempotentAnswer(models.Model):
    """The stored answer to a POST with an Idempotency-Key; encrypted, as it may hold a secret."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    # Not always a user's id (webhooks/api/idempotency.py).
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
