"""The type of owners' ids: that of the owner model's primary key, as WEBHOOKS_OWNER_KEY names it.

Tables and statements have it from here; a system check compares it with the owner model. It is a
setting, because statements are built before the models are loaded.
"""

import uuid
from typing import Any

from django.conf import settings
from django.db import models

KINDS = ("uuid", "bigint", "text")

SQL_TYPE: str = settings.WEBHOOKS_OWNER_KEY
"""The SQL type of columns and parameters."""

if SQL_TYPE not in KINDS:
    raise ValueError(f"WEBHOOKS_OWNER_KEY is {SQL_TYPE!r}: use one of {', '.join(KINDS)}.")

NO_OWNER: Any = {"uuid": uuid.UUID(int=0), "bigint": 0, "text": ""}[SQL_TYPE]
"""Stands for the owner of platform webhooks' deliveries; it sorts before all owners."""

MOST_BIGINT = 2**63 - 1


def owner_key_field(**options: Any) -> Any:
    """Return a field for an owner's id, without a foreign key: events outlive their owners."""
    fields: dict[str, Any] = {
        "uuid": models.UUIDField,
        "bigint": models.BigIntegerField,
        "text": models.TextField,
    }
    return fields[SQL_TYPE](**options)


def parse_owner_key(value: object) -> Any:
    """Return an owner's id, given the id or its text; raises ValueError for anything else."""
    if SQL_TYPE == "uuid":
        return value if isinstance(value, uuid.UUID) else uuid.UUID(str(value))
    if SQL_TYPE == "bigint":
        number = int(str(value))
        if not -MOST_BIGINT <= number <= MOST_BIGINT:
            raise ValueError("The id is out of range.")
        return number
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("The id is not text.")
    return value
