"""Enable a webhook only where its receiver answers a test request."""

from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from webhooks.errors import WebhookNotSendingError, WebhookUnprovedError
from webhooks.models import Webhook
from webhooks.registry import switch
from webhooks.workbench.test_send import Tryout, send_test

HOLD = timedelta(seconds=60)
"""How long deliveries wait at most while the test is out; a test takes 15 s at most."""


def enable_if_it_answers(webhook: Webhook, *, send: switch.Waiting = "recent") -> Tryout:
    """Send a test request to a disabled webhook, and enable it where the receiver answers 2xx.

    During the test the webhook is on but held back, so that no delivery goes out. If the test fails
    it is disabled again for the same reason. Blocks for 15 s at most; call it outside of
    transactions. Raises WebhookUnprovedError and WebhookNotSendingError, and changes nothing then.
    A process that dies during the test leaves the webhook on; after HOLD its deliveries go out.
    """
    if settings.WEBHOOKS_ENDPOINT_PROOF == "require" and not webhook.verified:
        raise WebhookUnprovedError
    before = _hold(webhook)
    succeeded = False
    try:
        tryout = send_test(webhook)
        succeeded = tryout.succeeded
    finally:
        if not succeeded:
            _disable_again(webhook, before)
    if succeeded:
        with transaction.atomic():
            switch.enable(webhook, send=send)
    return tryout


def _hold(webhook: Webhook) -> dict[str, Any]:
    """Switch a disabled webhook on, held back; return how it was."""
    with transaction.atomic():
        row = Webhook.objects.select_for_update(no_key=True).filter(
            pk=webhook.pk, active=False, deleted_at=None
        )
        before = row.values("disabled_reason", "disabled_at", "held_until").first()
        if before is None:
            raise WebhookNotSendingError("This webhook is not disabled any more.")
        row.update(active=True, held_until=timezone.now() + HOLD)
    return dict(before)


def _disable_again(webhook: Webhook, before: dict[str, Any]) -> None:
    # Only what is still as _hold() left it: somebody may have enabled it meanwhile.
    rows = Webhook.objects.filter(pk=webhook.pk, active=True, disabled_at=before["disabled_at"])
    rows.update(active=False, held_until=before["held_until"])
    webhook.refresh_from_db()
