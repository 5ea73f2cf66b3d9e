"""Enable a webhook only if its receiver responds to a test request."""

from typing import Any

from django.conf import settings

from webhooks.errors import WebhookNotSendingError, WebhookUnprovedError
from webhooks.models import Webhook
from webhooks.registry import switch
from webhooks.repair.missed import enable
from webhooks.workbench.test_send import Tryout, send_test


def enable_if_it_answers(
    webhook: Webhook,
    *,
    send: switch.Waiting = "recent",
    send_missed: bool = False,
    requested_by: Any = None,
) -> Tryout:
    """Send a test request to a disabled webhook, and enable() it if the response is 2xx.

    It stays disabled until then, so that no delivery goes out. Blocks for 15 s at most; call it
    outside of transactions. Raises WebhookUnprovedError and WebhookNotSendingError, and changes
    nothing then.
    """
    if settings.WEBHOOKS_ENDPOINT_PROOF == "require" and not webhook.verified:
        raise WebhookUnprovedError
    if not Webhook.objects.filter(pk=webhook.pk, active=False, deleted_at=None).exists():
        raise WebhookNotSendingError("This webhook is not disabled any more.")
    tryout = send_test(webhook, may_be_inactive=True)
    if tryout.succeeded:
        enable(webhook, send=send, send_missed=send_missed, requested_by=requested_by)
    return tryout
