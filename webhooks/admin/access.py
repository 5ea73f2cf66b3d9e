"""What the admin shows to whom; what may be done stands in webhooks/doors/access.py."""

from typing import Any

from webhooks.doors import access

VIEW_WEBHOOK = "webhooks.view_webhook"
VIEW_EVENT = "webhooks.view_event"
VIEW_DELIVERY = "webhooks.view_delivery"
VIEW_REDELIVERY = "webhooks.view_redelivery"


def may_view(user: Any, permission: str) -> bool:
    """Say whether a user may look at a model; who may change something may look at it."""
    return bool(
        user.has_perm(permission) or user.has_perm(permission.replace(".view_", ".change_"))
    )


def permissions_of(user: Any) -> dict[str, bool]:
    """Return what templates ask for: which buttons and which contents to show."""
    return {
        "can_view_payload": user.has_perm(access.VIEW_PAYLOAD),
        "can_redeliver": access.may(user, access.REDELIVER),
        "can_reveal": access.may(user, access.REVEAL_SECRET),
        "can_pause": access.may(user, access.PAUSE),
        "can_change_webhook": access.may(user, access.CHANGE_WEBHOOK),
        "can_delete_webhook": access.may(user, access.DELETE_WEBHOOK),
        "can_view_delivery": may_view(user, VIEW_DELIVERY),
        "can_view_event": may_view(user, VIEW_EVENT),
        "can_view_webhook": may_view(user, VIEW_WEBHOOK),
        "can_view_queue": access.may(user, access.VIEW_QUEUE),
        "can_view_redelivery": may_view(user, VIEW_REDELIVERY),
    }
