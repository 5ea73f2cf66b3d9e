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
MOST_CHARACTERS = 200
"""Of a text that a request names an owner by."""


def owner_key_field(**options: Any) -> Any:
    """Return a field for an owner's id, without a foreign key: events outlive their owners."""
    fields: dict[str, Any] = {
        "uuid": models.UUIDField,
        "bigint": models.BigIntegerField,
        "text": models.TextField,
    }
    return fields[SQL_TYPE](**options)


def owner_key_schema() -> dict[str, Any]:
    """Return the JSON Schema of an owner's id, as parse_owner_key() takes it."""
    schemas: dict[str, dict[str, Any]] = {
        "uuid": {"type": "string", "format": "uuid"},
        "bigint": {"type": "integer", "minimum": -MOST_BIGINT, "maximum": MOST_BIGINT},
        "text": {"type": "string", "minLength": 1, "maxLength": MOST_CHARACTERS},
    }
    return schemas[SQL_TYPE]


def plain_owner_key(key: Any) -> Any:
    """Return an owner's id as JSON has it."""
    return str(key) if SQL_TYPE == "uuid" else key


def parse_owner_key(value: object) -> Any:
    """Return an owner's id, given the id or its text; raises ValueError for anything else."""
    if SQL_TYPE == "uuid":
        return value if isinstance(value, uuid.UUID) else uuid.UUID(str(value))
    if SQL_TYPE == "bigint":
        # JSON writes whole numbers as 1.0, too.
        is_whole = isinstance(value, float) and value.is_integer()
        number = int(value if is_whole else str(value))  # type: ignore[call-overload]
        if not -MOST_BIGINT <= number <= MOST_BIGINT:
            raise ValueError("The id is out of range.")
        return number
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("The id is not text.")
    return value
