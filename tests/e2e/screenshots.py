"""Pictures of the admin for docs/screenshots; `make screenshots` runs this."""

from typing import Any

import pytest
from django.conf import settings
from playwright.sync_api import Page

from tests.e2e.scene import build_day
from webhooks import service
from webhooks.choices import DeliveryStatus
from webhooks.models import Delivery, Redelivery, Webhook
from webhooks.redelivery import Scope, run

FOLDER = settings.BASE_DIR / "docs" / "screenshots"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_take_screenshots(screen: Page, live_server: Any, operator: Any, theme: Any) -> None:
    webhooks = build_day()
    redelivery = half_done(webhooks["CI trigger"], operator)
    failed = Delivery.objects.filter(webhook=webhooks["CI trigger"], status=DeliveryStatus.RETRYING)
    pages = {
        "home": "/admin/",
        "webhooks": "/admin/webhooks/webhook/",
        "webhook": f"/admin/webhooks/webhook/{webhooks['CI trigger'].pk}/change/",
        "delivery": f"/admin/webhooks/delivery/{failed.order_by('-id')[0].pk}/change/",
        "redelivery": f"/admin/webhooks/redelivery/{redelivery.pk}/change/",
    }
    screen.emulate_media(color_scheme=theme, reduced_motion="reduce")
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, path in pages.items():
        screen.goto(live_server.url + path)
        screen.wait_for_load_state("networkidle")
        screen.screenshot(path=FOLDER / f"{name}-{theme}.png", full_page=name == "home")


def half_done(webhook: Webhook, operator: Any) -> Redelivery:
    """A redelivery of which a part has gone out."""
    redelivery = service.redeliver(Scope(webhook_id=webhook.pk), requested_by=operator)
    run(redelivery.pk)
    queued = list(Delivery.objects.filter(redelivery=redelivery).values_list("pk", flat=True))
    Delivery.objects.filter(pk__in=queued[: len(queued) * 2 // 3]).update(
        status=DeliveryStatus.SUCCESS, failure_kind="", error="", response_code=200
    )
    return redelivery
