"""The audit log: who did what to what, when and from where. Append-only, and free of secrets.

The caller names what changed; what looks like a secret is refused here, so that a careless caller
writes that it changed, never what it was.
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
    """Write one entry. `subject` is an object or a reference; `actor` None means the system itself.

    `changes` maps a field to `[old, new]`, or any other fact about the action to its value.
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
    """Return `webhook:0190…`: the model and the primary key."""
    return f"{subject._meta.model_name}:{subject.pk}"


def history(subject: Model) -> QuerySet[AuditEntry]:
    """Return what was done to an object, the latest first."""
    return AuditEntry.objects.filter(object_reference=reference_to(subject)).order_by("-id")


def _storable(name: str, value: Any) -> Any:
    if any(word in name.lower() for word in SECRET_WORDS):
        return HIDDEN
    if isinstance(value, (list, tuple)):
        return [_storable(name, part) for part in value]
    if isinstance(value, str):
        # NUL has no place in a jsonb column.
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
