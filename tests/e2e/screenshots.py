"""Pictures of the admin for docs/screenshots; `make screenshots` runs this."""

from typing import Any

import pytest
from django.conf import settings
from django.db.models.functions import Now
from playwright.sync_api import Page

from tests.e2e.scene import build_day
from webhooks import service
from webhooks.choices import DeliveryStatus
from webhooks.models import Delivery, Redelivery, Webhook, WorkerHeartbeat
from webhooks.repair.redelivery_batches import run
from webhooks.repair.redelivery_scope import Scope

FOLDER = settings.BASE_DIR / "docs" / "screenshots"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_take_screenshots(screen: Page, live_server: Any, operator: Any, theme: Any) -> None:
    webhook = build_day()["CI trigger"]
    retried = Delivery.objects.filter(webhook=webhook, status=DeliveryStatus.RETRYING)
    screen.emulate_media(color_scheme=theme, reduced_motion="reduce")
    FOLDER.mkdir(parents=True, exist_ok=True)

    def take(name: str, path: str) -> None:
        screen.goto(f"{live_server.url}/admin/{path}")
        screen.wait_for_load_state("networkidle")
        screen.screenshot(path=FOLDER / f"{name}-{theme}.png", full_page=name == "home")

    take("webhooks", "webhooks/webhook/")
    take("webhook", f"webhooks/webhook/{webhook.pk}/change/")
    take("delivery", f"webhooks/delivery/{retried.order_by('-id')[0].pk}/change/")
    redelivery = half_done(webhook, operator)
    take("redelivery", f"webhooks/redelivery/{redelivery.pk}/change/")
    # The pictures before took longer than a silent worker is taken for alive.
    WorkerHeartbeat.objects.update(beat_at=Now())
    take("home", "")


def half_done(webhook: Webhook, operator: Any) -> Redelivery:
    """A redelivery of which a part has gone out."""
    redelivery = service.redeliver(Scope(webhook_id=webhook.pk), requested_by=operator)
    run(redelivery.pk)
    queued = list(Delivery.objects.filter(redelivery=redelivery).values_list("pk", flat=True))
    Delivery.objects.filter(pk__in=queued[: len(queued) * 2 // 3]).update(
        status=DeliveryStatus.SUCCESS, failure_kind="", error="", response_code=200
    )
    return redelivery
