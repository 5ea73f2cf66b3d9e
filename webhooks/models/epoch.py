"""The clusters whose transaction ids are stored (invariant 13)."""

from django.db import models
from django.db.models.functions import Now


class Epoch(models.Model):
    """A stretch of time in which transaction ids only grow: the life of one cluster.

    A restored dump, a promoted standby, an upgrade and a logical copy begin the next epoch; all rows
    of an earlier epoch come before those of a later one. Postgres itself names the current one (webhooks_current_epoch(), made in migration 0006); webhooks/postgres/epoch.py keeps the rows.
    """

    number = models.BigIntegerField(primary_key=True)
    cluster = models.TextField(help_text="Its system identifier and timeline.")
    started_at = models.DateTimeField(db_default=Now())

    def __str__(self) -> str:
        return f"epoch {self.number}"
