"""The permissions for actions on other users' webhooks: one table for all doors.

Owners need no permission for their own webhooks. Commands check none, since a person with a shell on
the server has its keys too.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

VIEW_PAYLOAD = "webhooks.view_payload"
REVEAL = "webhooks.reveal_signingsecret"


class Deed(NamedTuple):
    """An action, the permissions that it needs (all of them), and its doors."""

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
    "pause and resume all sending",
    ("webhooks.pause_sending",),
    admin=("workerheartbeat_pause", "workerheartbeat_resume"),
    api=("POST /queue/pause", "POST /queue/resume"),
    commands=("pause",),
)
REDELIVER = Deed(
    "redeliver or cancel other users' deliveries",
    ("webhooks.redeliver_delivery",),
    admin=(
        "webhook_redeliver-failed", "event_replay", "delivery_redeliver", "delivery_cancel",
        "redelivery_new", "redelivery_cancel", "redelivery_dismiss",
    ),
    api=("POST /queue/retry-failed",),
    commands=("redeliver",),
)  # fmt: skip
TRIGGER_FOR_OTHERS = Deed(
    # The token itself is the grant: it works while its user is staff, even without the permission.
    "make service tokens, which trigger events of every user",
    ("webhooks.trigger_for_others",),
    api=("POST /tokens with isService",),
    commands=("trigger",),
)  # fmt: skip
MAKE_TOKEN = Deed(
    # A program with one reads payloads, replaces secrets and makes links into the portal.
    "make tokens for other users",
    ("webhooks.add_apitoken", VIEW_PAYLOAD, REVEAL),
    admin=("apitoken_new",),
)
ADD_WEBHOOK = Deed(
    # The person who creates one sees its secret.
    "create webhooks for other users",
    ("webhooks.add_webhook", REVEAL),
    admin=("webhook_new",),
)
ADD_PLATFORM_WEBHOOK = Deed(
    # It receives every owner's events with their payloads.
    "create platform webhooks",
    (*ADD_WEBHOOK.permissions, VIEW_PAYLOAD),
    admin=("webhook_new, as platform webhook",),
)
CHANGE_WEBHOOK = Deed(
    "test, verify, try, enable and disable other users' webhooks, and revoke their older secrets",
    ("webhooks.change_webhook",),
    admin=(
        "webhook_test", "webhook_challenge", "webhook_try-now", "webhook_enable",
        "webhook_disable", "webhook_revoke-secrets",
    ),
    commands=("enable",),
)  # fmt: skip
CHANGE_SETTINGS = Deed(
    # A person who changes a webhook's URL can read the payloads that it receives.
    "change the settings of other users' and platform webhooks",
    (*CHANGE_WEBHOOK.permissions, VIEW_PAYLOAD),
    admin=("webhook_settings, its form",),
)
DELETE_WEBHOOK = Deed(
    "delete other users' webhooks", ("webhooks.delete_webhook",), admin=("webhook_remove",)
)
ROTATE = Deed(
    "replace other users' signing secrets",
    ("webhooks.change_webhook", REVEAL),
    admin=("webhook_rotate-secret",),
)
REVEAL_SECRET = Deed("see signing secrets", (REVEAL,), admin=("webhook_reveal-secrets",))

OPEN_PORTAL = Deed(
    # A session there reads payloads, and may rotate secrets.
    "make links into somebody's portal",
    ("webhooks.add_portallink", VIEW_PAYLOAD, REVEAL),
    admin=("webhook_portal-link",),
    api=("POST /portal-links with userId",),
)

OWN_SECOND_FACTOR = Deed("set up a second factor of their own", ())
"""Any member of staff; not in the table, which is about what belongs to others."""

DEEDS = (
    VIEW_QUEUE, PAUSE, REDELIVER, TRIGGER_FOR_OTHERS, MAKE_TOKEN, ADD_WEBHOOK,
    ADD_PLATFORM_WEBHOOK, CHANGE_WEBHOOK, CHANGE_SETTINGS, DELETE_WEBHOOK, ROTATE,
    REVEAL_SECRET, OPEN_PORTAL,
)  # fmt: skip


def is_staff(user: Any) -> bool:
    """Return whether a user is staff; where the project's users have no such attribute, nobody is."""
    return bool(getattr(user, "is_staff", False))


def may(user: Any, deed: Deed) -> bool:
    """Return whether a user may perform an action: active staff with all of its permissions.

    Users of a project without permissions have none.
    """
    has_perms = getattr(user, "has_perms", lambda _: False)
    return bool(user.is_active and is_staff(user) and has_perms(deed.permissions))


def table() -> Iterator[str]:
    """Yield the lines of the table in docs/security.md."""
    yield "| who may | permissions, all of them | admin | API | command |"
    yield "| --- | --- | --- | --- | --- |"
    for deed in DEEDS:
        doors = (", ".join(f"`{one}`" for one in found) for found in deed[1:])
        yield f"| {deed.what} | {' | '.join(doors)} |"
