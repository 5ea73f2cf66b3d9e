"""Enable a webhook only if its receiver responds to a test request."""

from django.conf import settings
from django.db import transaction

from webhooks.errors import WebhookNotSendingError, WebhookUnprovedError
from webhooks.models import Webhook
from webhooks.registry import switch
from webhooks.workbench.test_send import Tryout, send_test


def enable_if_it_answers(webhook: Webhook, *, send: switch.Waiting = "recent") -> Tryout:
    """Send a test request to a disabled webhook, and enable it if the response is 2xx.

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
        with transaction.atomic():
            switch.enable(webhook, send=send)
    return tryout
