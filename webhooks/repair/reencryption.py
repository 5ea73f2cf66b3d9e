"""Re-encrypt stored values with the first key, and count the outdated and unreadable ones.

A compare-and-swap replaces each value, so that sending, rotating and editing continue meanwhile.
After a crash every value is readable with one of the keys, and the next run continues.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID

from django.db import models
from django.db.models import Count, F, Func, Q

from webhooks.errors import EncryptionKeyError
from webhooks.models import IdempotentAnswer, SigningSecret, Webhook
from webhooks.models.encryption import (
    HEADER_BYTES,
    header_of_current_key,
    headers_of_known_keys,
    reencrypt,
)

BATCH_ROWS = 500

Rows: TypeAlias = models.QuerySet[Any]


class Column(NamedTuple):
    """A column with encrypted values."""

    model: type[models.Model]
    field: str
    noun: str

    def with_header(self) -> Rows:
        """Return the rows with a value, annotated with its `header`, which names the key."""
        header = Func(
            F(self.field), 1, HEADER_BYTES, function="substr", output_field=models.BinaryField()
        )
        with_value = self.model._default_manager.exclude(**{self.field: None})
        rows: Rows = with_value.annotate(header=header)
        return rows

    def outdated(self) -> Rows:
        """Return the rows whose value another key than the first one encrypts."""
        return self.with_header().exclude(header=header_of_current_key())


COLUMNS = (
    Column(SigningSecret, "value_encrypted", "signing secrets"),
    Column(Webhook, "headers_encrypted", "custom headers"),
    Column(IdempotentAnswer, "answer_encrypted", "stored responses"),
)


def count_unreadable() -> int:
    """Return the number of values that no key in WEBHOOKS_ENCRYPTION_KEYS decrypts.

    One statement per column.
    """
    known = Q(header__in=headers_of_known_keys())
    return sum(
        column.with_header().exclude(known).aggregate(count=Count("pk"))["count"]
        for column in COLUMNS
    )


def count_outdated() -> dict[str, int]:
    """Return the number of values by noun that another key than the first one encrypts."""
    return {column.noun: column.outdated().count() for column in COLUMNS}


def reencrypt_all() -> Iterator[tuple[str, int, int]]:
    """Encrypt all values with the first key; yield (noun, changed, unreadable) for each batch."""
    for column in COLUMNS:
        last_id = UUID(int=0)
        while rows := list(
            column.outdated()
            .filter(pk__gt=last_id)
            .order_by("pk")
            .values_list("pk", column.field)[:BATCH_ROWS]
        ):
            done = unreadable = 0
            for row_id, stored in rows:
                try:
                    value = reencrypt(bytes(stored), row_id)
                except EncryptionKeyError:
                    unreadable += 1
                    continue
                done += _swap(column, row_id, bytes(stored), value)
            last_id = rows[-1][0]
            yield column.noun, done, unreadable


def _swap(column: Column, row_id: UUID, old: bytes, new: bytes) -> int:
    """Replace a value unless it has changed since it was read; return the number of rows, 0 or 1."""
    return column.model._default_manager.filter(**{"pk": row_id, column.field: old}).update(
        **{column.field: new}
    )
