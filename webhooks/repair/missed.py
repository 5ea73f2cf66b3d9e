"""What a webhook missed while it was disabled: counted, and sent when it is enabled again.

Events that are triggered meanwhile get no delivery for it.
"""

from datetime import datetime
from typing import Any, NamedTuple

from django.db import transaction
from django.db.models import QuerySet

from webhooks.models import Event, Redelivery, Webhook
from webhooks.models.delivery import COUNTED_AT_MOST
from webhooks.registry import switch
from webhooks.repair.redelivery import replay
from webhooks.repair.redelivery_scope import missing, replay_scope


class Enabled(NamedTuple):
    """What enabling a webhook set going."""

    waiting: int
    """Its pending deliveries; like the next one, COUNTED_AT_MOST + 1 at most."""
    missed: int
    """The events that it missed while it was disabled."""
    replay: Redelivery | None
    """The request to send these; None unless the caller asked for it, and if it missed none."""


def missed_events(webhook: Webhook) -> QuerySet[Event]:
    """Return the events that a disabled webhook has missed since; none of an active one."""
    disabled_at = _disabled_at(webhook)
    if disabled_at is None:
        return Event.objects.none()
    return missing(webhook, replay_scope(webhook, disabled_at))


def _disabled_at(webhook: Webhook) -> datetime | None:
    # The instance may be older than another transaction's change.
    disabled = Webhook.objects.filter(id=webhook.id, active=False, deleted_at=None)
    return disabled.values_list("disabled_at", flat=True).first()


def count_missed(webhook: Webhook) -> int:
    """Return the number of missed_events(), COUNTED_AT_MOST + 1 at most."""
    return missed_events(webhook).order_by()[: COUNTED_AT_MOST + 1].count()


@transaction.atomic
def enable(
    webhook: Webhook,
    *,
    send: switch.Waiting = "recent",
    send_missed: bool = False,
    requested_by: Any = None,
) -> Enabled:
    """Enable a webhook as if it had never failed, and send what it missed if so desired.

    Cancels the pending deliveries that `send` leaves out. Raises WebhookUnprovedError, and
    WebhookNotSendingError for a webhook that is not disabled, or deleted; nothing is changed then.
    """
    missed, disabled_at = count_missed(webhook), _disabled_at(webhook)
    waiting = switch.enable(webhook, send=send)
    asked = None
    if send_missed and missed:
        asked = replay(webhook, disabled_at, requested_by=requested_by, matched_count=missed)
    return Enabled(waiting, missed, asked)
