"""An operator's work from beginning to end, with a real worker and a real receiver."""

import re
import time
from base64 import b32decode
from typing import Any

import pytest
from django_otp.oath import TOTP
from playwright.sync_api import Page, expect

from projects.models import User
from tests.e2e.conftest import Watch
from tests.webhooks.admin.conftest import PAYMENT, fail
from tests.workers import running_worker, wait_until
from webhooks import service
from webhooks.choices import DeliveryStatus
from webhooks.models import AuditEntry, Delivery, Webhook
from webhooks.workbench.receiver import Behaviour, HttpReceiver


@pytest.fixture
def owner(transactional_db: None) -> User:
    user: User = User.objects.create(username="ada", email="ada@example.com")
    return user


def make_webhook(owner: User, url: str, **fields: Any) -> Webhook:
    return service.create_webhook(
        owner, name="Billing sync", url=url, events=["payment.*"], **fields
    )


def test_a_failing_webhook_is_found_read_mended_and_seen_green(
    screen: Page, live_server: Any, owner: User
) -> None:
    with HttpReceiver() as receiver, running_worker():
        receiver.script(Behaviour(status=500, body=b"<script>alert(1)</script> out of disk"))
        webhook = make_webhook(owner, f"{receiver.url}/wrong", max_retries=0)
        service.trigger_event("payment.failed", owner, PAYMENT)
        wait_until(lambda: Delivery.objects.filter(status=DeliveryStatus.FAILED).count() == 1)

        # Found from home.
        screen.goto(f"{live_server.url}/admin/")
        row = screen.get_by_role("row", name=re.compile("Billing sync"))
        expect(row).to_contain_text("500")
        row.get_by_role("link", name="Billing sync").click()

        # The cause is read.
        expect(screen.get_by_role("heading", name="What is wrong")).to_be_visible()
        screen.get_by_role("link", name=re.compile("Latest failure")).click()
        expect(screen.get_by_text("out of disk")).to_be_visible()
        expect(screen.get_by_text("HTTP/1.1 500")).to_be_visible()

        # It is mended: the URL was wrong.
        screen.get_by_role("link", name="Billing sync").first.click()
        screen.get_by_role("link", name="Settings").click()
        screen.locator("#id_url").fill(f"{receiver.url}/right")
        screen.get_by_role("button", name="Save").first.click()
        expect(screen.get_by_text("The settings are saved.")).to_be_visible()

        # Redelivered, and seen to arrive.
        screen.get_by_role("link", name="Redeliver failed").first.click()
        expect(screen.locator("[data-test=count]")).to_have_text("1")
        screen.get_by_role("button", name="Redeliver 1").click()
        expect(screen.locator("[data-test=percent]")).to_have_text("100 %")
        screen.get_by_role("row", name=re.compile("Billing sync")).get_by_role("link").click()

        # Green.
        latest = screen.get_by_role("table").filter(has_text="Next attempt")
        expect(latest).to_contain_text("Success")
        assert receiver.requests[-1].path.endswith("/right")

    actions = list(AuditEntry.objects.order_by("id").values_list("action", flat=True))
    assert actions == ["webhook.change", "webhook.redeliver_failed", "redelivery.create"]
    webhook.refresh_from_db()
    assert webhook.failing_since is None


