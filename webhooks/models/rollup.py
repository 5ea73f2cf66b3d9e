"""Roll-ups: the figures of whole hours, kept so that nobody need count their deliveries again.

An hour of a webhook is rolled up when all of its deliveries are finished, and once more together with
the other hours of its day. It is that of their ids, because these are found by their ids; `starts_at` is the hour in which they were created, which may
be the one before. Whoever changes or deletes finished deliveries reopens their hours in the same
transaction (webhooks/figures/cells.py); readers then count them again, and a chore rolls them up anew.
"""

from typing import ClassVar

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models.functions import Now

from webhooks.models.owner_keys import owner_key_field


class HourFigures(models.Model):
    """The deliveries of one webhook and event type, of one hour or the 24 of a day."""

    pk = models.CompositePrimaryKey("webhook_id", "hours", "hour", "event_type", "starts_at")
    # Without foreign keys: deliveries have none either.
    webhook_id = models.UUIDField()
    owner_id = owner_key_field()
    hours = models.SmallIntegerField(help_text="1 or 24.")
    hour = models.IntegerField(help_text="The first one, of their ids, in hours since 1970.")
    event_type = models.CharField(max_length=100)
    starts_at = models.DateTimeField(help_text="The hour or day in which they were created.")
    deliveries = models.IntegerField()
    succeeded = models.IntegerField()
    failed = models.IntegerField()
    cancelled = models.IntegerField()
    sent = models.IntegerField()
    parked = models.IntegerField()
    last_success_at = models.DateTimeField(null=True)
    last_failure_at = models.DateTimeField(null=True)
    # How often each duration occurred, so that percentiles of many hours together are exact.
    durations_ms = ArrayField(models.BigIntegerField())
    duration_counts = ArrayField(models.BigIntegerField())
    waits_ms = ArrayField(models.BigIntegerField())
    wait_counts = ArrayField(models.BigIntegerField())
    failures = models.JSONField(
        help_text="Kind, response code, attempts, deliveries and latest time of failed attempts."
    )

    class Meta:
        indexes: ClassVar = [
            models.Index(fields=["owner_id", "hours", "hour"], name="hour_figures_owner"),
            models.Index(fields=["hours", "hour"], name="hour_figures_hour"),
        ]

    def __str__(self) -> str:
        return f"{self.webhook_id} {self.hour} {self.event_type}"


class ReopenedHour(models.Model):
    """A webhook's hour whose deliveries are counted anew; there may be several rows of one."""

    webhook_id = models.UUIDField()
    owner_id = owner_key_field()
    hour = models.IntegerField()
    due_at = models.DateTimeField(
        db_default=Now(), help_text="When the chore looks whether it can be rolled up."
    )

    class Meta:
        indexes: ClassVar = [
            models.Index(fields=["webhook_id", "hour"], name="reopened_hour_webhook"),
            models.Index(fields=["hour"], name="reopened_hour"),
            models.Index(fields=["due_at"], name="reopened_hour_due"),
        ]

    def __str__(self) -> str:
        return f"{self.webhook_id} {self.hour}"


class RolledUp(models.Model):
    """Which hours are rolled up: one row."""

    id = models.BooleanField(primary_key=True, default=True)
    first_hour = models.IntegerField(help_text="The first one.")
    end_hour = models.IntegerField(help_text="The one after the last.")
    settled_hour = models.IntegerField(
        default=0, help_text="No transaction can add deliveries to hours before it any more."
    )
    waits_for = models.BigIntegerField(
        null=True, help_text="The transaction before which all must have ended."
    )
    settles_hour = models.IntegerField(default=0, help_text="What is settled then.")

    def __str__(self) -> str:
        return f"hours {self.first_hour} to {self.end_hour}"
