"""The portal in a real browser: its tasks from beginning to end, by mouse, keyboard and phone."""

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from django.test import Client
from django.urls import reverse
from playwright.sync_api import BrowserContext, Page, expect

from projects.models import Project, User
from tests.e2e.conftest import Watch, sign_in
from tests.e2e.portal_screenshots import give_all_to
from tests.webhooks.admin.conftest import PAYMENT
from tests.webhooks.portal.conftest import every_page, make_things
from tests.workers import running_worker, wait_until
from webhooks import service
from webhooks.models import Attempt, Delivery, Event, Webhook
from webhooks.workbench.receiver import Behaviour, HttpReceiver

PHONE = {"width": 390, "height": 844}
MOST_BYTES = 150 * 1024
"""Of a page with everything on it, uncompressed."""


@pytest.fixture
def owner(transactional_db: None) -> User:
    user: User = User.objects.create_user("ada", "ada@example.com", "a password 1")
    return user


@pytest.fixture
def portal(
    context: BrowserContext, live_server: Any, client: Any, owner: User, watch: Watch
) -> Page:
    """A page of a signed-in owner."""
    sign_in(context, live_server.url, client, owner)
    context.set_default_timeout(15_000)
    page = context.new_page()
    page.goto(f"{live_server.url}/portal/")
    return page


def failed_delivery(owner: User, receiver: HttpReceiver, **fields: Any) -> tuple[Webhook, Delivery]:
    receiver.script(Behaviour(status=500, body=b"out of disk"))
    webhook = service.create_webhook(
        owner, name="Billing sync", url=f"{receiver.url}/in", events=["payment.*"], max_retries=0,
        **fields,
    )  # fmt: skip
    event = service.trigger_event("payment.failed", owner, PAYMENT)
    wait_until(lambda: Delivery.objects.filter(event=event, status="FAILED").exists())
    return webhook, Delivery.objects.get(event=event)


def test_from_nothing_to_a_verified_delivery_in_six_clicks(portal: Page, owner: User) -> None:
    """Counted: add, choose, add, send an example, look at what arrives, and its delivery."""
    clicks = 0

    def click(locator: Any) -> None:
        nonlocal clicks
        locator.click()
        clicks += 1

    with HttpReceiver() as receiver, running_worker():
        click(portal.get_by_role("link", name="Add a webhook").first)
        portal.get_by_label("Name", exact=True).fill("My server")
        portal.get_by_label("URL", exact=True).fill(f"{receiver.url}/hooks")
        click(portal.get_by_label("project.*"))
        click(portal.get_by_role("button", name="Add"))
        secret = portal.locator("#secret").inner_text()
        receiver.secrets.append(secret)
        click(portal.get_by_role("button", name="Send an example now"))
        expect(portal.get_by_role("heading", name="It was received")).to_be_visible()
        assert receiver.requests[-1].standard_ok

        Project.objects.create(owner=owner, name="Website")
        wait_until(lambda: Delivery.objects.filter(status="SUCCESS").count() == 1)
        click(portal.get_by_role("link", name="Overview"))
        click(portal.get_by_role("link", name="project.created"))
        expect(portal.get_by_text("Success")).to_be_visible()
        assert receiver.requests[-1].standard_ok

    assert clicks == 6
    portal.goto(portal.url.split("/delivery/")[0] + "/")
    assert secret not in portal.content()


def test_failure_is_found_read_mended_and_sent_again(
    portal: Page, live_server: Any, owner: User
) -> None:
    with HttpReceiver() as receiver, running_worker():
        webhook, _ = failed_delivery(owner, receiver)
        portal.reload()

        # Which is ill: it stands first, with its last error.
        row = portal.get_by_role("listitem").filter(has_text="Billing sync")
        expect(row).to_contain_text("The receiver answered 500.")
        row.get_by_role("link", name="Billing sync").click()
        portal.get_by_role("link", name="payment.failed").click()

        # What was sent, what came back, as curl.
        expect(portal.get_by_text("out of disk")).to_be_visible()
        expect(portal.get_by_text("HTTP/1.1 500")).to_be_visible()
        portal.get_by_text("As a curl command").click()
        expect(portal.get_by_text("curl --request POST")).to_be_visible()
        portal.get_by_text("Verify it on the command line").click()
        expect(portal.get_by_text("WEBHOOK_SECRET=")).to_be_visible()

        # One again.
        receiver.script(Behaviour(status=200))
        portal.get_by_role("button", name="Send it again").click()
        expect(portal.get_by_role("status")).to_contain_text("queued")
        wait_until(lambda: Delivery.objects.filter(status="SUCCESS").count() == 1)
        portal.reload()
        expect(portal.get_by_text("Attempt 2").first).to_be_visible()

        # All of a time, with a count first and a bar that survives a reload.
        receiver.script(*[Behaviour(status=503)] * 3)
        for _ in range(3):
            service.trigger_event("payment.failed", owner, PAYMENT)
        wait_until(lambda: Delivery.objects.filter(status="FAILED").count() == 3)
        receiver.script(Behaviour(status=200))
        portal.goto(f"{live_server.url}/portal/webhook/{webhook.public_id}/")
        portal.get_by_role("link", name="Send them again").click()
        portal.get_by_role("button", name="Count").click()
        expect(portal.get_by_role("heading", name="3 would be sent")).to_be_visible()
        portal.get_by_role("button", name="Send 3").click()
        expect(portal.get_by_role("heading", name="It is over")).to_be_visible()
        portal.reload()
        expect(portal.locator("[data-test=percent]")).to_have_text("100 %")

    assert Delivery.objects.filter(status="SUCCESS").count() == 4


