"""Ready-made groups of staff: Support, Operator and Administrator.

`migrate` creates those that are missing, and leaves those that exist as superusers changed them.
"""

from typing import Any

from django.contrib.auth.models import Group, Permission
from django.db import DEFAULT_DB_ALIAS
from django.db.models import Q

SUPPORT = {
    "projects": ("view_project", "view_user"),
    "sessions_app": ("view_agent", "view_sessionmessage", "view_recording", "view_session"),
    "webhooks": (
        "view_apitoken", "view_attempt", "view_delivery", "view_event", "view_redelivery",
        "view_webhook", "view_workerheartbeat",
    ),
}  # fmt: skip
"""See everything but payloads, secrets and the audit log; change nothing."""

OPERATOR = {
    **SUPPORT,
    "webhooks": (
        *SUPPORT["webhooks"], "change_webhook", "pause_sending", "redeliver_delivery",
        "view_auditentry", "view_payload",
    ),
}  # fmt: skip
"""Also read payloads, test and switch webhooks, redeliver, and pause all sending."""

ADMINISTRATOR = {
    **OPERATOR,
    "webhooks": (
        *OPERATOR["webhooks"], "add_apitoken", "add_portallink", "add_webhook", "delete_apitoken", "delete_webhook",
        "reveal_signingsecret", "trigger_for_others",
    ),
}  # fmt: skip
"""Also make and delete webhooks and tokens of others, and see signing secrets."""

GROUPS = {"Support": SUPPORT, "Operator": OPERATOR, "Administrator": ADMINISTRATOR}


def create_groups(**_: Any) -> None:
    """Create the groups for which Django has made all permissions, at the end of a migration."""
    # A replica does not show yet what the migration has made.
    groups = Group.objects.using(DEFAULT_DB_ALIAS)
    existing = set(groups.filter(name__in=GROUPS).values_list("name", flat=True))
    for name, wanted in GROUPS.items():
        if name in existing:
            continue
        conditions = Q()
        for app, codenames in wanted.items():
            conditions |= Q(content_type__app_label=app, codename__in=codenames)
        permissions = Permission.objects.using(DEFAULT_DB_ALIAS).filter(conditions)
        if len(permissions) == sum(map(len, wanted.values())):
            groups.create(name=name).permissions.set(permissions)
