"""The audit log of actions: actor, object, changes, time and source address.

The log is append-only and holds no secrets: record() masks the values of fields whose names suggest
a secret, even if a caller passes them.
"""

import json
from collections.abc import Mapping
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder
from django.db.models import Model, QuerySet

from webhooks.models import AuditEntry

MAX_VALUE_CHARACTERS = 500
HIDDEN = "•••"
SECRET_WORDS = ("password", "secret", "headers", "token", "key")


def record(
    action: str,
    subject: Model | str,
    *,
    actor: Any = None,
    changes: Mapping[str, Any] | None = None,
    source_address: str | None = None,
    request_id: str = "",
) -> AuditEntry:
    """Write an entry and return it.

    `subject` is an object or a reference such as `webhook:0190…`. `actor` is a user or an id; None
    means the system. `changes` maps a field to `[old, new]`, or a fact about the action to its value.
    """
    return AuditEntry.objects.create(
        actor_id=getattr(actor, "pk", actor),
        action=action,
        object_reference=subject if isinstance(subject, str) else reference_to(subject),
        changes={name: _storable(name, value) for name, value in (changes or {}).items()},
        source_address=source_address,
        request_id=request_id,
    )


def reference_to(subject: Model) -> str:
    """Return the reference of an object, `webhook:0190…`: its model's name and primary key."""
    return f"{subject._meta.model_name}:{subject.pk}"


def history(subject: Model) -> QuerySet[AuditEntry]:
    """Return the entries about an object, the latest first."""
    return AuditEntry.objects.filter(object_reference=reference_to(subject)).order_by("-id")


def _storable(name: str, value: Any) -> Any:
    if any(word in name.lower() for word in SECRET_WORDS):
        return HIDDEN
    if isinstance(value, (list, tuple)):
        return [_storable(name, part) for part in value]
    if isinstance(value, str):
        # A jsonb column cannot store NUL.
        return value.replace("\0", "\ufffd")[:MAX_VALUE_CHARACTERS]
    if isinstance(value, Model):
        return reference_to(value)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    try:
        plain = json.loads(json.dumps(value, cls=DjangoJSONEncoder))
    except TypeError:
        plain = str(value)
    return plain if not isinstance(plain, str) else plain[:MAX_VALUE_CHARACTERS]
