"""Which users see what in the admin; webhooks/doors/access.py says who may act."""

from typing import Any

from webhooks.doors import access

VIEW_WEBHOOK = "webhooks.view_webhook"
VIEW_EVENT = "webhooks.view_event"
VIEW_DELIVERY = "webhooks.view_delivery"
VIEW_REDELIVERY = "webhooks.view_redelivery"


def may_view(user: Any, permission: str) -> bool:
    """Return whether a user may view a model; permission to change includes it."""
    return bool(
        user.has_perm(permission) or user.has_perm(permission.replace(".view_", ".change_"))
    )


def permissions_of(user: Any) -> dict[str, bool]:
    """Return the flags for templates: which buttons and contents to show."""
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
        "can_open_portal": access.may(user, access.OPEN_PORTAL),
        "can_view_redelivery": may_view(user, VIEW_REDELIVERY),
    }
