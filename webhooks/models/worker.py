"""The life of a worker, which is the lease on everything it holds (invariant 5)."""

from django.db import models
from django.db.models.functions import Now

from webhooks.ids import new_id


class WorkerHeartbeat(models.Model):
    """One incarnation of a worker process; the row goes when nothing is marked as its own any more."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    host = models.CharField(max_length=255)
    pid = models.PositiveIntegerField()
    started_at = models.DateTimeField(db_default=Now())
    beat_at = models.DateTimeField(db_default=Now())
    declared_dead_at = models.DateTimeField(
        null=True, help_text="From then on it claims nothing, and what it held is taken back."
    )
    ended_in_order = models.BooleanField(
        db_default=False, help_text="What it left behind is suspect of nothing."
    )
    in_flight = models.PositiveIntegerField(default=0)
    full_windows = models.JSONField(
        default=dict,
        db_default={},
        help_text=(
            "By webhook (hex): how many requests it may have here, all of which are under way, and"
            " the milliseconds in which its receiver usually answers."
        ),
    )
    version = models.CharField(max_length=50, blank=True)

    def __str__(self) -> str:
        return f"{self.host}:{self.pid}"
