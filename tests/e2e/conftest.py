"""A real Chromium on the test database: every page is watched for what must never happen."""

import os
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.cache import cache
from playwright.sync_api import BrowserContext, ConsoleMessage, Page, Request, Response

from projects.models import User

# Playwright's synchronous API runs an event loop in this thread, which Django would refuse to use.
os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/e2e/" in item.path.as_posix():
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def base_url() -> None:
    """In place of pytest-base-url's, which pytest 9 warns of."""


@pytest.fixture(scope="session")
def browser_type_launch_args(browser_type_launch_args: dict[str, Any]) -> dict[str, Any]:
    return browser_type_launch_args | {
        "executable_path": os.environ.get("CHROMIUM", "/usr/bin/chromium"),
        "args": ["--no-sandbox", "--disable-dev-shm-usage"],
    }


@pytest.fixture(scope="session")
def browser_context_args(browser_context_args: dict[str, Any]) -> dict[str, Any]:
    return browser_context_args | {
        "viewport": {"width": 1440, "height": 900},
        "locale": "en-GB",
        "timezone_id": "UTC",
    }


class Watch:
    """Collects what no page of ours may do: errors, other hosts, answers of 5xx, blocked content."""

    def __init__(self, context: BrowserContext, origin: str) -> None:
        self._origin = origin
        self.problems: list[str] = []
        self.allowed_statuses: set[int] = set()
        context.on("console", self._on_console)
        context.on("weberror", lambda error: self.problems.append(f"script: {error.error}"))
        context.on("request", self._on_request)
        context.on("response", self._on_response)

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            # A page answered with 4xx on purpose is an error on the console, too.
            is_expected = any(f"status of {code}" in message.text for code in self.allowed_statuses)
            if not is_expected:
                self.problems.append(f"console: {message.text}")

    def _on_request(self, request: Request) -> None:
        if not request.url.startswith((self._origin, "data:")):
            self.problems.append(f"foreign request: {request.url}")

    def _on_response(self, response: Response) -> None:
        if response.status >= 400 and response.status not in self.allowed_statuses:
            self.problems.append(f"{response.status} from {response.url}")


@pytest.fixture
def operator(transactional_db: None) -> User:
    operator: User = User.objects.create_superuser("operator", "operator@example.com", "operator")
    return operator


@pytest.fixture
def watch(context: BrowserContext, live_server: Any) -> Iterator[Watch]:
    """Fails the test where a page did what it must not."""
    watch = Watch(context, live_server.url)
    yield watch
    assert watch.problems == []


@pytest.fixture
def screen(
    context: BrowserContext, live_server: Any, client: Any, operator: User, watch: Watch
) -> Page:
    """A page of a signed-in operator."""
    cache.clear()
    sign_in(context, live_server.url, client, operator)
    context.set_default_timeout(15_000)
    return context.new_page()


def sign_in(context: BrowserContext, url: str, client: Any, user: User) -> None:
    client.force_login(user)
    cookie = client.cookies["sessionid"]
    context.add_cookies([{"name": "sessionid", "value": cookie.value, "url": url}])
