"""The operators' admin: one module per screen.

No domain logic lives here: screens read rows and webhooks.figures.history, and act through webhooks.service
and webhooks.repair.redelivery. GET requests change nothing; every write leaves an audit entry.
"""

from webhooks.admin import (
    api_tokens,
    audit_entries,
    deliveries,
    events,
    queue,
    redeliveries,
    webhooks,
)

__all__ = [
    "api_tokens",
    "audit_entries",
    "deliveries",
    "events",
    "queue",
    "redeliveries",
    "webhooks",
]
