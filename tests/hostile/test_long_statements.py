"""A statement of the API that takes long is cut off, and the answer says so in words."""

import time
from typing import Any

import pytest
from django.db import connection
from rest_framework.test import APIClient

from tests.webhooks.api.matrix import ROUTES, ROWS, World, send, undone
from webhooks.api import base, redeliveries
from webhooks.models import Delivery


@pytest.fixture
def slow_deliveries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every statement that reads deliveries takes five seconds, as with a hundred million rows."""
    monkeypatch.setattr(base, "READ_SECONDS", 1)
    monkeypatch.setattr(base, "WRITE_SECONDS", 1)
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE webhooks_delivery RENAME TO all_deliveries")
        cursor.execute(
            "CREATE VIEW webhooks_delivery AS SELECT * FROM all_deliveries"
            " WHERE pg_sleep(5) IS NOT NULL"
        )


@pytest.mark.parametrize(
    "row",
    ["delivery-list.get", "delivery-detail.get", "webhook-deliveries.get", "webhook-stats.get",
     "queue-list.get", "redelivery-list.post"],
)  # fmt: skip
def test_long_statement_is_cut_off(
    client: APIClient, world: World, slow_deliveries: None, row: str
) -> None:
    world.owner.is_superuser = world.owner.is_staff = True
    world.owner.save()
    started_at = time.monotonic()

    with undone():
        answer: Any = send(client, ROUTES[row], ROWS[row], world)

    assert answer.status_code == 503
    assert answer.json()["type"].endswith(":takes-too-long")
    assert "too many rows" in answer.json()["detail"]
    assert time.monotonic() - started_at < 4


def test_dry_run_stops_counting(
    client: APIClient, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redeliveries, "COUNTED_AT_MOST", 0)
    Delivery.objects.update(status="FAILED")

    answer = client.post(
        "/api/v1/redeliveries", {"webhookId": world.ids["webhook"], "dryRun": True}, format="json"
    )

    assert answer.json()["matchedCount"] == 1