def test_disabled_webhook_is_tested_then_enabled_in_one_step(portal: Page, owner: User) -> None:
    with HttpReceiver() as receiver, running_worker():
        webhook, _ = failed_delivery(owner, receiver)
        service.disable(webhook, "It failed for 5 days without a success.")
        missed = service.trigger_event("payment.succeeded", owner, SUCCEEDED)
        portal.reload()
        portal.get_by_role("link", name="Billing sync").click()
        expect(portal.get_by_text("It failed for 5 days").first).to_be_visible()
        portal.get_by_role("link", name="Test, then enable").first.click()

        # Still ill: it stays off.
        receiver.script(Behaviour(status=500, body=b"still broken"))
        portal.get_by_role("button", name="Test, then enable").click()
        expect(portal.get_by_role("alert")).to_contain_text("stays disabled")
        expect(portal.get_by_text("still broken")).to_be_visible()
        webhook.refresh_from_db()
        assert not webhook.active
        assert webhook.disabled_reason == "It failed for 5 days without a success."

        receiver.script(Behaviour(status=200))
        portal.get_by_role("button", name="Test, then enable").click()
        expect(portal.get_by_role("status")).to_contain_text("enabled")
        webhook.refresh_from_db()
        assert webhook.active
        assert webhook.held_until is None

        # What it never got meanwhile, and why.
        portal.get_by_label("Id of an event").fill(missed.public_id)
        portal.get_by_role("button", name="Find").click()
        expect(portal.get_by_text("not sent")).to_be_visible()
        portal.get_by_role("button", name="Send it now").click()
        expect(portal.get_by_role("heading", name="It is over")).to_be_visible()
        assert receiver.requests[-1].event_id == missed.public_id


SUCCEEDED = {
    "id": "pay_1", "subscriptionId": "sub_1", "amount": 2900, "currency": "EUR",
    "paidAt": "2026-11-23T10:30:00.123Z",
}  # fmt: skip


def test_missed_events_of_before_are_counted_and_sent(portal: Page, owner: User) -> None:
    for number in range(3):
        Project.objects.create(owner=owner, name=f"Before {number}")
    with HttpReceiver() as receiver, running_worker():
        service.create_webhook(owner, name="Late", url=f"{receiver.url}/in", events=["project.*"])
        portal.reload()
        portal.get_by_role("link", name="Late").click()
        portal.get_by_role("link", name="Send again").click()
        portal.get_by_label(re.compile("Events that it never got")).check()
        portal.get_by_role("button", name="Count").click()
        portal.get_by_role("button", name="Send 3").click()

        expect(portal.get_by_role("heading", name="It is over")).to_be_visible()
        assert len(receiver.requests) == 3


def test_example_of_a_type_is_read_and_sent(portal: Page, owner: User) -> None:
    with HttpReceiver() as receiver:
        service.create_webhook(owner, name="Mine", url=f"{receiver.url}/in", events=["*"])
        portal.get_by_role("link", name="Event types").click()
        portal.get_by_role("link", name="session.ended").click()
        expect(portal.get_by_role("cell", name="integer")).to_be_visible()
        portal.get_by_role("button", name="Send this example").click()

        expect(portal.get_by_role("heading", name="It was received")).to_be_visible()
        assert receiver.requests[-1].event_type == "session.ended"


