"""Pages by keyset: newest first or oldest first, each page as cheap as the first, however deep.

Ids are time-ordered, so a cursor is an id and a direction. A cursor reveals nothing and gives no
access to other owners' rows, because every query is scoped to its owner as well.
"""

import base64
import binascii
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db.models import QuerySet
from rest_framework.pagination import BasePagination
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils.urls import remove_query_param, replace_query_param

from webhooks.api.errors import ParametersInvalidError

DEFAULT_LIMIT = 25
MAX_LIMIT = 100
MAX_SCANNED = 5_000
"""The maximum rows that a page reads for a filter without an index; it may be short or empty."""

PARAMETERS = frozenset({"limit", "cursor", "order"})
ORDERS = ("newest", "oldest")
"""What comes first; one index read either way serves both."""


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
        try:
            data = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), b"-_", True)
        except (binascii.Error, UnicodeEncodeError):
            data = b""
        if len(data) != 17 or data[:1] not in (b"p", b"n"):
            raise ParametersInvalidError(
                {"cursor": ["This is not a cursor of ours; start again without one."]}
            )
        return cls(UUID(bytes=data[1:]), data[:1] == b"p")


class KeysetPages(BasePagination):
    """`{"results": […], "next": URL or null, "previous": URL or null}`."""

    parameters = PARAMETERS

    def paginate_queryset(  # type: ignore[override]  # of querysets only
        self,
        queryset: QuerySet[Any],
        request: Request,
        view: Any = None,
        *,
        scanned: QuerySet[Any] | None = None,
    ) -> list[Any]:
        """Return the rows of the page that the request asks for.

        `scanned` is `queryset` without the filters that have no index, or None if all have one. With
        it, the page reads at most MAX_SCANNED rows.
        """
        self._url = request.build_absolute_uri()
        limit = _limit(request)
        text = request.query_params.get("cursor")
        cursor = None if text is None else Cursor.decode(text)
        is_backward = cursor is not None and cursor.is_backward
        is_ascending = (_order(request) == "oldest") != is_backward
        edge = None if scanned is None else _edge(_from(scanned, cursor, is_ascending))
        rows = _from(queryset, cursor, is_ascending)
        if edge is not None:
            rows = rows.filter(**{"id__lte" if is_ascending else "id__gte": edge})
        found = list(rows[: limit + 1])
        goes_on = found[limit - 1].id if len(found) > limit else edge
        page = found[:limit]
        if is_backward:
            page.reverse()
        self._set_links(page, cursor, goes_on)
        return page

    def _set_links(self, page: list[Any], cursor: Cursor | None, goes_on: UUID | None) -> None:
        ahead = self._link(goes_on, cursor is not None and cursor.is_backward)
        if cursor is None:
            self.next, self.previous = ahead, None
        elif cursor.is_backward:
            # Nothing before it: what comes next is the first page again.
            first = remove_query_param(self._url, "cursor")
            self.next, self.previous = self._link(page[-1].id, False) if page else first, ahead
        else:
            behind = page[0].id if page else cursor.row_id
            self.next, self.previous = ahead, self._link(behind, True)

    def _link(self, row_id: UUID | None, is_backward: bool) -> str | None:
        if row_id is None:
            return None
        return replace_query_param(self._url, "cursor", Cursor(row_id, is_backward).encode())

    def get_paginated_response(self, data: Any) -> Response:
        return Response({"results": data, "next": self.next, "previous": self.previous})

    def get_paginated_response_schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        link = {"type": ["string", "null"], "format": "uri"}
        return {
            "type": "object",
            "description": "A part of a list, and where to go on.",
            "required": ["results", "next", "previous"],
            "properties": {
                "results": schema,
                "next": {**link, "description": "The next page; null at the end."},
                "previous": {**link, "description": "The page before."},
            },
        }

    def get_schema_operation_parameters(self, view: Any) -> list[dict[str, Any]]:
        return [one for one in DESCRIBED if one["name"] in self.parameters]


DESCRIBED: list[dict[str, Any]] = [
    {
        "name": "limit",
        "in": "query",
        "required": False,
        "description": "Rows per page.",
        "schema": {
            "type": "integer",
            "minimum": 1,
            "maximum": MAX_LIMIT,
            "default": DEFAULT_LIMIT,
        },
    },
    {
        "name": "cursor",
        "in": "query",
        "required": False,
        "description": "Where the page starts; taken from `next` or `previous`.",
        "schema": {"type": "string"},
    },
    {
        "name": "order",
        "in": "query",
        "required": False,
        "description": "What comes first.",
        "schema": {"type": "string", "enum": list(ORDERS), "default": ORDERS[0]},
    },
]


def _limit(request: Request) -> int:
    text = request.query_params.get("limit", str(DEFAULT_LIMIT))
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and 1 <= int(text) <= MAX_LIMIT):
        raise ParametersInvalidError({"limit": [f"The limit is a number from 1 to {MAX_LIMIT}."]})
    return int(text)


def _order(request: Request) -> str:
    order = request.query_params.get("order", ORDERS[0])
    if order not in ORDERS:
        raise ParametersInvalidError({"order": [f"The order is {' or '.join(ORDERS)}."]})
    return order


def _from(queryset: QuerySet[Any], cursor: Cursor | None, is_ascending: bool) -> QuerySet[Any]:
    if cursor is not None:
        queryset = queryset.filter(**{"id__gt" if is_ascending else "id__lt": cursor.row_id})
    return queryset.order_by("id" if is_ascending else "-id")


def _edge(rows: QuerySet[Any]) -> UUID | None:
    """Return the last row that is looked at; None where the end comes earlier."""
    ids = rows.prefetch_related(None).values_list("id", flat=True)
    found = list(ids[MAX_SCANNED - 1 : MAX_SCANNED])
    return found[0] if found else None


class CatalogPages(KeysetPages):
    """Pages of a short list that stands in the code; a cursor is a position in it."""

    parameters = frozenset({"limit", "cursor"})

    def paginate(self, items: list[Any], request: Request) -> list[Any]:
        """Return the items of the page that the request asks for."""
        self._url = request.build_absolute_uri()
        limit, text = _limit(request), request.query_params.get("cursor")
        cursor = Cursor(UUID(int=0)) if text is None else Cursor.decode(text)
        position = min(cursor.row_id.int, len(items))
        start = max(0, position - limit) if cursor.is_backward else position
        end = position if cursor.is_backward else min(position + limit, len(items))
        self.next = self._link(UUID(int=end) if end < len(items) else None, False)
        self.previous = self._link(UUID(int=start) if start else None, True)
        return items[start:end]
