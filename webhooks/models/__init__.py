from webhooks.models.delivery import Attempt, Delivery
from webhooks.models.event import Event
from webhooks.models.operations import AuditEntry, IdempotentAnswer, Pause, Redelivery
from webhooks.models.webhook import SigningSecret, Webhook
from webhooks.models.worker import WorkerHeartbeat

__all__ = [
    "Attempt",
    "AuditEntry",
    "Delivery",
    "Event",
    "IdempotentAnswer",
    "Pause",
    "Redelivery",
    "SigningSecret",
    "Webhook",
    "WorkerHeartbeat",
]