def test_deliveries_are_filtered_in_the_url(portal: Page, live_server: Any, owner: User) -> None:
    give_all_to(owner)
    shown = Delivery.objects.filter(webhook__name="CI trigger", status="RETRYING").first()
    assert shown is not None
    portal.get_by_role("link", name="Deliveries").first.click()
    portal.get_by_label("Status").select_option("Retrying")
    portal.get_by_label("Response").select_option("5xx")
    portal.get_by_role("button", name="Show").click()

    assert "status=RETRYING" in portal.url
    assert "response=5xx" in portal.url
    rows = portal.get_by_role("row").filter(has_text="session.ended")
    expect(rows.first).to_contain_text("503")
    assert (
        portal.get_by_text("Success", exact=True).count()
        == portal.get_by_role("option", name="Success").count()
    )

    # By the object that it is about.
    portal.goto(f"{live_server.url}/portal/find/")
    portal.get_by_label(re.compile("Find deliveries")).fill(
        shown.event.object_reference.split(":")[1]
    )
    portal.get_by_role("button", name="Find deliveries").click()
    assert portal.get_by_role("row").filter(has_text="session.ended").count() == 1


def test_secret_is_rotated_with_a_countdown(portal: Page, owner: User) -> None:
    service.create_webhook(owner, name="Mine", url="http://127.0.0.1:9/", events=["*"])
    portal.reload()
    portal.get_by_role("link", name="Mine").click()
    portal.get_by_role("link", name="Secret").click()
    for language in ("Python", "Node.js", "Go", "Java", "PHP", "Ruby", "Perl", "Bash"):
        expect(portal.get_by_text(language, exact=True)).to_be_visible()
    portal.get_by_role("button", name="Rotate").click()

    expect(portal.locator("#secret")).to_contain_text("whsec_")
    expect(portal.get_by_text(re.compile("in 2[34] h"))).to_be_visible()
    portal.get_by_role("button", name="end the old one now").click()
    expect(portal.get_by_text(re.compile("in 2[34] h"))).to_be_hidden()


def test_code_is_checked(portal: Page, owner: User) -> None:
    with HttpReceiver() as receiver, running_worker():
        service.create_webhook(owner, name="Mine", url=f"{receiver.url}/in", events=["*"])
        Project.objects.create(owner=owner, name="Website")
        wait_until(lambda: len(receiver.requests) == 1)
    (received,) = receiver.requests
    portal.get_by_role("link", name="Check my code").click()
    portal.get_by_label("Headers of the request").fill(
        "\n".join(f"{name}: {value}" for name, value in received.raw_headers)
    )
    portal.get_by_label("Body of the request").fill(json.dumps(json.loads(received.body)))
    portal.get_by_role("button", name="Check").click()
    expect(
        portal.get_by_role("heading", name="The body was parsed and written again")
    ).to_be_visible()

    portal.get_by_label("Body of the request").fill(received.body.decode())
    standard = received.headers["webhook-signature"].removeprefix("v1,")
    portal.get_by_label("The signature that your code computed").fill(standard)
    portal.get_by_role("button", name="Check").click()
    expect(portal.get_by_role("heading", name="The request is genuine")).to_be_visible()
    expect(portal.get_by_role("heading", name="The prefix v1, is missing")).to_be_visible()


def test_events_appear_live(portal: Page, owner: User) -> None:
    service.create_webhook(owner, name="Mine", url="http://127.0.0.1:9/", events=["*"])
    portal.get_by_role("link", name="Live", exact=True).click()
    expect(portal.get_by_text("manage.py listen")).to_be_visible()

    Project.objects.create(owner=owner, name="Website")

    expect(portal.get_by_role("link", name="project.created")).to_be_visible()


def test_figures_have_tables(portal: Page, owner: User) -> None:
    give_all_to(owner)
    portal.get_by_role("link", name="Figures").first.click()
    portal.get_by_label("Webhook", exact=True).select_option("CI trigger")
    portal.get_by_role("button", name="Show").click()

    portal.get_by_text("As a table").first.click()
    expect(portal.get_by_role("cell", name=re.compile(r"UTC: .*delivered")).first).to_be_visible()
    expect(portal.get_by_role("row").filter(has_text="503 Error status")).to_be_visible()


def test_colleague_and_program_are_let_in(
    portal: Page, browser: Any, live_server: Any, owner: User
) -> None:
    service.create_webhook(owner, name="Mine", url="http://127.0.0.1:9/", events=["*"])
    portal.get_by_role("link", name="Access").click()
    portal.get_by_label("Name").fill("CI")
    portal.get_by_label("Your password").fill("a password 1")
    portal.get_by_role("button", name="Make a token").click()
    expect(portal.locator("#new-token")).to_contain_text("rdai_")

    portal.get_by_role("button", name="Make a link").click()
    link = portal.locator("#new-link").inner_text()
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(link)
        # The page's script sends the form at once.
        expect(page.get_by_role("heading", name="Webhooks")).to_be_visible()
        expect(page.get_by_role("link", name="Add a webhook")).to_have_count(0)
        expect(page.get_by_text("It is for looking only.")).to_be_visible()
        assert context.cookies() == []

        portal.goto(f"{live_server.url}/portal/sharing/")
        portal.get_by_role("button", name=re.compile("Revoke lnk_")).click()
        page.reload()
        expect(page.get_by_role("heading", name="This session has ended")).to_be_visible()


