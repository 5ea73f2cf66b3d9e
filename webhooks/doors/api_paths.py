"""Where the project put the routes of the API.

Read once from its URLconf, by the includes themselves: a project may put the routes at any path and
into a namespace, and may give the names of ours to routes of its own. Paths here are those that
Django resolves, without SCRIPT_NAME.
"""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from django.conf import settings
from django.urls import URLPattern, get_resolver, get_script_prefix

from webhooks.conf import DEFAULT_API_ROOT

ROUTES = "webhooks.api.urls"
LAST_ROUTE = "webhooks.api.problems.no_such_route"
"""A project that has this route says that everything below its path is the API."""
LITERAL = re.compile(r"\^?((?:\\\W|[^\\(\[.*+?$|])*)")


def roots() -> list[str]:
    """Return the paths at which the project includes our routes."""
    return _places(settings.ROOT_URLCONF)[0]


def path_of(name: str) -> str:
    """Return the path of a resource as clients see it, for texts."""
    root = next(iter(roots()), f"{DEFAULT_API_ROOT}/")
    return f"{get_script_prefix().rstrip('/')}{root}{name}"


def ours() -> re.Pattern[str]:
    """Return the expression that matches the API's paths."""
    return _places(settings.ROOT_URLCONF)[1]


def is_ours(path: str) -> bool:
    """Say whether a path is one of the API's."""
    return ours().match(path) is not None


@cache
def _places(urlconf: Any) -> tuple[list[str], re.Pattern[str]]:
    found, ours = [], []
    for path, module in _found([get_resolver(urlconf)], ""):
        if module is None:
            ours.append(re.escape(path))
            continue
        found.append(path)
        names = "|".join(prefix for prefix, *_ in module.router.registry)
        ours.append(f"{re.escape(path)}(?:{names})(?:/|$)")
    return found, re.compile("|".join(ours) or "(?!)")


def _found(patterns: Any, at: str) -> Iterator[tuple[str, Any]]:
    """Yield the path of each include with its module, and that of each LAST_ROUTE with None."""
    for one in patterns:
        if isinstance(one, URLPattern):
            if one.lookup_str == LAST_ROUTE:
                yield at + _literal(one.pattern), None
        elif getattr(one.urlconf_module, "__name__", None) == ROUTES:
            yield at + _literal(one.pattern), one.urlconf_module
        else:
            yield from _found(one.url_patterns, at + _literal(one.pattern))


def _literal(pattern: Any) -> str:
    """Return what each path that fits a pattern begins with."""
    found = LITERAL.match(pattern.regex.pattern)
    return re.sub(r"\\(\W)", r"\1", found[1]) if found else ""
