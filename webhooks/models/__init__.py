from webhooks.models.delivery import Attempt, Delivery
from webhooks.models.epoch import Epoch
from webhooks.models.event import Event
from webhooks.models.operations import (
    AuditEntry,
    Chore,
    IdempotentAnswer,
    Pause,
    Redelivery,
    RedeliveryTakeover,
)
from webhooks.models.portal import PortalLink
from webhooks.models.signing_secret import SigningSecret
from webhooks.models.stored_form import StoredForm
from webhooks.models.token import ApiToken
from webhooks.models.webhook import Webhook
from webhooks.models.worker import WorkerHeartbeat

__all__ = [
    "ApiToken",
    "Attempt",
    "AuditEntry",
    "Chore",
    "Delivery",
    "Epoch",
    "Event",
    "IdempotentAnswer",
    "Pause",
    "PortalLink",
    "Redelivery",
    "RedeliveryTakeover",
    "SigningSecret",
    "StoredForm",
    "Webhook",
    "WorkerHeartbeat",
]
