"""A pytest plugin: every signing secret made in a test run is marked, and looked for everywhere.

After each test the database, the log and all HTTP answers are searched, at the end Valkey too. Only
the answers that create a webhook, rotate its secret or reveal it may show one.
"""

import logging
import re
import secrets
import zlib
from base64 import b64encode
from collections.abc import Callable
from typing import Any

import pytest

MARK = "Y2FuYXJ5Y2FuYXJ5"
"""How base64 of every secret of the run begins: the bytes `canarycanary`."""
SIGNS = (MARK, MARK.encode().hex(), "canarycanary", b"canarycanary".hex())
SHOWS_A_SECRET = re.compile(
    r"POST .*(/webhooks|/webhook/new|/rotate-secret|/reveal-secrets)/?$|PUT .*/by-uid/[^/]+$"
)

leaks: list[str] = []


def generate_marked_secret() -> str:
    """In place of webhooks.wire.signing.generate_secret: the mark and eight random bytes."""
    return "whsec_" + b64encode(b"canary" * 4 + secrets.token_bytes(8)).decode()


def note(where: str, text: str) -> None:
    if any(sign in text for sign in SIGNS):
        leaks.append(f"{where}: {text[:300]}")


class LogListener(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        note(f"log of {record.name}", logging.Formatter().format(record))


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    from django.core.handlers.base import BaseHandler

    from webhooks.wire import signing

    signing.generate_secret = generate_marked_secret
    logging.getLogger().addHandler(LogListener())
    BaseHandler.get_response = _listening(BaseHandler.get_response)  # type: ignore[method-assign]


def _listening(get_response: Callable[..., Any]) -> Callable[..., Any]:
    def get_response_and_listen(self: Any, request: Any) -> Any:
        response = get_response(self, request)
        may_show = SHOWS_A_SECRET.match(f"{request.method} {request.path}")
        if not may_show and not response.streaming:
            note(f"answer to {request.method} {request.path}", response.content.decode("latin-1"))
        return response

    return get_response_and_listen


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    if {"db", "transactional_db"} & set(
        getattr(item, "fixturenames", ())
    ) or item.get_closest_marker("django_db"):
        search_database()
    if leaks:
        found = "\n".join(leaks)
        leaks.clear()
        pytest.fail(f"A signing secret shows up where it must not:\n{found}", pytrace=False)


def search_database() -> None:
    """Note every table that holds a marked secret in clear, as text or as bytes."""
    from django.db import Error, connection

    patterns = [f"%{sign}%" for sign in SIGNS]
    try:
        with connection.cursor() as cursor:
            search = "SELECT '{0}', t::text FROM \"{0}\" t WHERE t::text LIKE ANY(%(patterns)s)"
            tables = connection.introspection.table_names(cursor)
            queries = " UNION ALL ".join(search.format(table) for table in tables)
            cursor.execute(queries, {"patterns": patterns})
            for table, row in cursor.fetchall():
                note(f"table {table}", row)
    except Error:
        # The test left its transaction broken; the next one looks again.
        return


def search_valkey() -> None:
    """Note every key that holds a marked secret, compressed job data included."""
    import redis
    from django.conf import settings

    client = redis.Redis.from_url(settings.REDIS_URL)
    for key in client.scan_iter():
        note(f"Valkey key {key!r}", (key + (client.dump(key) or b"")).decode("latin-1"))
        values: Any = client.hvals(key) if client.type(key) == b"hash" else []
        for value in values:
            note(f"Valkey hash {key!r}", _inflated(value).decode("latin-1"))


def _inflated(value: bytes) -> bytes:
    try:
        return zlib.decompress(value)
    except zlib.error:
        return value


def pytest_sessionfinish(session: pytest.Session) -> None:
    search_valkey()
    if leaks:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        print("\n".join(["\nA signing secret is in Valkey:", *leaks]))  # noqa: T201
