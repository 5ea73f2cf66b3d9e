"""Requests for an owner of another cell are answered with 421 and that cell's address."""

import logging
import re
import threading
import time
from collections.abc import Callable

from django.conf import settings
from django.db import Error
from django.http import HttpRequest, HttpResponse

from cells.cellmap import CellMap
from cells.consumer import stored_map
from cells.slots import slot_of
from webhooks.api.problems import problem, respond
from webhooks.postgres.sql import is_unavailable

logger = logging.getLogger(__name__)

MAP_SECONDS = 1.0
"""How old the map may be: cells.moving waits longer."""
RETRY_SECONDS = 5
# What tokens and the keys of the portal begin with: mark_of() in cells/slots.py.
TOKEN = re.compile(rf"bearer\s+{re.escape(settings.WEBHOOKS_TOKEN_PREFIX)}s([0-9a-f]{{2}})-", re.I)
PORTAL = re.compile(r"/portal/[a-z]+/s([0-9a-f]{2})-")


class CellMiddleware:
    """Answers requests whose token, or portal key, belongs to a slot that this cell does not have."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response
        self._lock = threading.Lock()
        self._map: CellMap | None = None
        self._read_at = 0.0

    def __call__(self, request: HttpRequest) -> HttpResponse:
        found = TOKEN.match(request.META.get("HTTP_AUTHORIZATION", ""))
        found = found or PORTAL.match(request.path_info)
        try:
            response = self._elsewhere(request, int(found[1], 16)) if found else None
        except Error as failure:
            response = _unavailable(request, failure)
        return response or self.get_response(request)

    def process_view(self, request: HttpRequest, *_: object) -> HttpResponse | None:
        """Let nobody who is signed in change what is being moved."""
        try:
            current = self._current()
            if current is None or not current.moves or not request.user.is_authenticated:
                return None
        except Error as failure:
            return _unavailable(request, failure)
        return _moving(request) if slot_of(request.user.pk) in current.moves else None

    def _elsewhere(self, request: HttpRequest, slot: int) -> HttpResponse | None:
        current = self._current()
        if current is None:
            return None
        if slot in current.moves:
            return _moving(request)
        cell = current.slots[slot]
        if cell == settings.CELL_NAME:
            return None
        url = current.cells[cell]
        response = _refusal(request, 421, "misdirected", f"The owner's cell is {url}.", cell=url)
        response["Location"] = url + request.get_full_path()
        return response

    def _current(self) -> CellMap | None:
        with self._lock:
            if time.monotonic() - self._read_at >= MAP_SECONDS:
                self._map = stored_map()
                self._read_at = time.monotonic()
            return self._map


def _moving(request: HttpRequest) -> HttpResponse:
    detail = "The owner is being moved to another cell; try again."
    response = _refusal(request, 503, "unavailable", detail)
    response["Retry-After"] = str(RETRY_SECONDS)
    return response


def _unavailable(request: HttpRequest, failure: Error) -> HttpResponse:
    """Answer as views do while Postgres is away; raises other failures."""
    if not is_unavailable(failure):
        raise failure
    logger.warning("The map of cells cannot be read: %s", failure)
    return _refusal(request, 503, "unavailable", "The database is unavailable; try again.")


def _refusal(
    request: HttpRequest, status: int, code: str, detail: str, **extra: str
) -> HttpResponse:
    response = respond(problem(request, status, code, detail, **extra))
    response["Cache-Control"] = "no-store"
    return response
