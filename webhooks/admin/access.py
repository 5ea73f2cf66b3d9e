"""What an operator may do: view, change, redeliver, reveal and pause are separate permissions."""

from typing import Any

VIEW_PAYLOAD = "webhooks.view_payload"
REDELIVER = "webhooks.redeliver_delivery"
REVEAL = "webhooks.reveal_signingsecret"
PAUSE = "webhooks.pause_sending"
ADD_WEBHOOK = "webhooks.add_webhook"
CHANGE_WEBHOOK = "webhooks.change_webhook"
DELETE_WEBHOOK = "webhooks.delete_webhook"
VIEW_WEBHOOK = "webhooks.view_webhook"
VIEW_EVENT = "webhooks.view_event"
VIEW_DELIVERY = "webhooks.view_delivery"
VIEW_REDELIVERY = "webhooks.view_redelivery"
VIEW_QUEUE = "webhooks.view_workerheartbeat"


def may_view(user: Any, permission: str) -> bool:
    """Say whether a user may look at a model; who may change something may look at it."""
    return bool(
        user.has_perm(permission) or user.has_perm(permission.replace(".view_", ".change_"))
    )


def permissions_of(user: Any) -> dict[str, bool]:
    """Return what templates ask for: which buttons and which contents to show."""
    return {
        "can_view_payload": user.has_perm(VIEW_PAYLOAD),
        "can_redeliver": user.has_perm(REDELIVER),
        "can_reveal": user.has_perm(REVEAL),
        "can_pause": user.has_perm(PAUSE),
        "can_change_webhook": user.has_perm(CHANGE_WEBHOOK),
        "can_delete_webhook": user.has_perm(DELETE_WEBHOOK),
        "can_view_delivery": may_view(user, VIEW_DELIVERY),
        "can_view_event": may_view(user, VIEW_EVENT),
        "can_view_webhook": may_view(user, VIEW_WEBHOOK),
        "can_view_queue": may_view(user, VIEW_QUEUE),
        "can_view_redelivery": may_view(user, VIEW_REDELIVERY),
    }
