"""A real Chromium on the test database: every page is watched for what must never happen."""

import os
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.models import Group
from django.core.cache import cache
from django.db.models import Model
from playwright.sync_api import BrowserContext, ConsoleMessage, Page, Request, Response

from projects.models import Project, User
from sessions_app.models import Agent, Recording, Session, SessionMessage
from tests.webhooks.admin.conftest import issue_token
from webhooks import service
from webhooks.models import Attempt, Delivery, Event, Redelivery, Webhook, WorkerHeartbeat
from webhooks.repair import audit_log

CORPUS = [
    "<script>window.hit=1</script>",
    "<img src=x onerror=window.hit=2>",
    "\"><svg onload=window.hit=3>",
    "'-(window.hit=4)-'",
    "</title></textarea></pre><script>window.hit=5</script>",
    "{{7*7}}{% debug %}",
    "<div x-data x-init=\"window.hit=6\">",
    "<a href=\"javascript:window.hit=7\">x</a>",
    "</script><script>window.hit=8</script>",
]  # fmt: skip

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


@pytest.fixture
def samples(transactional_db: None) -> dict[str, Model]:
    """One object of every kind, hostile wherever a stranger may write."""
    poison = " ".join(CORPUS)
    user = User.objects.create(username="eve", email="eve@example.com", name=poison[:200])
    User.objects.filter(pk=user.pk).update(first_name=CORPUS[0], last_name=CORPUS[1])
    webhook = service.create_webhook(
        user, name=poison[:200], url="https://receiver.example/", events=["*"], description=poison,
        headers={"X-Evil": CORPUS[0]},
    )  # fmt: skip
    Webhook.objects.filter(pk=webhook.pk).update(
        url=f"https://receiver.example/{poison}", disabled_reason=poison[:500], active=True
    )
    project = Project.objects.create(owner=user, name=poison[:200], description=poison)
    session = Session.objects.create(project=project, owner=user, title=poison[:200])
    event = project_event(webhook)
    delivery = event.deliveries.get()
    Delivery.objects.filter(pk=delivery.pk).update(
        status="FAILED", error=poison[:500], failure_kind="http_status", response_code=500,
        attempt_count=1,
    )  # fmt: skip
    head = "\r\n".join(["HTTP/1.1 500 <script>window.hit=9</script>", f"Server: {poison}", "", ""])
    Attempt.objects.create(
        delivery=delivery, number=1, started_at=delivery.created_at, duration_ms=3,
        url=f"https://receiver.example/{poison}", request_head=f"X-Evil: {poison}",
        response_code=500, response_head=head.encode(), response_body=poison.encode(),
        failure_kind="http_status", error=poison[:500],
    )  # fmt: skip
    redelivery = service.redeliver(service.Scope(webhook_id=webhook.pk))
    Redelivery.objects.filter(pk=redelivery.pk).update(status="done")
    objects: list[Any] = [
        user, webhook, project, session, event, delivery, redelivery,
        SessionMessage.objects.create(session=session, sender=poison[:200], content=poison),
        Recording.objects.create(session=session, title=poison[:200], error=poison),
        Agent.objects.create(owner=user, name=poison[:200], platform="<b>", version="<b>"),
        Group.objects.create(name=CORPUS[0]),
        WorkerHeartbeat.objects.create(host=poison[:255], pid=7),
        issue_token(user, poison[:100]),
        audit_log.record("webhook.disable", webhook, changes={CORPUS[0]: [poison, CORPUS[1]]}),
    ]  # fmt: skip
    return {f"{one._meta.app_label}_{one._meta.model_name}": one for one in objects}


def project_event(webhook: Webhook) -> Any:
    return Event.objects.filter(type="project.created", owner_id=webhook.owner_id).get()
