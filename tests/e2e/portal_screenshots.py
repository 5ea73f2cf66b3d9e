"""Pictures of the portal for docs/screenshots; `make screenshots` runs this."""

from typing import Any

import pytest
from django.conf import settings
from playwright.sync_api import Page

from projects.models import User
from tests.e2e.conftest import Watch, sign_in
from tests.e2e.scene import build_day
from webhooks import service
from webhooks.choices import DeliveryStatus
from webhooks.models import Delivery, Event, Webhook

FOLDER = settings.BASE_DIR / "docs" / "screenshots"


def give_all_to(owner: User) -> dict[str, Webhook]:
    """Make the cast's day, all of one owner."""
    webhooks = build_day()
    Webhook.objects.update(owner=owner)
    Event.objects.update(owner_id=owner.pk)
    Delivery.objects.update(owner_id=owner.pk)
    return webhooks


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_take_screenshots(
    page: Page, live_server: Any, client: Any, watch: Watch, transactional_db: None, theme: Any
) -> None:
    owner = User.objects.create(username="ada", email="ada@example.com", name="Ada Lovelace")
    webhooks = give_all_to(owner)
    failing, off = webhooks["CI trigger"], webhooks["Old staging"]
    retried = Delivery.objects.filter(webhook=failing, status=DeliveryStatus.RETRYING)
    delivery = retried.order_by("-id")[0]
    service.rotate_secret(failing)
    sign_in(page.context, live_server.url, client, owner)
    page.emulate_media(color_scheme=theme, reduced_motion="reduce")

    def take(name: str, path: str, width: int = 1280) -> None:
        page.set_viewport_size({"width": width, "height": 900})
        page.goto(f"{live_server.url}/portal/{path}")
        page.screenshot(path=FOLDER / f"portal-{name}-{theme}.png", full_page=True)

    take("start", "")
    take("webhook", f"webhook/{failing.public_id}/")
    take("delivery", f"delivery/{delivery.public_id}/")
    take("phone", "", width=390)
    if settings.BASE_DIR.joinpath("var", "portal-looks").exists():
        # To look at, not for the documentation.
        looks = {
            "disabled": f"webhook/{off.public_id}/", "enable": f"webhook/{off.public_id}/enable/",
            "deliveries": "deliveries/", "figures": "figures/", "event-types": "event-types/",
            "event-type": "event-types/session.ended/", "check": "check/", "live": "live/",
            "sharing": "sharing/", "secret": f"webhook/{failing.public_id}/secret/",
            "settings": f"webhook/{failing.public_id}/settings/", "add": "webhook/new/",
            "recover": f"webhook/{failing.public_id}/recover/?kind=failed&since=2026-01-01T00:00:00",
            "event": f"event/{delivery.event.public_id}/", "find": "find/",
        }  # fmt: skip
        for name, path in looks.items():
            page.set_viewport_size({"width": 1280, "height": 900})
            page.goto(f"{live_server.url}/portal/{path}")
            page.screenshot(path=f"var/portal-looks/{name}-{theme}.png", full_page=True)
            page.set_viewport_size({"width": 390, "height": 844})
            page.screenshot(path=f"var/portal-looks/{name}-{theme}-390.png", full_page=True)
