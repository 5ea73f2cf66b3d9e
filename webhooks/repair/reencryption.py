"""Values at rest under a new key: how many wait for it, and the work itself.

Each value is changed by compare-and-swap, so that sending, rotating and editing go on meanwhile;
a crash leaves every value readable with one of the keys, and the next run does the rest.
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
    """One place where encrypted values are stored."""

    model: type[models.Model]
    field: str
    noun: str

    def with_header(self) -> Rows:
        """Rows that hold a value, with the first bytes of it, which name its key."""
        beginning = Func(
            F(self.field), 1, HEADER_BYTES, function="substr", output_field=models.BinaryField()
        )
        holding = self.model._default_manager.exclude(**{self.field: None})
        rows: Rows = holding.annotate(header=beginning)
        return rows

    def outdated(self) -> Rows:
        """Rows whose value is not encrypted with the first key."""
        return self.with_header().exclude(header=header_of_current_key())


COLUMNS = (
    Column(SigningSecret, "value_encrypted", "signing secrets"),
    Column(Webhook, "headers_encrypted", "custom headers"),
    Column(IdempotentAnswer, "answer_encrypted", "stored answers"),
)


def count_unreadable() -> int:
    """Return how many values no key of WEBHOOKS_ENCRYPTION_KEYS can decrypt, in one query each."""
    known = Q(header__in=headers_of_known_keys())
    return sum(
        column.with_header().exclude(known).aggregate(count=Count("pk"))["count"]
        for column in COLUMNS
    )


def count_outdated() -> dict[str, int]:
    """Return how many values of each kind another key than the first one encrypted."""
    return {column.noun: column.outdated().count() for column in COLUMNS}


def reencrypt_all() -> Iterator[tuple[str, int, int]]:
    """Encrypt everything with the first key; yields (noun, done, unreadable) after each batch."""
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
                    fresh = reencrypt(bytes(stored), row_id)
                except EncryptionKeyError:
                    unreadable += 1
                    continue
                done += _swap(column, row_id, bytes(stored), fresh)
            last_id = rows[-1][0]
            yield column.noun, done, unreadable


def _swap(column: Column, row_id: UUID, old: bytes, new: bytes) -> int:
    """Replace a value unless somebody else has done so since it was read."""
    return column.model._default_manager.filter(**{"pk": row_id, column.field: old}).update(
        **{column.field: new}
    )
