"""Who may do what that reaches beyond his own webhooks: one table for all doors.

Owners need nothing of this for what is theirs. A command is run by whoever has a shell on the
server; it asks nobody.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

VIEW_PAYLOAD = "webhooks.view_payload"
REVEAL = "webhooks.reveal_signingsecret"


class Deed(NamedTuple):
    """Something to do, the permissions that are needed for it, all of them, and its doors."""

    what: str
    permissions: tuple[str, ...]
    admin: tuple[str, ...] = ()
    """Names of operations, as in the admin's URLs."""
    api: tuple[str, ...] = ()
    """Methods and paths below /api/v1."""
    commands: tuple[str, ...] = ()


VIEW_QUEUE = Deed(
    "see the queue, its workers and its chores",
    ("webhooks.view_workerheartbeat",),
    api=("GET /queue",),
    commands=("stats", "doctor"),
)
PAUSE = Deed(
    "stop all sending and start it again",
    ("webhooks.pause_sending",),
    admin=("workerheartbeat_pause", "workerheartbeat_resume"),
    api=("POST /queue/pause", "POST /queue/resume"),
    commands=("pause",),
)
REDELIVER = Deed(
    "send anybody's deliveries again, or cancel them",
    ("webhooks.redeliver_delivery",),
    admin=(
        "webhook_redeliver-failed", "event_replay", "delivery_redeliver", "delivery_cancel",
        "redelivery_new", "redelivery_cancel", "redelivery_dismiss",
    ),
    api=("POST /queue/retry-failed",),
    commands=("redeliver",),
)  # fmt: skip
TRIGGER_FOR_OTHERS = Deed(
    # The token is the grant: it serves as long as its user is staff, also without the permission.
    "make service tokens, which trigger anybody's events",
    ("webhooks.trigger_for_others",),
    api=("POST /tokens with isService",),
    commands=("trigger",),
)  # fmt: skip
MAKE_TOKEN = Deed("make a token of somebody", ("webhooks.add_apitoken",), admin=("apitoken_new",))
ADD_WEBHOOK = Deed(
    # Whoever makes one sees its secret.
    "make a webhook of somebody",
    ("webhooks.add_webhook", REVEAL),
    admin=("webhook_new",),
)
ADD_PLATFORM_WEBHOOK = Deed(
    # It hears every owner's events, with all that is in them.
    "make a platform webhook",
    (*ADD_WEBHOOK.permissions, VIEW_PAYLOAD),
    admin=("webhook_new, as platform webhook",),
)
CHANGE_WEBHOOK = Deed(
    "test, enable and disable somebody's webhook, and revoke its older secrets",
    ("webhooks.change_webhook",),
    admin=("webhook_test", "webhook_enable", "webhook_disable", "webhook_revoke-secrets"),
)
CHANGE_PLATFORM_WEBHOOK = Deed(
    # Who turns its URL to himself reads what it hears.
    "change the settings of a platform webhook",
    (*CHANGE_WEBHOOK.permissions, VIEW_PAYLOAD),
    admin=("webhook_settings, of a platform webhook",),
)
DELETE_WEBHOOK = Deed(
    "delete somebody's webhook", ("webhooks.delete_webhook",), admin=("webhook_remove",)
)
ROTATE = Deed(
    "replace somebody's signing secret",
    ("webhooks.change_webhook", REVEAL),
    admin=("webhook_rotate-secret",),
)
REVEAL_SECRET = Deed("see signing secrets", (REVEAL,), admin=("webhook_reveal-secrets",))

DEEDS = (
    VIEW_QUEUE, PAUSE, REDELIVER, TRIGGER_FOR_OTHERS, MAKE_TOKEN, ADD_WEBHOOK,
    ADD_PLATFORM_WEBHOOK, CHANGE_WEBHOOK, CHANGE_PLATFORM_WEBHOOK, DELETE_WEBHOOK, ROTATE,
    REVEAL_SECRET,
)  # fmt: skip


def may(user: Any, deed: Deed) -> bool:
    """Say whether a user may do it: active staff with all of its permissions, at every door."""
    return bool(user.is_active and user.is_staff and user.has_perms(deed.permissions))


def table() -> Iterator[str]:
    """Yield the lines of the table in docs/security.md."""
    yield "| who may | permissions, all of them | admin | API | command |"
    yield "| --- | --- | --- | --- | --- |"
    for deed in DEEDS:
        doors = (", ".join(f"`{one}`" for one in found) for found in deed[1:])
        yield f"| {deed.what} | {' | '.join(doors)} |"