def test_five_hundred_are_redelivered_and_watched_to_their_end(
    screen: Page, live_server: Any, owner: User
) -> None:
    with HttpReceiver() as receiver:
        webhook = make_webhook(owner, receiver.url)
        service.trigger_events(
            [service.Trigger("payment.failed", owner, PAYMENT) for _ in range(500)]
        )
        Delivery.objects.update(status=DeliveryStatus.FAILED, next_attempt_at=None)

        # By filter, from the list: count, then confirm.
        screen.goto(f"{live_server.url}/admin/webhooks/delivery/?webhook={webhook.public_id}")
        screen.get_by_role("link", name="Redeliver by filter…").click()
        expect(screen.locator("[data-test=count]")).to_contain_text("500")
        screen.get_by_role("button", name="Redeliver 500").click()
        expect(screen.locator("[data-test=percent]")).to_have_text("0 %")
        address = screen.url

        with running_worker():
            # The bar moves by itself, and survives a reload.
            screen.reload()
            expect(screen.locator("[data-test=percent]")).to_have_text("100 %", timeout=30_000)
        expect(screen.get_by_text("500 delivered · 0 failed")).to_be_visible()
        assert len({request.delivery_id for request in receiver.requests}) == 500

        # It stands on the home page until somebody dismisses it.
        screen.goto(f"{live_server.url}/admin/")
        expect(screen.locator("[data-test=redelivery]")).to_contain_text("100 %")
        screen.get_by_role("button", name="Dismiss").click()
        expect(screen.get_by_text("The redelivery is dismissed.")).to_be_visible()
        expect(screen.locator("[data-test=redelivery]")).to_have_count(0)
        screen.goto(address)
        expect(screen.locator("[data-test=percent]")).to_have_text("100 %")


def test_a_selection_is_redelivered_by_keyboard(
    screen: Page, live_server: Any, owner: User
) -> None:
    webhook = make_webhook(owner, "http://127.0.0.1:9/hook")
    for _ in range(3):
        service.trigger_event("payment.failed", owner, PAYMENT)
    for delivery in Delivery.objects.all():
        fail(delivery)

    screen.goto(f"{live_server.url}/admin/webhooks/delivery/?webhook={webhook.public_id}")
    screen.locator("#result_list input.action-select").nth(0).focus()
    screen.keyboard.press("Space")
    screen.locator("#result_list input.action-select").nth(1).focus()
    screen.keyboard.press("Space")
    screen.locator("#changelist-actions select[name=action]").select_option("redeliver_selected")
    screen.locator("#changelist-actions button[name=index]").focus()
    screen.keyboard.press("Enter")
    expect(screen.locator("[data-test=count]")).to_have_text("2")
    screen.get_by_role("button", name="Redeliver 2").focus()
    screen.keyboard.press("Enter")

    expect(screen.get_by_text("2 deliveries are sent again.")).to_be_visible()


def test_a_secret_is_rotated_and_shown_once(screen: Page, live_server: Any, owner: User) -> None:
    webhook = make_webhook(owner, "http://127.0.0.1:9/hook")

    screen.goto(f"{live_server.url}/admin/webhooks/webhook/{webhook.pk}/secrets/")
    screen.get_by_role("link", name="Rotate").click()
    screen.get_by_label("After 1 hour").check()
    screen.get_by_role("button", name="Rotate").click()
    shown = screen.locator("#secret-1").text_content()
    screen.get_by_role("link", name="Done").click()

    fresh = webhook.secrets.get(expires_at=None)
    assert shown == fresh.value
    expect(screen.get_by_text("current")).to_be_visible()
    expect(screen.get_by_text("older", exact=True)).to_be_visible()
    assert fresh.value not in screen.content()
    screen.get_by_role("link", name="History", exact=True).click()
    expect(screen.get_by_text("secret.rotate")).to_be_visible()


def test_filters_open_and_apply_by_keyboard(screen: Page, live_server: Any, owner: User) -> None:
    make_webhook(owner, "http://127.0.0.1:9/hook")
    for _ in range(2):
        service.trigger_event("payment.failed", owner, PAYMENT)
    fail(Delivery.objects.order_by("id")[0])

    screen.goto(f"{live_server.url}/admin/webhooks/delivery/")
    screen.get_by_role("button", name="Filters").focus()
    screen.keyboard.press("Enter")
    screen.locator("input[name=code]").fill("500")
    screen.keyboard.press("Enter")

    expect(screen).to_have_url(re.compile("code=500"))
    expect(screen.locator("#result_list tbody")).to_have_count(1)


