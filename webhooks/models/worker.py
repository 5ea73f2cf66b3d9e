"""The life of a worker, which is the lease on everything it holds (invariant 5)."""

from django.db import models
from django.db.models.functions import Now

from webhooks.ids import new_id


class WorkerHeartbeat(models.Model):
    """One incarnation of a worker process; the row is deleted after it holds no delivery any more."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    host = models.CharField(max_length=255)
    pid = models.PositiveIntegerField()
    started_at = models.DateTimeField(db_default=Now())
    beat_at = models.DateTimeField(db_default=Now())
    declared_dead_at = models.DateTimeField(
        null=True,
        help_text="From this time on it claims nothing, and other workers take back its deliveries.",
    )
    ended_in_order = models.BooleanField(
        db_default=False,
        help_text="It ended in order, so the deliveries that it left are not suspect.",
    )
    in_flight = models.PositiveIntegerField(default=0)
    full_windows = models.JSONField(
        default=dict,
        db_default={},
        help_text=(
            "By webhook (hex): the size of its full window in this worker, and its receiver's"
            " usual response time in milliseconds."
        ),
    )

    def __str__(self) -> str:
        return f"{self.host}:{self.pid}"
