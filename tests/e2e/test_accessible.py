"""Every page of the admin: no barrier that axe finds serious, no page wider than a phone, no need of
scripts to read it."""

from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from django.db.models import Model
from playwright.sync_api import Page, expect

from projects.models import User
from tests.e2e.conftest import Watch, sign_in
from tests.e2e.scene import build_day
from tests.webhooks.admin.every_url import every_url
from webhooks.models import Delivery, Webhook

AXE = {
    "runOnly": {
        "type": "tag",
        "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"],
    },
    "resultTypes": ["violations"],
}

IS_COVERED = """() => {
    const main = document.querySelector("#main, body.login form")
    if (main === null || !main.checkVisibility()) return true
    const { left, right, top, bottom } = main.getBoundingClientRect()
    const last = Math.min(bottom, innerHeight)
    for (let x = left + 5; x < right; x += 50)
        for (let y = top + 5; y < last; y += 50)
            if (!main.contains(document.elementFromPoint(x, y))) return true
    return false
}"""
"""Whether a page does not show its main part, or something lies over it."""


@pytest.fixture
def pages(samples: dict[str, Model]) -> list[str]:
    """The URL of every page, and of some states of pages."""
    build_day()
    broken = Webhook.objects.get(name="CI trigger")
    disabled = Webhook.objects.get(name="Old staging")
    retried = Delivery.objects.filter(webhook=broken, status="RETRYING")[0]
    urls = [url for url in every_url(samples) if not is_a_file(url)]
    return [
        *urls,
        f"/admin/webhooks/webhook/{broken.pk}/change/",
        f"/admin/webhooks/webhook/{disabled.pk}/change/",
        f"/admin/webhooks/webhook/{disabled.pk}/enable/",
        f"/admin/webhooks/delivery/{retried.pk}/change/",
    ]


def is_a_file(url: str) -> bool:
    parts = ("/payload/", "/answer/", "/progress/", "/owners/", "/dismiss/", "/admin/search/")
    return any(part in url for part in parts)


@pytest.mark.parametrize(
    ("theme", "width"), [("light", 1280), ("dark", 1280), ("light", 390)], ids=str
)
def test_no_page_has_a_serious_barrier(
    screen: Page, live_server: Any, watch: Watch, pages: list[str], theme: Any, width: int
) -> None:
    watch.allowed_statuses = {403}
    screen.emulate_media(color_scheme=theme, reduced_motion="reduce")
    screen.set_viewport_size({"width": width, "height": 900})
    axe, found = Axe(), []

    for url in pages:
        response = screen.goto(live_server.url + url)
        if response is not None and response.status != 200:
            continue
        if screen.evaluate("document.documentElement.scrollWidth > innerWidth"):
            found.append(f"{url} is wider than {width}")
        for violation in axe.run(screen, options=AXE).response["violations"]:
            if violation["impact"] in ("serious", "critical"):
                where = [node["target"] for node in violation["nodes"]][:3]
                found.append(f"{url}: {violation['id']} {where}")

    assert found == [], "\n".join(found)


def test_the_keyboard_skips_the_navigation(screen: Page, live_server: Any) -> None:
    screen.goto(f"{live_server.url}/admin/")
    screen.keyboard.press("Tab")

    link = screen.get_by_role("link", name="Skip to the content")
    expect(link).to_be_focused()
    expect(link).to_be_in_viewport()
    screen.keyboard.press("Enter")
    assert screen.url.endswith("#main")


def test_times_are_shown_in_the_readers_own_zone_too(
    browser: Any, live_server: Any, client: Any, operator: User, samples: dict[str, Model]
) -> None:
    event: Any = samples["webhooks_event"]
    with browser.new_context(timezone_id="Asia/Tokyo", locale="en-GB") as context:
        sign_in(context, live_server.url, client, operator)
        page = context.new_page()
        page.goto(f"{live_server.url}/admin/webhooks/event/{event.pk}/change/")

        exact = page.locator("time.op-exact").first
        expect(exact).to_contain_text("UTC (")
        expect(exact).to_contain_text("GMT+9")
        assert "GMT+9" in (page.locator("time[title]").first.get_attribute("title") or "")


def test_every_page_can_be_read_without_scripts(
    browser: Any, live_server: Any, client: Any, operator: User, pages: list[str]
) -> None:
    unread = []
    with browser.new_context(java_script_enabled=False) as context:
        sign_in(context, live_server.url, client, operator)
        page = context.new_page()
        for url in pages:
            response = page.goto(live_server.url + url)
            if response is None or response.status != 200:
                continue
            if page.evaluate(IS_COVERED):
                unread.append(url)

    assert unread == []
