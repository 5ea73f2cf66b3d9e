"""Postgres columns and defaults without a field in Django."""

from typing import Any

from django.conf import settings
from django.db import models
from django.db.models.functions import Now


class TransactionIdField(models.BigIntegerField):  # type: ignore[type-arg]
    """A 64-bit transaction id (`xid8`); Postgres fills it in."""

    def db_type(self, connection: Any) -> str:
        return "xid8"

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> int | None:
        return None if value is None else int(value)


class JsonPathField(models.Field):  # type: ignore[type-arg]
    """A JSON path as Postgres has parsed it (`jsonpath`); its text in Python."""

    def db_type(self, connection: Any) -> str:
        return "jsonpath"

    def get_placeholder(self, value: Any, compiler: Any, connection: Any) -> str:
        return "%s::jsonpath"

    def get_placeholder_sql(
        self, value: Any, compiler: Any, connection: Any
    ) -> tuple[str, tuple[Any]]:
        """The same for Django 6.1 and newer."""
        return self.get_placeholder(value, compiler, connection), (value,)


def past_user(**options: Any) -> models.ForeignKey[Any, Any]:
    """Return a key of a user without a constraint or an index: the row outlives the user."""
    return models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.DO_NOTHING,
        null=True,
        related_name="+",
        db_index=False,
        db_constraint=False,
        **options,
    )


class CurrentTransactionId(models.Func):
    """The id of the transaction that inserts the row."""

    function = "pg_current_xact_id"
    template = "%(function)s()"
    output_field = TransactionIdField()


class NextEventSequence(models.Func):
    """The next value of the sequence that orders events (made in migration 0001)."""

    template = "nextval('webhooks_event_sequence')"
    output_field = models.BigIntegerField()


class CurrentEpoch(models.Func):
    """The number of the epoch that the transaction id belongs to (made in migration 0006)."""

    template = "webhooks_current_epoch()"
    output_field = models.BigIntegerField()


__all__ = [
    "CurrentEpoch", "CurrentTransactionId", "JsonPathField", "NextEventSequence", "Now",
    "TransactionIdField", "past_user",
]  # fmt: skip
