"""Warnings about webhooks: settings that are allowed, but rarely meant."""

import logging

from django.conf import settings

from webhooks import catalog
from webhooks.choices import Form
from webhooks.models import Webhook
from webhooks.models.data_fields import known_fields
from webhooks.models.endpoint_proof import host_cap, host_of
from webhooks.models.filters import types_left_out
from webhooks.pace.bounds import named
from webhooks.registry.switch import UNPROVED
from webhooks.wire.url_rules import is_same_url

logger = logging.getLogger(__name__)

SHOWN_TWINS = 3


ASKED_SOON = "We send its receiver a challenge now."
ASKED_AGAIN = "The last challenge failed: {error} We ask again at {when:%H:%M:%S} UTC."
ASKED_NO_MORE = (
    "The last challenge failed: {error} We ask no more by ourselves: mend the receiver first."
)
CAPPED = (
    " Until then its deliveries wait while {host} gets {cap} requests per second from webhooks that are"
    " not verified."
)
NOT_ASKED = "Its receiver then gets a challenge."


def warnings_of(webhook: Webhook, *, with_others: bool = True) -> list[str]:
    """Return the warnings about a webhook, one line each. One statement.

    A warning names a missing proof of the endpoint, event types of which the filter lets no event
    through or that have none of the chosen fields, deprecated versions that it pins, or the owner's
    other webhooks with the same URL that receive some of the same events; these last ones only
    `with_others`.
    """
    others = _twins_of(webhook) if with_others else []
    return [*unproved(webhook), *_warnings_of_settings(webhook), *others]


def log_warnings(webhook: Webhook) -> None:
    """Log the warnings about the settings, without a missing proof."""
    for warning in [*_warnings_of_settings(webhook), *_twins_of(webhook)]:
        logger.warning("Webhook %s: %s", webhook.public_id, warning)


def unproved(webhook: Webhook) -> list[str]:
    """Say that the proof of the endpoint is missing, why, and what to do; empty if none is wanted.

    No statement.
    """
    if settings.WEBHOOKS_ENDPOINT_PROOF == "off" or webhook.verified:
        return []
    error, due_at = webhook.proof_error, webhook.proof_due_at
    if due_at is not None and error:
        told = ASKED_AGAIN.format(error=error, when=due_at)
    elif due_at is not None:
        told = ASKED_SOON
    else:
        told = ASKED_NO_MORE.format(error=error) if error else NOT_ASKED
    return [f"{UNPROVED} {told}{_capped(webhook)}"]


def _capped(webhook: Webhook) -> str:
    cap = host_cap()
    if cap is None or not webhook.active:
        return ""
    return CAPPED.format(cap=cap, host=host_of(webhook.url))


def _warnings_of_settings(webhook: Webhook) -> list[str]:
    return [*_left_out_by(webhook), *_outdated(webhook), *_emptied_by(webhook)]


def _left_out_by(webhook: Webhook) -> list[str]:
    if webhook.filter is None:
        return []
    names = types_left_out(webhook.filter, webhook.event_types)
    lacking = "They lack a field that it asks for."
    return [f"The filter lets no event of {named(names)} through. {lacking}"] if names else []


def _outdated(webhook: Webhook) -> list[str]:
    names = [one.name for one in webhook.event_types if one.is_deprecated_at(webhook.version)]
    if not names:
        return []
    newest = catalog.current_version().isoformat()
    return [f"It gets {named(names)} in a deprecated version; {newest} is the newest one."]


def _emptied_by(webhook: Webhook) -> list[str]:
    if webhook.form != Form.FIELDS:
        return []
    fields = webhook.data_fields or ()
    names = [
        one.name for one in webhook.event_types if not known_fields(fields, one, webhook.version)
    ]
    return [f"{named(names)}: no field of data is chosen, which is sent empty."] if names else []


def _twins_of(webhook: Webhook) -> list[str]:
    others = Webhook.objects.for_owner(webhook.owner_id).exclude(pk=webhook.pk).order_by("-id")
    twins = [
        f"{other.name} ({other.public_id})"
        for other in others.only("name", "url", "events")
        if is_same_url(other.url, webhook.url) and _share_types(other, webhook)
    ]
    if not twins:
        return []
    more = f" and {len(twins) - SHOWN_TWINS} more" if len(twins) > SHOWN_TWINS else ""
    return [
        f"Other webhooks have the same URL and receive some of the same events: "
        f"{', '.join(twins[:SHOWN_TWINS])}{more}. Each of them sends such an event with the same "
        "webhook-id, so a receiver that drops repeated ids handles only the first."
    ]


def _share_types(one: Webhook, other: Webhook) -> bool:
    names = (event_type.name for event_type in catalog.all_types())
    return any(one.receives(name) and other.receives(name) for name in names)
