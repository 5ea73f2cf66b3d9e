"""Every page in a real browser: nothing acts on a GET, nothing that was stored comes alive."""

from typing import Any
from urllib.parse import quote

import pytest
from django.contrib.auth.models import Group
from django.db.models import Model
from playwright.sync_api import Page, expect

from projects.models import Project, User
from sessions_app.models import Agent, Recording, Session, SessionMessage
from tests.e2e.conftest import Watch, sign_in
from tests.webhooks.admin.conftest import issue_token
from tests.webhooks.admin.every_url import every_url, fingerprint
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


def test_every_page_is_inert_and_a_get_changes_nothing(
    screen: Page, live_server: Any, watch: Watch, samples: dict[str, Model]
) -> None:
    # Some say that this may not be done, or is not there.
    watch.allowed_statuses = {403}
    poison = quote(" ".join(CORPUS))
    urls = [url for url in every_url(samples) if not is_a_file(url)]
    urls += [
        f"/admin/webhooks/delivery/?webhook={poison}&since={poison}&code={poison}&q={poison}",
        f"/admin/webhooks/redelivery/new/?webhook={poison}&since={poison}&deliveries={poison}",
        f"/admin/search/?extended=1&s={poison}",
    ]
    before = fingerprint()

    hits = []
    for url in urls:
        screen.goto(live_server.url + url)
        if screen.evaluate("window.hit") is not None:
            hits.append(url)

    assert hits == []
    assert fingerprint() == before
    assert len(urls) > 80


def is_a_file(url: str) -> bool:
    return url.endswith("/payload/") or "/answer/" in url


def test_javascript_off_leaves_log_and_detail_readable(
    browser: Any, live_server: Any, client: Any, operator: User, samples: dict[str, Model]
) -> None:
    context = browser.new_context(java_script_enabled=False)
    sign_in(context, live_server.url, client, operator)
    page = context.new_page()
    delivery: Any = samples["webhooks_delivery"]

    page.goto(f"{live_server.url}/admin/webhooks/delivery/")
    assert delivery.public_id in page.content()
    page.goto(f"{live_server.url}/admin/webhooks/delivery/{delivery.pk}/change/")
    assert "As a curl command" in page.content()
    context.close()


def test_the_api_documentation_opens_under_the_same_policy(screen: Page, live_server: Any) -> None:
    screen.goto(f"{live_server.url}/api/v1/docs")

    expect(screen.get_by_role("heading", name="RemoteDevAI Webhooks")).to_be_visible()