def test_the_login_page_lets_an_operator_in(
    page: Page, live_server: Any, watch: Watch, operator: User
) -> None:
    page.goto(f"{live_server.url}/admin/")
    page.get_by_label("Username").fill("operator")
    page.get_by_label("Password").fill("operator")
    page.get_by_role("button", name="Log in").click()

    expect(page.get_by_role("heading", name="Webhooks that need somebody")).to_be_visible()


def test_sending_is_paused_and_resumed(screen: Page, live_server: Any) -> None:
    screen.goto(f"{live_server.url}/admin/webhooks/workerheartbeat/")
    screen.get_by_role("link", name="Pause sending").click()
    screen.get_by_label("Reason").fill("database upgrade")
    screen.get_by_role("button", name="Pause sending").click()
    expect(screen.get_by_role("alert")).to_contain_text("database upgrade")

    screen.get_by_role("link", name="Resume sending").click()
    screen.get_by_role("button", name="Resume sending").click()
    expect(screen.get_by_text("Sending is resumed.")).to_be_visible()


def test_copy_as_curl_fills_the_clipboard(screen: Page, live_server: Any, owner: User) -> None:
    make_webhook(owner, "http://127.0.0.1:9/hook")
    delivery = fail(service.trigger_event("payment.failed", owner, PAYMENT).deliveries.get())
    screen.context.grant_permissions(["clipboard-read", "clipboard-write"])

    screen.goto(f"{live_server.url}/admin/webhooks/delivery/{delivery.pk}/change/")
    screen.get_by_role("button", name="Copy as curl").click()
    expect(screen.get_by_role("button", name="Copy as curl")).to_have_text("Copied")

    assert screen.evaluate("navigator.clipboard.readText()").startswith("curl --request POST")


@pytest.mark.parametrize("width", [390, 768])
def test_narrow_screens_do_not_scroll_sideways(
    screen: Page, live_server: Any, owner: User, width: int
) -> None:
    webhook = make_webhook(owner, f"http://127.0.0.1:9/{'long' * 60}")
    delivery = fail(service.trigger_event("payment.failed", owner, PAYMENT).deliveries.get())
    screen.set_viewport_size({"width": width, "height": 844})

    for path in (
        "", f"webhooks/webhook/{webhook.pk}/change/", f"webhooks/webhook/{webhook.pk}/secrets/",
        f"webhooks/delivery/{delivery.pk}/change/", f"webhooks/event/{delivery.event_id}/change/",
        "webhooks/workerheartbeat/", "webhooks/redelivery/new/", "webhooks/delivery/",
    ):  # fmt: skip
        screen.goto(f"{live_server.url}/admin/{path}")
        wide = screen.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0, path


def test_the_theme_follows_the_system(screen: Page, live_server: Any) -> None:
    backgrounds = []
    for scheme in ("light", "dark"):
        screen.emulate_media(color_scheme=scheme)
        screen.goto(f"{live_server.url}/admin/")
        backgrounds.append(
            screen.evaluate("getComputedStyle(document.querySelector('#main')).backgroundColor")
        )

    assert backgrounds[0] != backgrounds[1]


def test_an_open_breaker_is_explained_and_a_try_closes_it(
    screen: Page, live_server: Any, owner: User
) -> None:
    with HttpReceiver() as receiver, running_worker():
        receiver.behaviour = Behaviour(status=500)
        webhook = make_webhook(owner, receiver.url)
        service.trigger_events(
            [service.Trigger("payment.failed", owner, PAYMENT) for _ in range(40)]
        )
        wait_until(lambda: Webhook.objects.get().breaker_state == "open")

        # The page says what holds the deliveries, and what ends it.
        screen.goto(f"{live_server.url}/admin/webhooks/webhook/{webhook.pk}/change/")
        expect(screen.get_by_role("heading", name="The breaker is open")).to_be_visible()
        latest = screen.get_by_role("table").filter(has_text="Next attempt")
        expect(latest).to_contain_text("breaker open: next probe in")

        receiver.behaviour = Behaviour()
        screen.get_by_role("button", name="Try now").click()
        expect(screen.get_by_text("The next delivery goes out now")).to_be_visible()
        wait_until(lambda: Webhook.objects.get().breaker_state == "closed")
        wait_until(lambda: Delivery.objects.filter(attempt_count=0).count() == 0)

        screen.reload()
        expect(screen.get_by_role("heading", name="The breaker is open")).to_be_hidden()


