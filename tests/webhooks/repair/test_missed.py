"""What a webhook misses while it is disabled is counted, and sent by who enables it, at each door."""

from collections.abc import Callable
from datetime import timedelta
from io import StringIO
from typing import Any
from uuid import UUID

import pytest
from django.core.management import call_command
from django.urls import reverse
from rest_framework.test import APIClient

from projects.models import User
from tests.webhooks.history import trigger
from webhooks import service
from webhooks.ids import first_id_of
from webhooks.models import AuditEntry, Delivery, Event, Redelivery, Webhook
from webhooks.repair.redelivery_batches import advance

pytestmark = pytest.mark.django_db


@pytest.fixture
def webhook(make_webhook: Callable[..., Webhook], user: User) -> Webhook:
    """Disabled; one delivery waits and three events were triggered since."""
    webhook = make_webhook(events=["project.deleted"])
    trigger(user, 1)
    service.disable(webhook, "Maintenance")
    trigger(user, 3)
    return webhook


def carried_out() -> int:
    """Carry out the only redelivery, and return the number of deliveries there are then."""
    advance(Redelivery.objects.get().id)
    return Delivery.objects.count()


def test_missed_events_are_counted_and_sent_on_request(webhook: Webhook, user: User) -> None:
    stale = Webhook.objects.get(id=webhook.id)
    assert service.count_missed(webhook) == 3

    enabled = service.enable(stale, send_missed=True, requested_by=user)

    assert (enabled.waiting, enabled.missed) == (1, 3)
    assert enabled.replay is not None
    assert (enabled.replay.matched_count, enabled.replay.requested_by) == (3, user)
    assert carried_out() == 4
    assert service.count_missed(webhook) == 0


def test_event_of_a_process_whose_clock_is_behind_is_counted(webhook: Webhook) -> None:
    event = Event.objects.latest("id")
    earlier = UUID(int=first_id_of(event.created_at - timedelta(minutes=1)).int + 1)
    Event.objects.filter(id=event.id).update(id=earlier)

    assert service.count_missed(webhook) == 3


def test_missed_events_are_not_sent_unasked(webhook: Webhook) -> None:
    enabled = service.enable(webhook)

    assert (enabled.missed, enabled.replay) == (3, None)
    assert not Redelivery.objects.exists()


def test_the_admin_counts_and_offers_them(webhook: Webhook, client: Any) -> None:
    client.force_login(User.objects.create_superuser("root", "root@example.com", "x"))
    overview = client.get(reverse("admin:webhooks_webhook_change", args=[webhook.pk]))
    assert '<b data-test="missed">3</b>' in overview.content.decode()
    url = reverse("admin:webhooks_webhook_enable", args=[webhook.pk])
    assert "Also send the 3 events that it missed" in client.get(url).content.decode()

    client.post(url, {"send": "all", "send_missed": "on"})

    assert carried_out() == 4
    assert list(AuditEntry.objects.order_by("id").values_list("action", flat=True)) == [
        "webhook.enable", "redelivery.create",
    ]  # fmt: skip


def test_the_api_counts_first_and_sends_them(webhook: Webhook, user: User) -> None:
    client = APIClient()
    client.force_authenticate(user)
    path = f"/api/v1/webhooks/{webhook.public_id}/enable"

    counted = client.post(path, {"dryRun": True})
    assert counted.json() == {"waiting": 1, "missed": 3, "redeliveryId": None}
    assert not Webhook.objects.get().active

    enabled = client.post(path, {"sendMissed": True}).json()
    assert enabled["redeliveryId"] == Redelivery.objects.get().public_id
    assert carried_out() == 4


def test_the_command_counts_first_and_sends_them(webhook: Webhook) -> None:
    def run(*options: str) -> list[str]:
        output = StringIO()
        call_command("enable", webhook.public_id, *options, stdout=output)
        return output.getvalue().splitlines()

    assert run("--dry-run")[1:] == ["Waiting deliveries: 1", "Missed events: 3"]
    assert not Webhook.objects.get().active

    assert "sends the 3 missed events" in run("--missed", "--no-input")[-1]
    assert carried_out() == 4
    assert run() == ["Orders is not disabled."]
    assert AuditEntry.objects.filter(action="webhook.enable").count() == 1


def test_the_portal_counts_and_sends_them(webhook: Webhook, user: User, client: Any) -> None:
    client.force_login(user)
    path = f"/portal/webhook/{webhook.public_id}/enable/"
    page = client.get(path).content.decode()
    assert "3 events of the time while it was disabled" in page

    client.post(path, {"send": "all", "send_missed": "on"})

    assert carried_out() == 4
