"""Every URL of the admin, from its own URLconf, so that no page can be forgotten."""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from django.contrib import admin
from django.db import connection
from django.db.models import Model
from django.urls import URLPattern, URLResolver, reverse

SKIPPED = {"logout", "jsi18n", "autocomplete", "view_on_site", "app_list"}
"""Django's own: POST only, or in need of arguments that say nothing about us."""


def every_url(samples: Mapping[str, Model]) -> Iterator[str]:
    """Yield the URL of every page; `samples` has an object for each model with pages of objects."""
    for pattern in _patterns(admin.site.urls[0]):
        name = pattern.name
        if name in SKIPPED or name is None:
            continue
        arguments = pattern.pattern.regex.groupindex.keys() & {"object_id", "id", "number"}
        if not arguments:
            yield reverse(f"admin:{name}")
            continue
        model = "_".join(name.split("_")[:-1])
        if name == "auth_user_password_change":
            model = "projects_user"
        sample = samples[model]
        values: dict[str, Any] = {"object_id": sample.pk, "id": sample.pk, "number": 1}
        yield reverse(f"admin:{name}", kwargs={key: values[key] for key in arguments})


def _patterns(patterns: Any) -> Iterator[URLPattern]:
    for pattern in patterns:
        if isinstance(pattern, URLResolver):
            yield from _patterns(pattern.url_patterns)
        else:
            yield pattern


def fingerprint() -> dict[str, str]:
    """Return a hash of every table that a request could change; sessions excepted."""
    tables = sorted(set(connection.introspection.table_names()) - {"django_session"})
    hashes = {}
    with connection.cursor() as cursor:
        for table in tables:
            cursor.execute(f'SELECT t::text FROM "{table}" t ORDER BY 1')  # noqa: S608
            rows = "\n".join(row[0] for row in cursor.fetchall())
            hashes[table] = hashlib.sha256(rows.encode()).hexdigest()
    return hashes
