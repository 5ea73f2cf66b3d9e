"""The API's pages (webhooks/figures/pages.py), with links to their neighbours."""

from typing import Any
from uuid import UUID

from django.db.models import QuerySet
from rest_framework.pagination import BasePagination
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils.urls import remove_query_param, replace_query_param

from webhooks.api.errors import ParametersInvalidError
from webhooks.errors import CursorInvalidError
from webhooks.figures import pages
from webhooks.figures.pages import Cursor

DEFAULT_LIMIT = 25
MAX_LIMIT = 100

PARAMETERS = frozenset({"limit", "cursor", "order"})
ORDERS = ("newest", "oldest")
"""What comes first; one index read either way serves both."""


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
        """Return the rows of the page that the request asks for; see pages.read_page()."""
        self._url = request.build_absolute_uri()
        page = pages.read_page(
            queryset,
            _cursor(request),
            _limit(request),
            scanned=scanned,
            oldest_first=_order(request) == "oldest",
        )
        self.next, self.previous = self._link(page.next), self._link(page.previous)
        if page.is_before_first:
            self.next = remove_query_param(self._url, "cursor")
        return page.rows

    def _link(self, cursor: Cursor | None) -> str | None:
        return None if cursor is None else replace_query_param(self._url, "cursor", cursor.encode())

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


def _cursor(request: Request) -> Cursor | None:
    text = request.query_params.get("cursor")
    try:
        return None if text is None else Cursor.decode(text)
    except CursorInvalidError:
        problem = "This is not a cursor of ours; start again without one."
        raise ParametersInvalidError({"cursor": [problem]}) from None


class CatalogPages(KeysetPages):
    """Pages of a short list that stands in the code; a cursor is a position in it."""

    parameters = frozenset({"limit", "cursor"})

    def paginate(self, items: list[Any], request: Request) -> list[Any]:
        """Return the items of the page that the request asks for."""
        self._url = request.build_absolute_uri()
        limit, cursor = _limit(request), _cursor(request) or Cursor(UUID(int=0))
        position = min(cursor.row_id.int, len(items))
        start = max(0, position - limit) if cursor.is_backward else position
        end = position if cursor.is_backward else min(position + limit, len(items))
        self.next = self._link(Cursor(UUID(int=end)) if end < len(items) else None)
        self.previous = self._link(Cursor(UUID(int=start), is_backward=True) if start else None)
        return items[start:end]