# Everybody's way.


def test_an_owner_logs_in_and_out(page: Page, live_server: Any, owner: User, watch: Watch) -> None:
    page.goto(f"{live_server.url}/portal/deliveries/")
    page.get_by_label("Username").fill("ada")
    page.get_by_label("Password").fill("a password 1")
    page.get_by_role("button", name="Log in").click()

    expect(page.get_by_role("heading", name="Deliveries")).to_be_visible()
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()


def press_to(page: Page, name: str, role: str = "") -> None:
    """Press Tab until something is focused that is called so."""
    for _ in range(120):
        page.keyboard.press("Tab")
        text = page.evaluate(
            "() => { const e = document.activeElement; const l = e.labels && e.labels[0];"
            " return (l ? l.textContent : e.getAttribute('aria-label') || e.textContent || '').trim() }"
        )
        if text.startswith(name):
            outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert outline != "none", f"{name} shows no focus"
            return
    pytest.fail(f"Tab never reaches {name!r}")


def test_webhook_is_added_tested_and_disabled_by_keyboard(portal: Page, owner: User) -> None:
    with HttpReceiver() as receiver:
        portal.keyboard.press("Tab")
        expect(portal.get_by_role("link", name="Skip to the content")).to_be_focused()
        portal.keyboard.press("Enter")
        press_to(portal, "Add a webhook")
        portal.keyboard.press("Enter")
        portal.wait_for_url("**/webhook/new/")
        press_to(portal, "Name")
        portal.keyboard.type("By keyboard")
        press_to(portal, "URL")
        portal.keyboard.type(f"{receiver.url}/in")
        press_to(portal, "All events")
        portal.keyboard.press("Space")
        press_to(portal, "Add")
        portal.keyboard.press("Enter")
        expect(portal.locator("#secret")).to_be_visible()
        press_to(portal, "Send an example now")
        portal.keyboard.press("Enter")
        expect(portal.get_by_role("heading", name="It was received")).to_be_visible()
        press_to(portal, "Settings")
        portal.keyboard.press("Enter")
        portal.wait_for_url("**/settings/")
        press_to(portal, "Disable it")
        portal.keyboard.press("Enter")
        expect(portal.get_by_role("heading", name="It is disabled")).to_be_visible()

    assert Webhook.objects.get().active is False


def test_every_page_fits_a_phone_has_no_barriers_and_weighs_little(
    portal: Page, live_server: Any, owner: User, watch: Watch
) -> None:
    give_all_to(owner)
    things = make_things(owner, "A webhook with " + "aVeryLongNameWithoutAnySpaces" * 4)
    watch.allowed_statuses = {404}
    sizes: list[int] = []
    portal.on(
        "response", lambda response: sizes.append(int(response.headers.get("content-length", 0)))
    )
    axe, found = Axe(), []
    for scheme, size in (("light", PHONE), ("dark", {"width": 1280, "height": 900})):
        portal.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        portal.set_viewport_size(size)
        for name, path in every_page(things).items():
            if name.endswith(("-part", "-payload")):
                continue
            sizes.clear()
            portal.goto(f"{live_server.url}/portal/{path}", wait_until="networkidle")
            if sum(sizes) >= MOST_BYTES:
                found.append(f"{name} weighs {sum(sizes)}")
            if portal.evaluate("document.documentElement.scrollWidth > innerWidth"):
                found.append(f"{name} is wider than {size['width']}")
            # The smallest targets: links inside of sentences are exempt (WCAG 2.5.8).
            for violation in axe.run(portal, options=AXE).response["violations"]:
                where = [node["target"] for node in violation["nodes"]][:3]
                found.append(f"{name} {scheme}: {violation['id']} {where}")

    assert found == [], "\n".join(found)


