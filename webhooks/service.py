"""The public Python API: trigger events, manage webhooks, look at deliveries.

A caller's mistake raises at once; nothing here ever raises because of delivery.
"""

from typing import Any

from webhooks.models import Delivery, Webhook
from webhooks.models.delivery import DeliveryQuerySet
from webhooks.models.owners import owner_key
from webhooks.outbox.batch import trigger_each
from webhooks.outbox.explain import Considered, Explanation, explain
from webhooks.outbox.filtering import LeftOut, Preview, preview_filter
from webhooks.outbox.store import Owner, Trigger, trigger_event, trigger_events
from webhooks.outbox.versions import render_event, webhooks_pinning
from webhooks.registry.changes import (
    create_webhook,
    delete_webhook,
    put_webhook,
    update_webhook,
)
from webhooks.registry.portal_links import create_link as create_portal_link
from webhooks.registry.portal_links import find_session as find_portal_session
from webhooks.registry.portal_links import links_of as get_portal_links
from webhooks.registry.portal_links import open_link as open_portal_link
from webhooks.registry.portal_links import revoke_link as revoke_portal_link
from webhooks.registry.secrets import revoke_secret, rotate_secret
from webhooks.registry.switch import cancel, disable, pause_sending, resume_sending, try_now
from webhooks.registry.warnings import warnings_of
from webhooks.repair.missed import count_missed, enable
from webhooks.repair.proof import Proof, prove
from webhooks.repair.redelivery import redeliver, redeliver_one, replay
from webhooks.repair.redelivery_scope import Scope
from webhooks.workbench.diagnosis import diagnose
from webhooks.workbench.enabling import enable_if_it_answers
from webhooks.workbench.test_send import Tryout
from webhooks.workbench.test_send import send_test as test_webhook

__all__ = [
    "Considered",
    "Explanation",
    "LeftOut",
    "Preview",
    "Proof",
    "Scope",
    "Trigger",
    "Tryout",
    "cancel",
    "count_missed",
    "create_portal_link",
    "create_webhook",
    "delete_webhook",
    "diagnose",
    "disable",
    "enable",
    "enable_if_it_answers",
    "explain",
    "find_portal_session",
    "get_deliveries",
    "get_portal_links",
    "get_webhooks",
    "open_portal_link",
    "pause_sending",
    "preview_filter",
    "prove",
    "put_webhook",
    "redeliver",
    "redeliver_one",
    "render_event",
    "replay",
    "resume_sending",
    "revoke_portal_link",
    "revoke_secret",
    "rotate_secret",
    "test_webhook",
    "trigger_each",
    "trigger_event",
    "trigger_events",
    "try_now",
    "update_webhook",
    "warnings_of",
    "webhooks_pinning",
]


def get_webhooks(owner: Owner) -> Any:
    """Return the owner's webhooks, newest first."""
    return Webhook.objects.for_owner(owner_key(owner)).order_by("-id")


def get_deliveries(
    webhook: Webhook, owner: Owner, *, status: str | None = None
) -> DeliveryQuerySet:
    """Return a webhook's deliveries, newest first; none if the webhook is not the owner's."""
    deliveries = Delivery.objects.filter(
        webhook=webhook, webhook__owner_id=owner_key(owner)
    ).select_related("event")
    if status is not None:
        deliveries = deliveries.filter(status=status)
    return deliveries.order_by("-id")
