"""The list of deliveries shows what was asked for, and nothing where that is not possible."""

from typing import Any

import pytest
from django.test import Client

from tests.webhooks.portal.conftest import Things
from webhooks.portal import deliveries

WRONG = [
    ("webhook", "whk_00000000000000000000000000000000"),
    ("webhook", "x"),
    ("status", "NOPE"),
    ("type", "no.such"),
    ("response", "9xx"),
    ("since", "yesterday"),
    ("until", "x"),
    ("until", "9999-12-31T23:59:59-20:00"),
    ("since", "0001-01-01T00:00:00+20:00"),
    ("since", "1971-01-01T00:00:00+20:00"),
    ("object", "x" * 101),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_value_that_is_refused_does_not_show_everything(
    owner_client: Client, things: Things, name: str, value: str
) -> None:
    assert things.delivery.public_id in owner_client.get("/portal/deliveries/").content.decode()

    answer = owner_client.get("/portal/deliveries/", {name: value})

    assert answer.status_code == 422
    assert things.delivery.public_id not in answer.content.decode()


def test_webhook_that_goes_meanwhile_does_not_show_everything(
    owner_client: Client, things: Things, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = deliveries.choices_of

    def choices_of(visit: Any) -> list[tuple[str, str]]:
        choices = real(visit)
        visit.webhooks().update(deleted_at="2026-11-28T00:00Z")
        return choices

    monkeypatch.setattr(deliveries, "choices_of", choices_of)

    answer = owner_client.get("/portal/deliveries/", {"webhook": things.webhook.public_id})

    assert answer.status_code == 404


def test_recovery_takes_a_time_of_any_zone(owner_client: Client, things: Things) -> None:
    path = f"/portal/webhook/{things.webhook.public_id}/recover/"

    answer = owner_client.get(path, {"kind": "failed", "since": "2026-01-01T00:00:00+20:00"})

    assert answer.status_code == 200
    assert "1 would be sent" in answer.content.decode()
