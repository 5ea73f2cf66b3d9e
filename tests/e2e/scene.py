"""The demo's history, and the workers that would have sent it."""

from datetime import timedelta

from django.utils import timezone

from sessions_app.management import demo_history
from webhooks.models import Webhook, WorkerHeartbeat


def build_day() -> dict[str, Webhook]:
    """Make the cast and its last 24 hours; returns the webhooks by name."""
    now = timezone.now()
    webhooks = demo_history.build(now)
    WorkerHeartbeat.objects.create(
        host="worker-1", pid=4127, in_flight=37, started_at=now - timedelta(days=3)
    )
    WorkerHeartbeat.objects.create(
        host="worker-2", pid=3981, in_flight=41, started_at=now - timedelta(hours=7)
    )
    return webhooks
