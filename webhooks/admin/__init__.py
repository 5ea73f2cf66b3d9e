"""The operators' admin: one module per screen.

No domain logic lives here: screens read rows and webhooks.stats, and act through webhooks.service
and webhooks.redelivery. Looking changes nothing, every write leaves an audit entry.
"""

from webhooks.admin import audit_entries, deliveries, events, queue, redeliveries, webhooks

__all__ = ["audit_entries", "deliveries", "events", "queue", "redeliveries", "webhooks"]
