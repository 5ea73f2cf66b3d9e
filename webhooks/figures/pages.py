"""Pages by keyset: newest first or oldest first, each page as cheap as the first, however deep.

Ids are time-ordered, so a cursor is an id and a direction. A cursor reveals nothing and gives no
access to other owners' rows, because every query is scoped to its owner as well.
"""

import base64
import binascii
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db.models import Q, QuerySet

from webhooks.errors import CursorInvalidError

MAX_SCANNED = 5_000
"""The maximum rows that a page reads for a filter without an index; it may be short or empty."""

RESPONSE_CLASSES: dict[str, Q] = {
    **{
        f"{first}xx": Q(response_code__range=(first * 100, first * 100 + 99))
        for first in range(1, 6)
    },
    "none": Q(response_code=None, attempt_count__gt=0),
}
"""Deliveries by the response to their last attempt; `none` where no response came."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """The row before a page; `is_backward` pages towards the first row."""

    row_id: UUID
    is_backward: bool = False

    def encode(self) -> str:
        mark = b"p" if self.is_backward else b"n"
        return base64.urlsafe_b64encode(mark + self.row_id.bytes).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str) -> "Cursor":
        """Return the cursor of a text; raises CursorInvalidError."""
        try:
            data = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), b"-_", True)
        except (binascii.Error, UnicodeEncodeError):
            data = b""
        if len(data) != 17 or data[:1] not in (b"p", b"n"):
            raise CursorInvalidError
        return cls(UUID(bytes=data[1:]), data[:1] == b"p")


@dataclass(frozen=True, slots=True)
class Page:
    """Some rows of a list, and where its neighbours start."""

    rows: list[Any]
    next: Cursor | None
    previous: Cursor | None
    is_before_first: bool = False
    """Whether the page is empty because nothing precedes its cursor; the first page comes next."""


def read_page(
    rows: QuerySet[Any],
    cursor: Cursor | None,
    limit: int,
    *,
    scanned: QuerySet[Any] | None = None,
    oldest_first: bool = False,
) -> Page:
    """Return one page of rows.

    `scanned` is `rows` without the filters that have no index, or None if all have one. With it, the
    page reads at most MAX_SCANNED rows.
    """
    is_backward = cursor is not None and cursor.is_backward
    is_ascending = oldest_first != is_backward
    edge = None if scanned is None else _edge(_from(scanned, cursor, is_ascending))
    rows = _from(rows, cursor, is_ascending)
    if edge is not None:
        rows = rows.filter(**{"id__lte" if is_ascending else "id__gte": edge})
    found = list(rows[: limit + 1])
    goes_on = found[limit - 1].id if len(found) > limit else edge
    page = found[:limit]
    ahead = None if goes_on is None else Cursor(goes_on, is_backward)
    if cursor is None:
        return Page(page, ahead, None)
    if is_backward:
        page.reverse()
        behind = Cursor(page[-1].id) if page else None
        return Page(page, behind, ahead, is_before_first=not page)
    return Page(page, ahead, Cursor(page[0].id if page else cursor.row_id, is_backward=True))


def _from(rows: QuerySet[Any], cursor: Cursor | None, is_ascending: bool) -> QuerySet[Any]:
    if cursor is not None:
        rows = rows.filter(**{"id__gt" if is_ascending else "id__lt": cursor.row_id})
    return rows.order_by("id" if is_ascending else "-id")


def _edge(rows: QuerySet[Any]) -> UUID | None:
    """Return the last row that is looked at; None where the end comes earlier."""
    ids = rows.prefetch_related(None).values_list("id", flat=True)
    found = list(ids[MAX_SCANNED - 1 : MAX_SCANNED])
    return found[0] if found else None
