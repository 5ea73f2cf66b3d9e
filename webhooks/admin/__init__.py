"""The operators' admin: one module per screen.

No domain logic lives here: screens read rows and webhooks.figures.history, and act through webhooks.service
and webhooks.repair.redelivery. GET requests change nothing; every write leaves an audit entry.
"""

from importlib import import_module

from django.apps import apps

SCREENS = (
    "api_tokens",
    "audit_entries",
    "deliveries",
    "events",
    "queue",
    "redeliveries",
    "webhooks",
)

# Templates of other doors load a library of this package, too.
if apps.is_installed("django.contrib.admin"):
    for _screen in SCREENS:
        import_module(f"webhooks.admin.{_screen}")
