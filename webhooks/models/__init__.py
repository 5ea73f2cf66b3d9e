from webhooks.models.delivery import Attempt, Delivery
from webhooks.models.endpoint_proof import UnverifiedHost
from webhooks.models.epoch import Epoch
from webhooks.models.event import Event
from webhooks.models.inbox import Inbox, InboxRequest
from webhooks.models.operations import (
    AuditEntry,
    Chore,
    ExpiringPartition,
    IdempotentAnswer,
    Pause,
    Redelivery,
    RedeliveryTakeover,
)
from webhooks.models.portal import PortalLink
from webhooks.models.rollup import HourFigures, ReopenedHour, RolledUp
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
    "ExpiringPartition",
    "HourFigures",
    "IdempotentAnswer",
    "Inbox",
    "InboxRequest",
    "Pause",
    "PortalLink",
    "Redelivery",
    "RedeliveryTakeover",
    "ReopenedHour",
    "RolledUp",
    "SigningSecret",
    "StoredForm",
    "UnverifiedHost",
    "Webhook",
    "WorkerHeartbeat",
]
