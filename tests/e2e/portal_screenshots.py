"""Pictures of the portal for docs/screenshots; `make screenshots` runs this."""

from typing import Any

import pytest
from django.conf import settings
from playwright.sync_api import Page

from projects.models import User
from tests.e2e.conftest import Watch, sign_in
from tests.e2e.scene import build_day
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
    failing = give_all_to(owner)["CI trigger"]
    retried = Delivery.objects.filter(webhook=failing, status=DeliveryStatus.RETRYING)
    delivery = retried.order_by("-id")[0]
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