AXE = {
    "runOnly": {
        "type": "tag",
        "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    }
}


def test_every_task_works_without_javascript(
    browser: Any, live_server: Any, client: Any, owner: User
) -> None:
    with HttpReceiver() as receiver, running_worker():
        webhook, _ = failed_delivery(owner, receiver)
        with browser.new_context(java_script_enabled=False) as context:
            sign_in(context, live_server.url, client, owner)
            page = context.new_page()
            page.goto(f"{live_server.url}/portal/webhook/{webhook.public_id}/recover/")
            page.get_by_role("button", name="Count").click()
            receiver.script(Behaviour(status=200))
            page.get_by_role("button", name="Send 1").click()
            # The page asks for itself anew.
            expect(page.get_by_role("heading", name="It is over")).to_be_visible(timeout=15_000)
            link = service.create_portal_link(owner)
            page.goto(f"{live_server.url}{reverse('portal-open', args=[link.key])}")
            page.get_by_role("button", name="Open").click()
            expect(page.get_by_role("link", name="Billing sync")).to_be_visible()


CORPUS = [
    "<script>window.hit=1</script>",
    "<img src=x onerror=window.hit=2>",
    "\"><svg onload=window.hit=3>",
    "'-(window.hit=4)-'",
    "</title></textarea></pre><script>window.hit=5</script>",
    "{{7*7}}{% debug %}",
    "<a href=\"javascript:window.hit=7\">x</a>",
]  # fmt: skip


def test_whatever_strangers_write_stays_text(
    portal: Page, live_server: Any, owner: User, watch: Watch
) -> None:
    watch.allowed_statuses = {404}
    things = make_things(owner)
    poison = " ".join(CORPUS)
    Webhook.objects.update(
        name=poison[:200], description=poison, disabled_reason=poison[:500],
        url=f"https://receiver.example/{poison}",
    )  # fmt: skip
    Delivery.objects.update(error=poison[:500])
    Event.objects.update(object_reference=poison[:100], payload=json.dumps({"a": poison}).encode())
    head = "\r\n".join(["HTTP/1.1 500 <script>window.hit=9</script>", f"Server: {poison}", "", ""])
    Attempt.objects.update(
        url=f"https://receiver.example/{poison}", request_head=f"X-Evil: {poison}",
        response_head=head.encode(), response_body=poison.encode(), error=poison[:500],
    )  # fmt: skip
    hits = []
    for name, path in every_page(things).items():
        if name.endswith("-payload"):
            continue  # a file
        portal.goto(f"{live_server.url}/portal/{path}")
        if portal.evaluate("window.hit") is not None:
            hits.append(path)
        assert portal.locator("a[href^='javascript']").count() == 0

    assert hits == []


# In a frame of the host product, from another origin and without third-party cookies.


class Host(BaseHTTPRequestHandler):
    """The host product: a page with the portal in a frame."""

    frame = ""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(
            f"<!doctype html><title>Acme</title><iframe src='{self.frame}' width=900 height=700>"
            "</iframe>".encode()
        )

    def log_message(self, *arguments: Any) -> None:
        """Nothing."""


@pytest.fixture
def host() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Host)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    # By name, so that it is another site than the portal's address.
    yield f"http://localhost:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_host_product_shows_it_in_a_frame_without_cookies(
    browser: Any, live_server: Any, owner: User, host: str, settings: Any
) -> None:
    service.create_webhook(owner, name="Mine", url="http://127.0.0.1:9/", events=["*"])
    portal_url = live_server.url.replace("localhost", "127.0.0.1")
    settings.WEBHOOKS_PORTAL_FRAME_ANCESTORS = [host]
    link = service.create_portal_link(owner, capabilities=["manage"])
    Host.frame = f"{portal_url}{reverse('portal-open', args=[link.key])}"
    with browser.new_context() as context:
        page = context.new_page()
        block_third_party_cookies(page)
        page.goto(host)
        frame = page.frame_locator("iframe")
        frame.get_by_role("link", name="Mine").click()
        frame.get_by_role("link", name="Settings").click()
        frame.get_by_label("Name", exact=True).fill("Renamed in a frame")
        frame.get_by_role("button", name="Save").click()
        expect(frame.get_by_role("status")).to_contain_text("saved")
        assert context.cookies() == []
    assert Webhook.objects.get().name == "Renamed in a frame"

    # Nobody else frames it.
    settings.WEBHOOKS_PORTAL_FRAME_ANCESTORS = ["https://elsewhere.example"]
    link = service.create_portal_link(owner)
    Host.frame = f"{portal_url}{reverse('portal-open', args=[link.key])}"
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(host)
        expect(page.frame_locator("iframe").get_by_role("heading", name="Webhooks")).to_have_count(
            0
        )
    link.refresh_from_db()
    assert link.opened_at is None
    assert Client().post(reverse("portal-open", args=[link.key])).status_code == 302


def block_third_party_cookies(page: Page) -> None:
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    session.send(
        "Network.setCookieControls",
        {"enableThirdPartyCookieRestriction": True},
    )
