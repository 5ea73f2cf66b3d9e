"""Every page in a real browser: nothing acts on a GET, nothing that was stored comes alive."""

from typing import Any
from urllib.parse import quote

from django.db.models import Model
from playwright.sync_api import Page, expect

from projects.models import User
from tests.e2e.conftest import CORPUS, Watch, sign_in
from tests.webhooks.admin.every_url import every_url, fingerprint


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
