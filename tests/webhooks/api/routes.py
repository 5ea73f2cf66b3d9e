"""Every route of the API, read from the URLconf."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from django.urls import URLPattern, URLResolver, get_resolver


class Route(NamedTuple):
    """One method of one path; `needs_id` says whether it is about one object."""

    name: str
    method: str
    action: str
    needs_id: bool


def routes() -> list[Route]:
    """Return all methods of all paths under /api/v1/."""
    return sorted(set(_below(get_resolver().url_patterns, "")))


def _below(patterns: list[Any], prefix: str) -> Iterator[Route]:
    for pattern in patterns:
        path = prefix + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from _below(pattern.url_patterns, path)
        elif isinstance(pattern, URLPattern) and path.startswith("api/v1/"):
            actions = getattr(pattern.callback, "actions", None) or {"get": "get"}
            for method, action in actions.items():
                if method != "head":
                    yield Route(str(pattern.name), method, action, "(?P<" in path)