def test_a_webhook_is_added_by_picking_and_tested_with_a_chosen_type(
    screen: Page, live_server: Any, owner: User
) -> None:
    with HttpReceiver() as receiver:
        screen.goto(f"{live_server.url}/admin/webhooks/webhook/new/")
        owners = screen.get_by_role("combobox", name="Owner")
        owners.press_sequentially("ad")
        expect(screen.locator('#owners option[value="ada@example.com"]')).to_be_attached()
        owners.fill("ada@example.com")
        screen.get_by_role("textbox", name="Name").fill("Billing sync")
        screen.get_by_role("textbox", name="URL").fill(receiver.url)
        screen.locator('input[value="payment.*"]').check()
        screen.get_by_role("button", name="Add").click()
        expect(screen.get_by_role("heading", name="signing secret")).to_be_visible()
        assert Webhook.objects.get().events == ["payment.*"]

        screen.get_by_role("link", name="Done").click()
        screen.get_by_role("link", name="Test…").click()
        screen.get_by_label("Event type").select_option("payment.failed")
        screen.get_by_role("button", name="Send now").click()

        expect(screen.locator("[data-test=tryout]")).to_contain_text("It was received")
        expect(screen.get_by_role("table").filter(has_text="Result")).to_contain_text(
            "payment.failed"
        )
        (received,) = receiver.requests
    assert received.event_type == "payment.failed"


def test_second_factor_is_set_up_asked_for_and_removed(
    screen: Page, live_server: Any, owner: User, operator: User, watch: Watch
) -> None:
    watch.allowed_statuses.add(422)
    webhook = make_webhook(owner, "http://127.0.0.1:9/")
    reveal = f"{live_server.url}/admin/webhooks/webhook/{webhook.pk}/reveal-secrets/"

    # Found from the form that asks for the password.
    screen.goto(reveal)
    expect(screen.get_by_label("Code of your second factor")).to_have_count(0)
    screen.locator(".op").get_by_role("link", name="Your second factor").click()
    screen.get_by_label("Your password").fill("operator")
    screen.get_by_role("button", name="Set up").click()
    key = screen.locator("#secret-1").inner_text()
    expect(screen.locator("#secret-2")).to_contain_text(f"secret={key}")
    totp = TOTP(b32decode(key))
    totp.time = time.time() - totp.step
    screen.get_by_label("Code").fill(f"{totp.token():06d}")
    screen.get_by_role("button", name="Confirm").click()
    expect(screen.get_by_text("Your recovery codes")).to_be_visible()
    recovery = screen.locator("#secret-1").inner_text().split()
    assert len(recovery) == 10

    # Asked for.
    screen.goto(reveal)
    for code, text in (("000000", "Password or code is wrong."), (recovery[0], webhook.secret)):
        screen.get_by_label("Reason").fill("ticket 7")
        screen.get_by_label("Your password").fill("operator")
        screen.get_by_label("Code of your second factor").fill(code)
        screen.get_by_role("button", name="Reveal").click()
        expect(screen.get_by_text(text)).to_be_visible()

    # Removed.
    screen.goto(f"{live_server.url}/admin/webhooks/webhook/second-factor/")
    expect(screen.get_by_text("9 recovery codes")).to_be_visible()
    screen.get_by_label("Your password").fill("operator")
    screen.get_by_label("Code of your second factor").fill(recovery[1])
    screen.get_by_role("button", name="Remove").click()
    expect(screen.get_by_text("Your second factor is removed.")).to_be_visible()
